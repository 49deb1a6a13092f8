"""`factd up`: starts every process of one host, keeps them running, and stops them together."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.core.settings import Settings, load_settings
from daemon.supervise.embedded import (
    EmbeddedValkey,
    ManagedProcess,
    ProcessError,
    VllmOptions,
    answers,
    free_port,
    vllm_command,
    vllm_process,
)
from daemon.supervise.running import (
    Running,
    Tokens,
    announce,
    ensure_tokens,
    find_running,
    run_dir,
    withdraw,
    write_private,
)

#: vLLM needs some 40 s on two idle cores, several times that beside the installation of a model
VLLM_READY_SECONDS = 300.0
#: the apply worker prepares the model first when that was not done: minutes on two cores
WORKER_READY_SECONDS = 1800.0
#: How the model server and the editor share this host.
CORES = os.cpu_count() or 1
SERVER_CORES = max(1, CORES // 2)
DOORBELL_EVERY_SECONDS = 5.0
WATCH_EVERY_SECONDS = 1.0
#: A child that dies at once is started again after this pause, doubled each time up to a minute.
RESTART_SECONDS, RESTART_MAX_SECONDS = 1.0, 60.0

Progress = Callable[[str], None]


class Up:
    """All services of one state directory. `start`, then `wait_until_ready`; `stop` is safe at any time."""

    def __init__(self, settings: Settings, progress: Progress = lambda text: None) -> None:
        self.settings, self.progress = settings, progress
        self.state_dir = settings.state_dir
        self.seconds: dict[str, float] = {}
        self.restarts: dict[str, int] = {}
        self.running: Running | None = None
        self._valkey: EmbeddedValkey | None = None
        self._children: dict[str, ManagedProcess] = {}
        self._retry_at: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

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
        self.state_dir.mkdir(parents=True, exist_ok=True)
        self.tokens = self._tokens()
        checkpoint = self._unpack()
        redis_url = self._start_broker()
        self.running = self._addresses(redis_url)
        announce(self.state_dir, self.running)
        self.environment = self._environment(self.running)
        self._start_vllm(checkpoint)
        self._child("intake", self._worker("corrections", "intake"))
        self._child("api", [sys.executable, "-m", "daemon", "api"])
        # Measures what is not known yet of the unedited model before it answers.
        self._child("apply", self._worker("apply", "apply"))
        return self.running

    def _tokens(self) -> Tokens:
        submit, admin = self.settings.submit_token, self.settings.admin_token
        return ensure_tokens(
            self.state_dir,
            submit.get_secret_value() if submit else None,
            admin.get_secret_value() if admin else None,
        )

    def _unpack(self) -> Path:
        # In a process of its own: the supervisor stays small, without torch.
        self.progress("unpacking the model")
        code = (
            "import sys; from pathlib import Path; from editing.model.checkpoint import checkpoint_path\n"
            "print(checkpoint_path(sys.argv[1], Path(sys.argv[2])))"
        )
        argv = [sys.executable, "-c", code, self.settings.model, str(self.settings.statistics)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ProcessError(
                f"the model {self.settings.model} cannot be used: {done.stderr.strip()[-800:]}"
            )
        return Path(done.stdout.strip().splitlines()[-1])

    def _start_broker(self) -> str:
        if "redis_url" in self.settings.model_fields_set:
            return self.settings.redis_url
        self.progress("starting Valkey")
        self._valkey = EmbeddedValkey(self.state_dir / "valkey", password=self._broker_password())
        self._valkey.start()
        return self._valkey.url

    def _broker_password(self) -> str:
        # Derived from the admin token, so that it survives a restart of the supervisor.
        import hashlib

        return hashlib.sha256(f"valkey:{self.tokens.admin}".encode()).hexdigest()[:32]

    def _addresses(self, redis_url: str) -> Running:
        api_port = self._port("api_port")
        vllm_port = self._port("serving_port")
        return Running(
            pid=os.getpid(),
            model=self.settings.model,
            name=self.settings.name,
            redis_url=redis_url,
            database_url=self.settings.ledger_url,
            api_url=f"http://{self.settings.api_host}:{api_port}",
            vllm_url=f"http://127.0.0.1:{vllm_port}",
            tokens_file=str(run_dir(self.state_dir) / "tokens.json"),
            served_model=self.settings.served_model_name or Path(self.settings.model).name,
        )

    def _port(self, name: str) -> int:
        # A port that was asked for is used or fails; a default that is taken gives way.
        wanted = getattr(self.settings, name)
        if name in self.settings.model_fields_set and wanted:
            return wanted
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError:
                return free_port()
        return wanted or free_port()

    def _environment(self, running: Running) -> dict[str, str]:
        replicas = ",".join((running.vllm_url, *self.settings.replicas))
        own = {
            "FACTD_STATE_DIR": str(self.state_dir),
            "FACTD_NAME": self.settings.name,
            "FACTD_STATISTICS_DIR": str(self.settings.statistics),
            "FACTD_MODEL": running.model,
            "FACTD_REDIS_URL": running.redis_url,
            "FACTD_DATABASE_URL": running.database_url,
            "FACTD_REPLICAS": replicas,
            "FACTD_ADMIN_TOKEN": self.tokens.admin,
            "FACTD_SUBMIT_TOKEN": self.tokens.submit,
            "FACTD_SERVED_MODEL_NAME": running.served_model,
            "FACTD_API_PORT": running.api_url.rsplit(":", 1)[1],
            "FACTD_SERVING_PORT": running.vllm_url.rsplit(":", 1)[1],
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
            # No more threads than cores between the editor and the server: with one core too few, two
            # threads that wait for each other are slower than one (docs/experiments.md).
            "OMP_NUM_THREADS": str(max(1, CORES - SERVER_CORES)),
            # glibc gives large freed blocks back at once and faults them in again at every step of the
            # value optimisation: a quarter of its time.
            "MALLOC_TRIM_THRESHOLD_": str(2 << 30),
            "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        }
        return {**os.environ, **own}

    def _worker(self, queue: str, name: str) -> list[str]:
        return [sys.executable, "-m", "daemon", "worker", "--queue", queue, "--name", name]

    def _log(self, name: str) -> Path:
        return self.state_dir / "logs" / f"{name}.log"

    def _child(self, name: str, argv: list[str]) -> None:
        child = ManagedProcess(name, argv, log=self._log(name), env=self.environment)
        child.start()
        self._children[name] = child

    def _start_vllm(self, checkpoint: Path) -> None:
        assert self.running is not None
        self.progress("starting vLLM")
        port = int(self.running.vllm_url.rsplit(":", 1)[1])
        self.settings.store_dir.mkdir(parents=True, exist_ok=True)
        options = VllmOptions(
            store=self.settings.store_dir,
            admin_token=self.tokens.admin,
            served_name=self.running.served_model,
            threads=SERVER_CORES,
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
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._watcher.start()
        if ready_file is not None:
            write_private(ready_file, self.describe())

    def _wait_for_workers(self, started: float) -> None:
        from daemon.intake.posting import answering, producer

        assert self.running is not None
        app, names = producer(self.running.redis_url, self.settings.names), self.settings.names
        deadline = time.monotonic() + WORKER_READY_SECONDS
        missing = {names.worker("intake"), names.worker("apply")}
        # The server is ready when the apply worker has brought it to the live version.
        urls = (f"{self.running.api_url}/healthz", f"{self.running.vllm_url}/plugins/factd/ready")
        while missing or not all(map(answers, urls)):
            for name in ("intake", "apply", "api", "vllm"):
                if not self._children[name].running():
                    self._children[name].wait_until_ready(0)  # raises, with the end of the log
            if time.monotonic() > deadline:
                raise ProcessError(
                    f"no answer from {sorted(missing) or ' or '.join(urls)}; see {self.state_dir / 'logs'}"
                )
            found = answering(app, sorted(missing)) if missing else set()
            if names.worker("apply") in found:
                self.seconds["init"] = time.monotonic() - started
            missing -= found
            time.sleep(0.1)

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

    # -- watch ----------------------------------------------------------------------------------

    def _watch(self) -> None:
        from daemon.intake.posting import producer, ring

        assert self.running is not None
        app, next_ring = producer(self.running.redis_url, self.settings.names), 0.0
        while not self._stopping.wait(WATCH_EVERY_SECONDS):
            try:
                self._restart_the_dead()
                if time.monotonic() >= next_ring:
                    next_ring = time.monotonic() + DOORBELL_EVERY_SECONDS
                    ring(app)
            except Exception as error:  # a supervisor that ended would restart nobody; it looks again
                with contextlib.suppress(OSError):  # where stdout is a file on a full disk
                    self.progress(f"supervisor: {error!r}")

    def _restart_the_dead(self) -> None:
        if self._valkey is not None and not self._valkey.running():
            self.progress("Valkey ended; starting it again")
            self._start_again("Valkey", self._valkey.start)
        for name, child in self._children.items():
            if child.running() or time.monotonic() < self._retry_at.get(name, 0.0):
                continue
            if self._stopping.is_set():
                return
            self.restarts[name] = self.restarts.get(name, 0) + 1
            # One that ran well for a while after its last start begins with the short pause again.
            well = time.monotonic() - self._retry_at.get(name, 0.0) > RESTART_MAX_SECONDS
            last = 0.0 if well else self._pauses.get(name, 0.0)
            self._pauses[name] = min(RESTART_MAX_SECONDS, max(RESTART_SECONDS, last) * 2)
            self._retry_at[name] = time.monotonic() + self._pauses[name]
            self.progress(f"{name} ended with status {child.returncode}; starting it again (see {child.log})")
            child.stop()
            self._start_again(name, child.start)

    def _start_again(self, name: str, start: Callable[[], None]) -> None:
        try:
            start()
        except (ProcessError, OSError) as error:  # a full disk, say: the others must not suffer for it
            self.progress(f"{name} cannot be started: {error}")

    # -- stop -----------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stops everything; workers first, so that nobody asks for what is gone."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join(30)
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


def settings_for(state: Path | None = None, **overrides: Any) -> Settings:
    """Settings of a command: options, then FACTD_*, then what a running `factd up` has announced."""
    chosen = {name: value for name, value in overrides.items() if value is not None}
    if state is not None:
        chosen["state_dir"] = state
    settings = load_settings(**chosen)
    running = find_running(settings.state_dir)
    if running is None:
        return settings
    tokens = ensure_tokens(settings.state_dir)
    found = {
        "redis_url": running.redis_url,
        "database_url": running.database_url,
        "replicas": (running.vllm_url,),
        "admin_token": tokens.admin,
        "submit_token": tokens.submit,
        "served_model_name": running.served_model,
        "model": running.model,
        "name": running.name,
    }
    return load_settings(
        **{**{k: v for k, v in found.items() if k not in settings.model_fields_set}, **chosen}
    )
