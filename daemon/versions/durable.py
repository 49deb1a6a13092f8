"""Files and directories that must outlive a power cut."""

import os
from pathlib import Path


def write_synced(path: Path, content: bytes) -> None:
    """Writes a file and forces it to disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Forces a file that others have written to disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Forces a directory's entries to disk: after a rename in it, say."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
