"""The old name of `daemon.plugin.worker`, for servers whose start command still gives it."""

from daemon.plugin.worker import WorkerExtension, endpoint, register

__all__ = ["WorkerExtension", "endpoint", "register"]
