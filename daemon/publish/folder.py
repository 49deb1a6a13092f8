"""Versions for any server: whole checkpoints in a directory, and `current`, a link to the live one.

The link is replaced in one step; when a server reads it anew is the server's affair. Two checkpoints are
kept, so that one that is being read does not vanish under its reader.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.core.errors import ExportError, StoreError
from daemon.publish.fencing import FenceFile
from daemon.publish.serving import PublishResult, Served, ServingError
from daemon.versions.export import ABOUT, export
from daemon.versions.durable import sync_directory
from daemon.versions.format import VERSION_PATTERN as VERSION
from daemon.versions.store import Store

if TYPE_CHECKING:
    from editing.model.loaded import LoadedModel

CURRENT = "current"
#: before the first publication nothing is there to be served, not even the base
NOTHING = "nothing"

#: (prompts, tokens at most) → answers
Answer = Callable[[Sequence[str], int], list[str]]


class CheckpointDirectory:
    """A ServingClient whose server is a directory.

    Args:
        directory: holds one directory a version, and the link.
        store: where versions come from.
        base: opens the outline of the base model; called at the first export.
        answer: what the version says that was published last, for nobody can be asked over a wire: the
            applier gives its own model. None where no answers are needed.
    """

    def __init__(
        self, directory: Path, store: Store, base: "Callable[[], LoadedModel]", answer: Answer | None = None
    ) -> None:
        self.directory, self.store, self.answer = directory, store, answer
        self.name = f"file://{directory}"
        self.fence = FenceFile(directory / "fence")
        self._open_base, self._base = base, None

    def stage(self, version: str, fence: int) -> None:
        """Exports the version beside the live one, unless it lies there already."""
        with _as_serving_errors(self.name), self.fence.admitted(fence):
            path = self.directory / version
            wanted = self.store.weight_sha256(version)
            if _weights_of(path) == wanted:
                return
            # A version of the same name that was never recorded in the ledger was replaced in the store.
            shutil.rmtree(path, ignore_errors=True)
            if self._base is None:
                self._base = self._open_base()
            export(self._base, self.store, version, path)

    def publish(self, version: str, fence: int) -> PublishResult:
        started = time.perf_counter()
        self.stage(version, fence)
        before = self._live()
        swap = time.perf_counter()
        with _as_serving_errors(self.name):
            fresh = self.directory / f".{CURRENT}"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(version)
            os.replace(fresh, self.directory / CURRENT)
            sync_directory(self.directory)
            self._clean({version, before})
        done = time.perf_counter()
        return PublishResult(version, done - started, 0.0, done - swap)

    def _clean(self, keep: set[str]) -> None:
        """Removes older checkpoints, and what an export that was killed has left."""
        for path in self.directory.iterdir():
            if path.name.startswith(".v") or (VERSION.fullmatch(path.name) and path.name not in keep):
                shutil.rmtree(path)

    def _live(self) -> str:
        link = self.directory / CURRENT
        return os.readlink(link) if link.is_symlink() else NOTHING

    def served(self) -> Served:
        version = self._live()
        weights = _weights_of(self.directory / version)
        return Served(NOTHING if weights is None else version, self.fence.value, weights or {})

    def complete(self, prompts: Sequence[str], max_tokens: int = 12) -> list[str]:
        if self.answer is None:
            raise ServingError(f"{self.name} answers no prompts", retryable=False, code="protocol")
        return self.answer(prompts, max_tokens)

    def log_probs(self, passages: Sequence[Sequence[int]]) -> list[list[float]]:
        raise ServingError(f"{self.name} computes nothing", retryable=False, code="protocol")

    def healthy(self) -> bool:
        """Whether the live checkpoint is there, or nothing was published yet."""
        return self._live() == NOTHING or _weights_of(self.directory / CURRENT) is not None

    def close(self) -> None:
        pass


def _weights_of(checkpoint: Path) -> Mapping[str, str] | None:
    """Hashes of the edited weights of an exported checkpoint; None where there is none."""
    try:
        return json.loads((checkpoint / ABOUT).read_bytes())["tensors"]
    except (OSError, ValueError, KeyError):
        return None


@contextmanager
def _as_serving_errors(name: str):
    from editing.errors import EditError

    try:
        yield
    except (StoreError, ExportError, EditError) as error:
        raise ServingError(f"{name}: {error}", retryable=False, code="refused") from error
    except OSError as error:
        what = f"{name} cannot be written: {error}; make room, or mend FACTD_PUBLISH_DIR"
        raise ServingError(what, retryable=True, code="unreachable") from error
