"""The fence of a directory: it keeps older writers out where the server itself knows no fences."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from daemon.publish.serving import ServingError


class FenceFile:
    """The highest fence that was admitted, in a file that all writers of the directory see."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def value(self) -> int:
        try:
            return self._number(self.path.read_text())
        except FileNotFoundError:
            return 0

    @contextmanager
    def admitted(self, fence: int) -> Generator[None]:
        """Keeps the directory to one writer; the next one waits.

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
                # Of fixed width, so that the new number covers the old one.
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
