"""`current`, the link in a folder of checkpoints that leads to the live one: read here, without torch."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from daemon.publish.fencing import FenceFile
from daemon.publish.serving import Served
from daemon.versions.format import ABOUT_FILE

CURRENT = "current"
#: before the first publication nothing is there to be served, not even the base
NOTHING = "nothing"


class LiveLink:
    """What a folder of checkpoints says it serves.

    Args:
        directory: holds one checkpoint a version, and the link.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = f"file://{directory}"
        self.fence = FenceFile(directory / "fence")

    @property
    def version(self) -> str:
        """Where the link leads; `NOTHING` before the first publication."""
        link = self.directory / CURRENT
        return os.readlink(link) if link.is_symlink() else NOTHING

    def weights_of(self, version: str) -> Mapping[str, str] | None:
        """Hashes of the edited weights of an exported checkpoint; None where there is none."""
        try:
            return json.loads((self.directory / version / ABOUT_FILE).read_bytes())["tensors"]
        except (OSError, ValueError, KeyError):
            return None

    def served(self) -> Served:
        version = self.version
        weights = self.weights_of(version)
        return Served(NOTHING if weights is None else version, self.fence.value, weights or {})

    def healthy(self) -> bool:
        """Whether the live checkpoint is there, or nothing was published yet."""
        return self.version == NOTHING or self.weights_of(CURRENT) is not None
