"""The fence of a directory: servers that know no fences are protected by what their writers share."""

import fcntl
import os
from pathlib import Path

from daemon.serving import ServingError


class FenceFile:
    """The highest fence that was admitted, in a file; writers on one disk see each other's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def value(self) -> int:
        try:
            return int(self.path.read_text() or 0)
        except FileNotFoundError:
            return 0

    def admit(self, fence: int) -> None:
        """Raises ServingError when a newer writer was here."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            known = int(file.read() or 0)
            if fence < known:
                what = f"fence {fence} is older than {known}: another writer took over"
                raise ServingError(what, retryable=False, code="stale_fence")
            if fence > known:
                # Of fixed width, so that nothing of the old number is left behind the new one.
                file.seek(0)
                file.write(f"{fence:020d}")
                file.flush()
                os.fsync(file.fileno())
