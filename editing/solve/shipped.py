"""Text and chats that a well-known model wrote once: they come with factd, so that nobody waits for them.

To add a model, prepare it with `factd init`, then
``python -m editing.solve.shipped <state>/installed/<base hash>-<dtype>`` from the repository.
"""

import sys
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from editing.typed import load_tensors, save_tensors

FOLDER = Path(str(resources.files("editing.solve")))


def _path(base_hash: str) -> Path:
    return FOLDER / f"sampled-{base_hash[:16]}.safetensors"


def shipped(base_hash: str, name: str, start: int, rows: int) -> Tensor | None:
    """Rows [rows, length] ids of the text called `name`; None: no such text is shipped, or not so much."""
    path = _path(base_hash)
    if not path.exists():
        return None
    text = load_tensors(path)[0][name][start : start + rows].long()
    return text if len(text) == rows else None


def keep(installed: Path) -> Path:
    """Writes the file that is shipped from the blocks in an installation's folder."""
    texts: dict[str, Tensor] = {}
    for name in ("sampled-text", "sampled-chat"):
        # The number of the block ends the name.
        blocks = sorted(installed.glob(f"{name}-*.safetensors"), key=lambda p: int(p.stem.split("-")[-1]))
        texts[name] = torch.cat([load_tensors(block)[0]["ids"] for block in blocks]).int()
    path = _path(installed.name)
    save_tensors(path, texts)
    return path


if __name__ == "__main__":
    print(keep(Path(sys.argv[1])))
