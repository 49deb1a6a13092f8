"""Versions made from a seed, for tests of what reads them."""

from collections.abc import Sequence

import torch

from daemon.versions.store import Draft, Store
from editing.facts import Fact
from editing.memory.delta import materialise, tensor_sha256
from editing.memory.state import EditState
from editing.model.loaded import LoadedModel


def write_version(
    store: Store,
    model: LoadedModel,
    version: str,
    facts: Sequence[Fact],
    *,
    parent: str = "v000000",
    layers: Sequence[int] = (1, 2),
    seed: int = 0,
    measurements: dict | None = None,
) -> EditState:
    """Random factors, one column a fact, written as the applier does."""
    generator = torch.Generator().manual_seed(seed)
    factors, entries, columns = {}, {}, {}
    for name, base in model.base_weights(layers).items():
        a, b = (torch.randn(size, len(facts), generator=generator) * 0.1 for size in base.shape)
        factors[name] = a, b
        columns |= {f"{name}/keys": b, f"{name}/values": a}
        entries[name] = {
            "shape": list(base.shape),
            "dtype": "float32",
            "base_sha256": tensor_sha256(base),
            "sha256": tensor_sha256(materialise(base, a, b)),
        }
    state = EditState(tuple(facts), factors, columns)
    draft = Draft(version, parent, model.base_hash, "s", entries, 1, 1000.0, measurements=measurements or {})
    store.write(draft, state)
    return state
