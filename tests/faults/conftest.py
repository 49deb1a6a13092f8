"""Worlds on fakes whose faults are real: processes, files, file systems, a broker."""

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon.conftest import database_url, make_world, world, world_at

__all__ = ["database_url", "disk_of", "make_world", "world", "world_at"]


class Disk:
    """A file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.folder)], check=True)

    @contextmanager
    def full(self):
        """Not one byte is left inside."""
        ballast = self.folder / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue
        try:
            yield
        finally:
            ballast.unlink()


@pytest.fixture
def disk_of():
    """A function (folder, KiB) that mounts a small disk at a new folder."""
    mounted = []

    def mount(folder: Path, kib: int = 4096) -> Disk:
        if os.geteuid() != 0:
            pytest.skip("mounting a file system needs root")
        folder.mkdir(parents=True)
        argv = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return Disk(folder)

    yield mount
    for folder in mounted:
        # Lazily: a connection that a failed test left open must not keep the mount.
        subprocess.run(["umount", "-l", str(folder)], check=True)
