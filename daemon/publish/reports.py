"""The replicas as the HTTP API sees them: their names, health, and what they serve. No torch."""

from daemon.core.errors import SettingsError
from daemon.core.settings import Settings
from daemon.publish.live_link import LiveLink
from daemon.publish.lora_server import LoraServer
from daemon.publish.serving import Reports
from daemon.publish.vllm_replica import VllmReplica
from daemon.versions.manifests import Manifests

#: FACTD_CANARY that means whichever replica is the first of those that answer
FIRST = "first"
#: A replica that takes longer to say what it serves counts as silent, seconds.
REPORT_SECONDS = 5.0


def open_reports(settings: Settings) -> list[Reports]:
    """Connects to none of them yet.

    Raises:
        SettingsError: see `check_replicas`.
    """
    check_replicas(settings)
    # Whoever asks for the status waits for the slowest replica.
    soon = min(settings.answer_seconds, REPORT_SECONDS)
    settings = settings.model_copy(update={"answer_seconds": soon})
    if settings.publish == "checkpoint":
        return [LiveLink(settings.published)]
    if settings.publish == "lora":
        return [*lora_servers(settings, Manifests(settings.store_dir))]
    return [*plugin_replicas(settings)]


def lora_servers(settings: Settings, manifests: Manifests) -> list[LoraServer]:
    """Stock servers that the settings name."""
    key, seconds = _api_key(settings), settings.answer_seconds
    return [
        LoraServer(url, settings.published, manifests, key, answer_seconds=seconds)
        for url in settings.replicas
    ]


def plugin_replicas(settings: Settings) -> list[VllmReplica]:
    """Servers with the plugin that the settings name."""
    token = settings.admin_token.get_secret_value() if settings.admin_token else ""
    return [
        VllmReplica(
            url,
            token,
            _api_key(settings),
            in_flight=settings.in_flight,
            in_flight_seconds=settings.in_flight_seconds,
            publish_seconds=settings.publish_seconds,
            answer_seconds=settings.answer_seconds,
        )
        for url in settings.replicas
    ]


def _api_key(settings: Settings) -> str | None:
    return settings.serving_api_key.get_secret_value() if settings.serving_api_key else None


def check_replicas(settings: Settings) -> None:
    """Raises SettingsError when the canary is no replica, or the mode has no use for a policy."""
    if settings.in_flight in ("wait", "abort") and settings.publish != "plugin":
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
