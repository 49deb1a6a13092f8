"""Versions for any server: whole checkpoints in a directory, and `current`, a link to the live one.

The link is replaced in one step; the server decides when it reads it again. Two checkpoints are kept, so that
the one that a server is reading does not vanish.
"""

import os
import shutil
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from daemon.core.errors import ExportError, StoreError
from daemon.publish.live_link import CURRENT, LiveLink
from daemon.publish.serving import PublishResult, Served, ServingError
from daemon.versions.durable import sync_directory
from daemon.versions.export import export
from daemon.versions.format import is_version
from daemon.versions.store import Store
from editing.errors import EditError
from editing.model.loaded import LoadedModel

#: (prompts or chat messages, tokens at most) → answers
Answer = Callable[[Sequence[str], int], list[str]]


class CheckpointDirectory:
    """A directory in the place of a server. It serves; nobody can ask it to score.

    Args:
        directory: holds one directory a version, and the link.
        store: where versions come from.
        base: opens the outline of the base model; called at the first export.
        answer: what the version that was published last says. A directory cannot be asked, so the applier
            gives its own model. None where no answers are needed.
        chat: the same to chat messages.
    """

    def __init__(
        self,
        directory: Path,
        store: Store,
        base: Callable[[], LoadedModel],
        answer: Answer | None = None,
        chat: Answer | None = None,
    ) -> None:
        self.directory, self.store = directory, store
        self._answer, self._chat = answer, chat
        self.link = LiveLink(directory)
        self.name = self.link.name
        self._open_base, self._base = base, None

    def stage(self, version: str, fence: int) -> None:
        """Exports the version beside the live one, unless it lies there already."""
        with _as_serving_errors(self.name), self.link.fence.admitted(fence):
            path = self.directory / version
            if self.link.weights_of(version) == self.store.weight_sha256(version):
                return
            # A version of the same name that was never recorded in the ledger was replaced in the store.
            shutil.rmtree(path, ignore_errors=True)
            if self._base is None:
                self._base = self._open_base()
            export(self._base, self.store, version, path)

    def publish(self, version: str, fence: int) -> PublishResult:
        started = time.perf_counter()
        self.stage(version, fence)
        before = self.link.version
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
            if path.name.startswith(".v") or (is_version(path.name) and path.name not in keep):
                shutil.rmtree(path)

    def served(self) -> Served:
        return self.link.served()

    def complete(self, prompts: Sequence[str], max_tokens: int = 12) -> list[str]:
        return self._told(self._answer, prompts, max_tokens)

    def chat(self, messages: Sequence[str], max_tokens: int = 12) -> list[str]:
        return self._told(self._chat, messages, max_tokens)

    def _told(self, answer: Answer | None, texts: Sequence[str], max_tokens: int) -> list[str]:
        if answer is None:
            what = f"{self.name} answers no prompts; ask the server that reads the folder"
            raise ServingError(what, retryable=False, code="protocol")
        return answer(texts, max_tokens)

    def healthy(self) -> bool:
        """Whether the live checkpoint is there, or nothing was published yet."""
        return self.link.healthy()

    def close(self) -> None:
        pass


@contextmanager
def _as_serving_errors(name: str) -> Generator[None]:
    try:
        yield
    except (StoreError, ExportError, EditError) as error:
        raise ServingError(f"{name}: {error}", retryable=False, code="refused") from error
    except OSError as error:
        what = f"{name} cannot be written: {error}; make room, or mend FACTD_PUBLISH_DIR"
        raise ServingError(what, retryable=True, code="unreachable") from error
