"""Child processes that cannot outlive this one."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

REAPER = Path(__file__).with_name("reaper.py")
TAIL_LINES = 25


class ProcessError(Exception):
    """Raised when a child process cannot be started or does not get ready; quotes the end of its log."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url: str) -> bool:
    """Whether a GET is answered with 200 within two seconds. No proxy: the server is on this host."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def log_tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log file; empty if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 64 * 1024))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


class ManagedProcess:
    """A child in a process group of its own, with a log file, that cannot outlive this process.

    A small process, the reaper, starts the command and watches a pipe from here. So even `kill -9` of this
    process ends the command and all its descendants.

    Attributes:
        name: for messages.
        log: file that stdout and stderr are appended to.
        grace: seconds between SIGTERM and SIGKILL.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready: Callable[[], bool] | None = None,
        grace: float = 15.0,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name, self.argv, self.log, self.env, self.cwd = name, list(argv), log, env, cwd
        self.grace, self._ready, self._pass_fds = grace, ready, tuple(pass_fds)
        self._reaper: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None

    @property
    def pid(self) -> int | None:
        """Pid of the reaper, which is also the process group; None when not started."""
        return self._reaper.pid if self._reaper else None

    @property
    def returncode(self) -> int | None:
        return self._reaper.poll() if self._reaper else None

    def running(self) -> bool:
        return self._reaper is not None and self._reaper.poll() is None

    def start(self) -> None:
        """Starts the command.

        Raises:
            ProcessError: it is running already.
        """
        if self.running():
            raise ProcessError(f"{self.name} is running already")
        self._release()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        read_end, self._pipe = os.pipe()
        command = [sys.executable, "-I", "-S", str(REAPER), str(read_end), str(self.grace), *self.argv]
        try:
            with open(self.log, "ab") as log:
                self._reaper = self._spawn(command, read_end, log)
        finally:
            os.close(read_end)

    def _spawn(self, command: list[str], read_end: int, log: IO[bytes]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(self.env) if self.env is not None else None,
            cwd=self.cwd,
            start_new_session=True,
            pass_fds=(read_end, *self._pass_fds),
        )

    def wait_until_ready(self, timeout: float, tick: Callable[[float], None] | None = None) -> float:
        """Waits until the `ready` callable returns true; `tick` gets the seconds waited.

        Returns:
            Seconds waited.

        Raises:
            ProcessError: the process ended, or the deadline passed.
        """
        started = time.monotonic()
        while True:
            waited = time.monotonic() - started
            if not self.running():
                raise self._error(f"{self.name} ended with status {self.returncode} before it was ready")
            if self._ready is None or self._ready():
                return waited
            if waited > timeout:
                raise self._error(f"{self.name} was not ready after {timeout:.0f} s")
            if tick:
                tick(waited)
            time.sleep(0.2)

    def _error(self, message: str) -> ProcessError:
        return ProcessError(f"{message}; the end of {self.log}:\n{log_tail(self.log)}")

    def stop(self) -> None:
        """Ends the process: SIGTERM, then SIGKILL after the grace time, then the rest of the group."""
        reaper = self._reaper
        if reaper is None:
            return
        if reaper.poll() is None:
            reaper.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                reaper.wait(self.grace + 8)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(reaper.pid, signal.SIGKILL)
        reaper.wait()
        self._release()

    def _release(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def __enter__(self) -> "ManagedProcess":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
