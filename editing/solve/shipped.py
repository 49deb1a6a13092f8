"""Text and chats that a well-known model wrote once: they come with factd, so that nobody waits for them.

To add a model, prepare it with `factd init`, then
``python -m editing.solve.shipped <state>/installed/<base hash>-<dtype>`` from the repository.
"""

import sys
from importlib import resources
from pathlib import Path

from torch import Tensor

from editing.typed import load_tensors, save_tensors

FOLDER = Path(str(resources.files("editing.solve")))


def _path(base_hash: str) -> Path:
    return FOLDER / f"sampled-{base_hash[:16]}.safetensors"


def shipped(base_hash: str, name: str, index: int, rows: int) -> Tensor | None:
    """Rows [rows, length] ids of a block of the text called `name`; None: it is not shipped, or shorter."""
    path = _path(base_hash)
    if not path.exists():
        return None
    block = load_tensors(path)[0].get(f"{name}-{index}")
    return None if block is None or len(block) < rows else block[:rows].long()


def keep(installed: Path) -> Path:
    """Writes the file that is shipped from the blocks in an installation's folder."""
    blocks: dict[str, Tensor] = {}
    for file in sorted(installed.glob("sampled-*.safetensors")):
        # sampled-text-15360-0: the name, how many tokens all blocks have, and the block's number.
        name, _, index = file.stem.rsplit("-", 2)
        blocks[f"{name}-{index}"] = load_tensors(file)[0]["ids"].int()
    path = _path(installed.name)
    save_tensors(path, blocks)
    return path


if __name__ == "__main__":
    print(keep(Path(sys.argv[1])))
