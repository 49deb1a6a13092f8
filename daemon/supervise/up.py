"""`factd up`: starts every process of one host, keeps them running, and stops them together."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daemon.core.ruling import why_compacts
from daemon.core.settings import Settings
from daemon.intake.doorbell import Doorbell
from daemon.intake.posting import answering, producer
from daemon.ledger.ledger import Ledger
from daemon.supervise.embedded import EmbeddedValkey
from daemon.supervise.environment import SERVER_CORES, addresses, broker_password, environment
from daemon.supervise.processes import ManagedProcess, ProcessError, answers
from daemon.supervise.running import (
    Running,
    Tokens,
    announce,
    ensure_tokens,
    find_running,
    withdraw,
    write_private,
)
from daemon.supervise.vllm import VllmOptions, refused, serving_key, vllm_command, vllm_process
from daemon.supervise.watching import Say, Watcher
from daemon.versions.keys import accepted_keys, writers_key

#: vLLM needs some 40 s on two idle cores, several times that while a model is prepared beside it.
VLLM_READY_SECONDS = 300.0
#: The apply worker prepares a model that was not prepared before: minutes on two cores.
WORKER_READY_SECONDS = 1800.0
#: Between two questions whether the workers answer.
POLL_SECONDS = 0.1


class Up:
    """All services of one state directory. `start`, then `wait_until_ready`; `stop` is safe at any time.

    Args:
        vllm_arguments: vLLM's own; they win over factd's.
    """

    def __init__(
        self, settings: Settings, progress: Say = lambda text: None, vllm_arguments: Sequence[str] = ()
    ) -> None:
        self.settings, self.progress = settings, progress
        self.vllm_arguments = tuple(vllm_arguments)
        self.state_dir = settings.state_dir
        self.seconds: dict[str, float] = {}
        self.running: Running | None = None
        self._valkey: EmbeddedValkey | None = None
        self._children: dict[str, ManagedProcess] = {}
        self._watcher: Watcher | None = None

    # -- start ----------------------------------------------------------------------------------

    def start(self) -> Running:
        """Starts all processes and returns their addresses; they do not answer yet.

        Raises:
            ProcessError: another instance runs on the same state directory, or a service did not start.
        """
        other = find_running(self.state_dir)
        if other is not None and other.pid != os.getpid():
            raise ProcessError(
                f"factd runs on {self.state_dir} already (pid {other.pid}); stop it, or give another --state"
            )
        if self.settings.publish != "plugin":
            raise ProcessError(
                f"FACTD_PUBLISH = {self.settings.publish}: `factd up` needs the plugin; unset it, or "
                "run `factd worker` and `factd api` beside your own servers"
            )
        if (why := refused(self.vllm_arguments)) is not None:
            raise ProcessError(f"vLLM cannot be started so: {why}")
        if (why := why_compacts(self.settings)) is not None:
            self.progress(f"FACTD_GUARD_REWRITES = consolidate, but the guard compacts: {why}")
        self.state_dir.mkdir(parents=True, exist_ok=True)
        Ledger.of(self.settings).close()  # made here once; no process below may make another
        self.tokens = self._tokens()
        writers_key(self.settings)
        checkpoint, base_hash = self._unpack()
        redis_url = self._start_broker()
        self.running = addresses(self.settings, redis_url)
        announce(self.state_dir, self.running)
        self.environment = environment(self.settings, self.running, self.tokens)
        self._start_vllm(checkpoint, base_hash)
        self._child("intake", self._worker("corrections", "intake"))
        self._child("api", [sys.executable, "-m", "daemon", "api"])
        # Before it answers it measures on the unedited model what was not measured before.
        self._child("apply", self._worker("apply", "apply"))
        return self.running

    def _tokens(self) -> Tokens:
        submit, admin = self.settings.submit_token, self.settings.admin_token
        return ensure_tokens(
            self.state_dir,
            submit.get_secret_value() if submit else None,
            admin.get_secret_value() if admin else None,
        )

    def _unpack(self) -> tuple[Path, str]:
        """The directory of the unedited checkpoint, and its hash."""
        # In a process of its own, so that the supervisor does not load torch.
        self.progress("unpacking the model")
        code = (
            "import sys; from pathlib import Path\n"
            "from editing.errors import ModelError\n"
            "from editing.model.checkpoint import checkpoint_hash, editable_checkpoint\n"
            "try: path = editable_checkpoint(sys.argv[1], Path(sys.argv[2]))\n"
            "except ModelError as error: sys.exit(str(error))\n"
            "print(path); print(checkpoint_hash(path))"
        )
        argv = [sys.executable, "-c", code, self.settings.model, str(self.settings.statistics)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ProcessError(
                f"the model {self.settings.model} cannot be used: {done.stderr.strip()[-800:]}"
            )
        path, base_hash = done.stdout.strip().splitlines()[-2:]
        return Path(path), base_hash

    def _start_broker(self) -> str:
        if "redis_url" in self.settings.model_fields_set:
            return self.settings.redis_url
        self.progress("starting Valkey")
        self._valkey = EmbeddedValkey(self.state_dir / "valkey", password=broker_password(self.tokens))
        self._valkey.start()
        return self._valkey.url

    def _worker(self, queue: str, name: str) -> list[str]:
        return [sys.executable, "-m", "daemon", "worker", "--queue", queue, "--name", name]

    def _log(self, name: str) -> Path:
        return self.state_dir / "logs" / f"{name}.log"

    def _child(self, name: str, argv: list[str]) -> None:
        child = ManagedProcess(name, argv, log=self._log(name), env=self.environment)
        child.start()
        self._children[name] = child

    def _start_vllm(self, checkpoint: Path, base_hash: str) -> None:
        assert self.running is not None
        self.progress("starting vLLM")
        port = int(self.running.vllm_url.rsplit(":", 1)[1])
        self.settings.store_dir.mkdir(parents=True, exist_ok=True)
        options = VllmOptions(
            store=self.settings.store_dir,
            admin_token=self.tokens.admin,
            served_name=self.running.served_model,
            api_key=serving_key(self.settings),
            base_hash=base_hash,
            version_keys=accepted_keys(self.settings),
            threads=SERVER_CORES,
            extra=self.vllm_arguments,
        )
        argv, env = vllm_command(checkpoint, port, options)
        child = vllm_process(argv, env, port=port, log=self._log("vllm"))
        child.start()
        self._children["vllm"] = child

    # -- ready ----------------------------------------------------------------------------------

    def wait_until_ready(self, ready_file: Path | None = None) -> None:
        """Waits until every process answers; then watches them.

        Raises:
            ProcessError: one ended or took too long; quotes its log.
        """
        started = time.monotonic()
        self.progress("waiting for vLLM")
        self._children["vllm"].wait_until_ready(VLLM_READY_SECONDS)
        self.seconds["vllm"] = time.monotonic() - started
        self.progress(f"waiting for the apply worker, which prepares the model once ({self._log('apply')})")
        self._wait_for_workers(started)
        self.seconds["ready"] = time.monotonic() - started
        self._watch()
        if ready_file is not None:
            write_private(ready_file, self.describe())

    def _watch(self) -> None:
        assert self.running is not None
        doorbell = Doorbell.of(self.running.redis_url, self.settings.names, self.progress)
        self._watcher = Watcher(self._children, self._valkey, doorbell, self.progress)
        self._watcher.start()

    def _wait_for_workers(self, started: float) -> None:
        assert self.running is not None
        app, names = producer(self.running.redis_url, self.settings.names), self.settings.names
        deadline = time.monotonic() + WORKER_READY_SECONDS
        missing = {names.worker("intake"), names.worker("apply")}
        # The server is ready when the apply worker has brought it to the live version.
        urls = (f"{self.running.api_url}/healthz", f"{self.running.vllm_url}/plugins/factd/ready")
        while missing or not all(map(answers, urls)):
            self._check_children()
            if time.monotonic() > deadline:
                what = sorted(missing) or " or ".join(urls)
                raise ProcessError(f"no answer from {what}; see {self.state_dir / 'logs'}")
            found = answering(app, sorted(missing)) if missing else set[str]()
            if names.worker("apply") in found:
                self.seconds["init"] = time.monotonic() - started
            missing -= found
            time.sleep(POLL_SECONDS)

    def _check_children(self) -> None:
        """Raises ProcessError, with the end of its log, when a process has ended."""
        for name in ("intake", "apply", "api", "vllm"):
            if not self._children[name].running():
                self._children[name].wait_until_ready(0)

    def describe(self) -> dict[str, Any]:
        """What --ready-file holds."""
        assert self.running is not None
        return {
            "api_url": self.running.api_url,
            "vllm_url": self.running.vllm_url,
            "redis_url": self.running.redis_url,
            "database_url": self.running.database_url,
            "served_model": self.running.served_model,
            "state_dir": str(self.state_dir),
            "tokens_file": self.running.tokens_file,
            "pid": self.running.pid,
            "pids": {name: child.pid for name, child in self._children.items()},
            "seconds": self.seconds,
        }

    # -- stop -----------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stops everything: the broker last, because the workers need it until they have ended."""
        if self._watcher is not None:
            self._watcher.stop()
        children = [self._children[n] for n in ("api", "intake", "apply", "vllm") if n in self._children]
        threads = [threading.Thread(target=child.stop) for child in children]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._valkey is not None:
            self._valkey.stop()
        if self.running is not None:
            withdraw(self.state_dir)

    def __enter__(self) -> "Up":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
