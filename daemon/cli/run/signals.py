"""How a command that runs in the foreground is told to stop."""

import signal


def terminate_like_interrupt() -> None:
    """SIGTERM ends a command as Ctrl-C does: cleanly."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
