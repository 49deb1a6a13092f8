"""The servers that get every version, as the settings name them."""

from daemon.publish_checkpoint import Answer, CheckpointDirectory
from daemon.publish_lora import LoraReplica
from daemon.serving import ServingClient, VllmReplica
from daemon.settings import Settings
from daemon.store import Store


def open_replicas(settings: Settings, answer: Answer | None = None) -> list[ServingClient]:
    """Connects to none of them yet.

    Args:
        answer: for FACTD_PUBLISH=checkpoint, where no server can be asked.
    """
    key = settings.serving_api_key.get_secret_value() if settings.serving_api_key else None
    directory, store = settings.published, Store(settings.store_dir)
    if settings.publish == "checkpoint":

        def base():
            from editing.model import outlined_model

            return outlined_model(settings.model, settings.statistics)

        return [CheckpointDirectory(directory, store, base, answer)]
    if settings.publish == "lora":
        return [LoraReplica(url, directory, store, key) for url in settings.replicas]
    token = settings.admin_token.get_secret_value() if settings.admin_token else ""
    return [VllmReplica(url, token, key) for url in settings.replicas]
