"""vLLM servers, one after another, that share one import of vLLM (`benchmarks.families.nursery`)."""

import json
import socket
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from daemon.supervise.processes import ManagedProcess, ProcessError, answers, free_port, log_tail
from daemon.supervise.vllm import VllmOptions, vllm_command

#: What the API server and the engine import while they start.
PRELOADED = (
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.transformers",
    "daemon.plugin.worker",
)
#: Of the import, and of one server's start: many times what each takes on two cores shared with other work.
IMPORT_SECONDS, READY_SECONDS = 300.0, 300.0
POLL_SECONDS = 0.1


class Servers:
    """Starts servers one at a time; a context manager, whose end ends what still runs.

    Args:
        options: of the servers; what they import depends on their environment.
        log: of the process that is forked.
        environment: what all of them get besides.
    """

    def __init__(self, options: VllmOptions, log: Path, environment: Mapping[str, str] | None = None) -> None:
        ours, theirs = socket.socketpair()
        self._environment = dict(environment or {})
        _, env = vllm_command(Path("."), 0, options)
        env |= self._environment
        argv = [sys.executable, "-m", "benchmarks.families.nursery", str(theirs.fileno()), *PRELOADED]
        fds = (theirs.fileno(),)
        self._process = ManagedProcess("nursery", argv, log=log, env=env, pass_fds=fds)
        self._ours, self._theirs = ours, theirs

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()  # so that the end of that process is the end of the line
        self._told = self._ours.makefile("r")
        self._ours.settimeout(IMPORT_SECONDS)
        self._answer()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ours.close()
        self._process.stop()

    @contextmanager
    def serving(
        self,
        model: Path,
        options: VllmOptions,
        log: Path,
        environment: Mapping[str, str] | None = None,
        left_out: Sequence[str] = (),
    ) -> Generator[str]:
        """A server of a checkpoint; yields its address once it answers.

        Args:
            environment: what this one gets besides.
            left_out: arguments that it is not given.

        Raises:
            ProcessError: it ended, or did not answer in time; quotes its log.
        """
        port = free_port()
        argv, env = vllm_command(model, port, options)
        _, _, *command = argv  # python -m
        order = {
            "argv": [word for word in command if word not in left_out],
            "env": env | self._environment | dict(environment or {}),
            "log": str(log),
        }
        pid = self._ask(order)["pid"]
        try:
            _wait(f"http://127.0.0.1:{port}", int(pid), log)
            yield f"http://127.0.0.1:{port}"
        finally:
            self._ask({"stop": pid})

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        self._ours.sendall(json.dumps(order).encode() + b"\n")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._told.readline()
        if not line:
            log = self._process.log
            raise ProcessError(f"the process that imports vLLM ended; the end of {log}:\n{log_tail(log)}")
        return json.loads(line)


def _wait(url: str, pid: int, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not answers(f"{url}/health"):
        if _ended(pid) or time.monotonic() > deadline:
            why = "ended" if _ended(pid) else f"did not answer in {READY_SECONDS:.0f} s"
            raise ProcessError(f"the server {why}; the end of {log}:\n{log_tail(log)}")
        time.sleep(POLL_SECONDS)


def _ended(pid: int) -> bool:
    """Whether a process, no child of this one, has ended; its parent has not asked for its status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
