"""A process that imports a server once and is forked for each: `benchmarks.families.servers` runs it.

A small vLLM server spends most of its start importing torch and vLLM, twice over: in the API server and in
the engine. Here a server is a fork of a process that has imported both, and its engine a fork of that. All
else is as ever: command line, environment, processes, HTTP. (vLLM also looks at the class of a model in a new
process, when it meets a class for the first time. Here it looks at once.)

Orders come over a socket, a JSON object a line: {"argv", "env", "log"} starts a server and is answered with
{"pid"}; {"stop": pid} ends it and its descendants. Usage: python -m benchmarks.families.nursery FD MODULE…
"""

import contextlib
import importlib
import json
import multiprocessing.context as contexts
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

#: From SIGTERM to SIGKILL; a server with nothing to answer ends within two seconds.
GRACE_SECONDS = 10.0
POLL_SECONDS = 0.02
#: Where vLLM looks at the classes of models.
REGISTRY = "vllm.model_executor.models.registry"


def main(fd: int, modules: Sequence[str]) -> None:
    """Answers orders until the other end of the socket is closed."""
    for module in modules:
        importlib.import_module(module)
    with socket.socket(fileno=fd) as line, line.makefile("r") as orders:
        line.sendall(b'{"ready": true}\n')
        for order in map(json.loads, orders):
            line.sendall(json.dumps(_obey(order, line)).encode() + b"\n")


def _obey(order: dict[str, Any], line: socket.socket) -> dict[str, Any]:
    if "stop" in order:
        return {"status": _end(int(order["stop"]))}
    pid = os.fork()
    if pid == 0:
        line.close()
        _become(order)
    return {"pid": pid}


def _become(order: dict[str, Any]) -> None:
    """This process is the server from here on; never returns."""
    status = 1
    try:
        os.setsid()
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(order["env"])
        _import_nothing_anew()
        module, *sys.argv[1:] = order["argv"]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _import_nothing_anew() -> None:
    """Makes the processes that vLLM would start by a new import forks of this one."""
    started: Any = contexts
    # vLLM's processor build asks for "spawn", whatever its own setting says.
    started._concrete_contexts["spawn"] = started._concrete_contexts["fork"]
    registry: Any = importlib.import_module(REGISTRY)
    registry._run_in_subprocess = lambda look: look()


def _end(pid: int) -> int:
    """Ends a server and its process group; its exit status."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    found, status = os.waitpid(pid, os.WNOHANG)
    while not found and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        found, status = os.waitpid(pid, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status if found else os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
