"""The fence of a directory: servers that know no fences are protected by what their writers share."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon.publish.serving import ServingError


class FenceFile:
    """The highest fence that was admitted, in a file; writers on one disk see each other's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def value(self) -> int:
        try:
            return self._number(self.path.read_text())
        except FileNotFoundError:
            return 0

    @contextmanager
    def admitted(self, fence: int) -> Iterator[None]:
        """Keeps the directory to one writer; the next one, of another replica that shares it, waits.

        Raises:
            ServingError: a newer writer was here.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            known = self._number(file.read())
            if fence < known:
                what = f"fence {fence} is older than {known}: another writer took over"
                raise ServingError(what, retryable=False, code="stale_fence")
            if fence > known:
                # Of fixed width, so that nothing of the old number is left behind the new one.
                file.seek(0)
                file.write(f"{fence:020d}")
                file.flush()
                os.fsync(file.fileno())
            yield

    def _number(self, text: str) -> int:
        try:
            return int(text or 0)
        except ValueError:
            what = f"{self.path} holds no fence but {text[:40]!r}; remove it while no apply worker runs"
            raise ServingError(what, retryable=False, code="refused") from None
