"""Programs that a test needs and that pip cannot install."""

import glob
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Debian keeps PostgreSQL's server programs out of the path, a folder for each major version.
POSTGRESQL = os.pathsep.join(sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True))


def program(name: str, package: str = "prometheus") -> str:
    """Path of a program of a Debian package; a test without it is skipped, and fails under CI."""
    found = shutil.which(name, path=os.pathsep.join((os.environ["PATH"], "/usr/sbin", POSTGRESQL)))
    if found is None:
        reason = f"{name} is not installed (Debian: apt-get install {package})"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def running(argv: Sequence[str | Path], log: Path, **options) -> Iterator[subprocess.Popen]:
    """A program in the background, stopped at the end; what it says goes to the file `log`."""
    with log.open("w") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
