"""A long piece of work whose values are kept part by part: one that was killed goes on where it was."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from editing.moments import replace_file
from editing.solve.second_moment import Progress
from editing.typed import load_tensors, save_tensors
from editing.values.search import Keep, Values


@dataclass(frozen=True)
class Work:
    """What a long piece of work is told beside what it works on.

    Attributes:
        folder: where its values are kept; None keeps nothing.
        progress: called with (stage, fraction done).
    """

    folder: Path | None = None
    progress: Progress = lambda _stage, _fraction: None

    def keep(self, about: Callable[[], str], device: str) -> Keep:
        """Args: about: all that the values follow from; with anything else they are found anew. Asked only
        where values are kept: it may hash all weights.
        """
        if self.folder is None:
            return lambda _part, find: find()
        name = hashlib.sha256(about().encode()).hexdigest()[:32]
        return functools.partial(_kept, self.folder / name, device)


def _kept(folder: Path, device: str, part: str, find: Callable[[], Values]) -> Values:
    path = folder / f"{part}.safetensors"
    if not path.exists():
        content = {name: x.cpu().contiguous() for name, x in vars(find()).items()}
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda p: save_tensors(p, content))
    return Values(**load_tensors(path, device)[0])
