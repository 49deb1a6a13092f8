"""Files that others may have written: read only if they are what they should be."""

import errno
import os
import stat
from pathlib import Path

from editing.errors import DeltaError

#: Some ten float32 weights of a 70B model; one full-rank pair of factors of such is about 1 GiB.
MAX_BYTES = 32 << 30
#: Lists of facts and of what was measured for each; far above any real manifest.
MAX_MANIFEST_BYTES = 64 << 20


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a plain file: no link is followed, no pipe waited for, nothing read that is too large.

    Raises:
        DeltaError: it is missing, something else, or has more than `limit` bytes.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            # Looked at once it is open, so that it cannot become something else in between.
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise DeltaError(f"{path.name} is not a regular file; restore it from a backup")
            if status.st_size > limit:
                raise DeltaError(f"{path.name} has more than {limit} bytes; restore it from a backup")
            with open(handle, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(handle)
    except OSError as error:
        why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise DeltaError(f"cannot read {path.name}: {why}; restore it from a backup") from error
