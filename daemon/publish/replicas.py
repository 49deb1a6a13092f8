"""The servers that get every version, as the settings name them."""

from typing import Any

from daemon.core.errors import SettingsError
from daemon.core.settings import Settings
from daemon.publish.canary import FIRST
from daemon.publish.folder import Answer, CheckpointDirectory
from daemon.publish.lora import LoraReplica
from daemon.publish.serving import ServingClient, VllmReplica
from daemon.versions.store import Store


def open_replicas(settings: Settings, answer: Answer | None = None) -> list[ServingClient]:
    """Connects to none of them yet.

    Args:
        answer: for FACTD_PUBLISH=checkpoint, where no server can be asked.

    Raises:
        SettingsError: the canary is none of them, or a policy is asked for that the mode has no use for.
    """
    _check(settings)
    key = settings.serving_api_key.get_secret_value() if settings.serving_api_key else None
    directory, store = settings.published, Store(settings.store_dir)
    if settings.publish == "checkpoint":

        def base():
            from editing.model.loaded import outlined_model

            return outlined_model(settings.model, settings.statistics)

        return [CheckpointDirectory(directory, store, base, answer)]
    if settings.publish == "lora":
        return [LoraReplica(url, directory, store, key) for url in settings.replicas]
    policy: dict[str, Any] = {
        "in_flight": settings.in_flight,
        "in_flight_seconds": settings.in_flight_seconds,
        "publish_seconds": settings.publish_seconds,
    }
    token = settings.admin_token.get_secret_value() if settings.admin_token else ""
    return [VllmReplica(url, token, key, **policy) for url in settings.replicas]


def _check(settings: Settings) -> None:
    if settings.in_flight != "keep" and settings.publish != "plugin":
        raise SettingsError(
            f"FACTD_IN_FLIGHT = {settings.in_flight!r}: FACTD_PUBLISH = {settings.publish!r} does not touch "
            "running requests; unset it"
        )
    if settings.canary is None:
        return
    if len(settings.replicas) < 2:
        raise SettingsError(
            f"FACTD_CANARY = {settings.canary!r}: there is nothing to promote to with "
            f"{len(settings.replicas)} of FACTD_REPLICAS; name two or more, or unset it"
        )
    if settings.canary not in (FIRST, *settings.replicas):
        raise SettingsError(
            f"FACTD_CANARY = {settings.canary!r}: is none of FACTD_REPLICAS; give {FIRST!r} or one of "
            f"{', '.join(settings.replicas)}"
        )
