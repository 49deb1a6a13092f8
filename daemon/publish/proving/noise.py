"""How far a replica may be from the model in memory, and what that was measured on.

Both round in other places, with other kernels, often in another dtype. How much that is was measured once,
when the replica served the unedited model, and it is kept in the state directory. It is never measured on a
version that is to be proved: damage would count as noise, and be allowed from then on.
"""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from daemon.core.errors import StoreError
from daemon.versions.durable import sync_directory, write_synced
from editing.memory.products import least, most


@dataclass(frozen=True)
class Noise:
    """Differences in nats, of products as a share of the size of a row.

    Attributes:
        passage: of the mean over a passage's tokens; the worst passage.
        token: of one token; the worst.
        typical: root mean square over the tokens of the probes.
        product: see `editing.memory.products.difference`; the worst matrix.
    """

    passage: float
    token: float
    typical: float
    product: float = 0.0


#: A batch's targets are improbable text for the model, sometimes a single token; the probes are not.
MARGIN = Noise(passage=4.0, token=3.0, typical=2.0, product=4.0)
#: Nats. Two float32 implementations agree so well on the probes that their noise alone would be too strict.
LEAST = Noise(passage=0.02, token=0.06, typical=0.005)
#: Nats. More noise than this is not rounding: the replica runs another model. So much is also allowed while
#: no noise was measured. A fact that was not written differs by several nats, and a token of a copy quantised
#: to int8 by two.
MOST = Noise(passage=0.75, token=3.0, typical=0.3)


def allowed(noise: Noise | None) -> Noise:
    """What may differ where this noise was measured; None: none was."""
    if noise is None:
        return MOST
    bounds = zip(*map(_numbers, (noise, MARGIN, LEAST, MOST)), strict=True)
    return Noise(*(min(ceiling, max(floor, margin * found)) for found, margin, floor, ceiling in bounds))


def allowed_product(noise: Noise | None, dtype: torch.dtype, columns: int) -> float:
    """What products of a matrix of so many columns may differ by."""
    if noise is None:
        return most(dtype, columns)
    return max(least(columns), min(most(dtype, columns), MARGIN.product * noise.product))


def _numbers(noise: Noise) -> tuple[float, float, float]:
    return noise.passage, noise.token, noise.typical


def within(found: Noise, most: Noise) -> bool:
    """Whether no number is beyond its bound; NaN is."""
    return all(a <= b for a, b in zip(_numbers(found), _numbers(most), strict=True))


class NoiseRecord:
    """The noise of each replica of one base model, in a file that other bases share.

    Args:
        path: None keeps it in memory only.

    Raises:
        StoreError: the file cannot be read.
    """

    def __init__(self, path: Path | None = None, base_hash: str = "") -> None:
        self.path, self.base_hash = path, base_hash
        self._all: dict[str, dict[str, Noise]] = {} if path is None else _read(path)

    @property
    def noise(self) -> dict[str, Noise]:
        """Replica → its noise."""
        return self._all.setdefault(self.base_hash, {})

    def keep(self, replica: str, noise: Noise) -> None:
        """Keeps what was measured, from now on and after a restart."""
        self.noise[replica] = noise
        if self.path is None:
            return
        told = {base: {name: asdict(one) for name, one in found.items()} for base, found in self._all.items()}
        work = self.path.with_suffix(".new")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(work, json.dumps(told, indent=1).encode())
        os.replace(work, self.path)
        sync_directory(self.path.parent)


def _read(path: Path) -> dict[str, dict[str, Noise]]:
    if not path.exists():
        return {}
    try:
        told = json.loads(path.read_bytes())
        found = {base: {n: Noise(**one) for n, one in of.items()} for base, of in told.items()}
        numbers = [
            x for of in found.values() for noise in of.values() for x in (*_numbers(noise), noise.product)
        ]
        sound = all(math.isfinite(x) and x >= 0 for x in numbers)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error
    if not sound:
        raise _damaged(path, "a number is negative or not finite")
    return found


def _damaged(path: Path, why: object) -> StoreError:
    return StoreError(
        f"{path} cannot be used ({why}): it says how far replicas may be from the model; restore it, or "
        "remove it, and the noise is measured again when a replica starts while the unedited model is live"
    )
