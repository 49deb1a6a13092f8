"""Runs one command and ends it, with all its descendants, when the process that asked for it is gone.

Standard library only; started by path with ``python -I -S``. The asking process holds the write end of a
pipe. End of file on the pipe means that this process is gone, by whatever signal. PR_SET_PDEATHSIG alone is
not enough: it fires when the starting *thread* ends, and grandchildren (vLLM's engine) do not inherit it.

Usage: reaper.py PIPE_FD GRACE_SECONDS COMMAND [ARGUMENT]...
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLL_SECONDS = 0.1


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_reaper() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _descendants() -> list[int]:
    """Pids below this process, from /proc; orphans too, because the reaper is a subreaper."""
    parent_of: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    parent_of[int(entry)] = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [os.getpid()]
    for pid in found:
        found.extend(child for child, parent in parent_of.items() if parent == pid)
    return found[1:]


def _kill_descendants() -> None:
    deadline = time.monotonic() + 5
    while (pids := _descendants()) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.02)


def main(pipe: int, grace: float, command: list[str]) -> int:
    """Returns the command's exit status (128 + n after signal n)."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    stopping_since: list[float] = []

    def stop(signum: int = 0, frame: FrameType | None = None) -> None:
        if not stopping_since:
            stopping_since.append(time.monotonic())
            child.send_signal(signal.SIGTERM)

    # only the reaper may hold the read end: a copy in the child would keep the pipe open
    os.set_inheritable(pipe, False)
    child = subprocess.Popen(command, close_fds=False, preexec_fn=_die_with_reaper)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watched = [pipe]
    while child.poll() is None:
        readable, _, _ = select.select(watched, [], [], POLL_SECONDS)
        if readable and not os.read(pipe, 1):
            watched = []
            stop()
        if stopping_since and time.monotonic() - stopping_since[0] > grace:
            child.kill()
    _kill_descendants()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
