"""The servers that get every version, as the settings name them: the applier's side, with torch."""

from daemon.core.settings import Settings
from daemon.publish.folder import Answer, CheckpointDirectory
from daemon.publish.lora import LoraReplica
from daemon.publish.reports import check_replicas, lora_servers, plugin_replicas
from daemon.publish.serving import Serves
from daemon.versions.store import Store
from editing.model.loaded import outlined_model


def open_replicas(
    settings: Settings, answer: Answer | None = None, chat: Answer | None = None
) -> list[Serves]:
    """Connects to none of them yet.

    Args:
        answer: for FACTD_PUBLISH=checkpoint, where no server can be asked.
        chat: the same to chat messages.

    Raises:
        SettingsError: see `daemon.publish.reports.check_replicas`.
    """
    check_replicas(settings)
    store = Store(settings.store_dir)
    if settings.publish == "checkpoint":

        def base():
            return outlined_model(settings.model, settings.statistics)

        return [CheckpointDirectory(settings.published, store, base, answer, chat)]
    if settings.publish == "lora":
        return [LoraReplica(server, store) for server in lora_servers(settings, store)]
    return [*plugin_replicas(settings)]
