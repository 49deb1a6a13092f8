"""Versions to publish that no editing made: random low-rank updates."""

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from daemon.core.publication import BASE_VERSION
from daemon.versions.format import TensorEntry
from daemon.versions.store import Draft, Store
from editing.facts import Fact
from editing.memory.delta import materialise, tensor_sha256
from editing.memory.state import EditState
from editing.methods.published import parameters
from editing.model.loaded import LoadedModel
from editing.typed import length

#: ‖ΔW‖_F / ‖W‖_F of a version: some batches of real corrections
CHANGE = 0.01


class Updates:
    """Two random low-rank updates of the layers that editing would write; versions take turns."""

    def __init__(self, model: LoadedModel, edits: int, seed: int) -> None:
        self.model = model
        generator = torch.Generator().manual_seed(seed)
        base = model.base_weights(parameters("memit-seq", model).layers)
        facts = [Fact(f"subject {i}", "The city of {} is", f"city {i}", f"f{i}") for i in range(edits)]
        self.turns = [_random_state(base, facts, generator) for _ in range(2)]
        self.entries = [_entries(base, state) for state in self.turns]

    def write(self, store: Store, number: int) -> str:
        """Writes version `number` and removes those before the last one."""
        turn, version = number % 2, f"v{number:06d}"
        # Every version grows from the base: a chain of hundreds would be read anew at each write.
        draft = Draft(
            version, BASE_VERSION, self.model.base_hash, "bench", self.entries[turn], 1, time.time()
        )
        store.write(draft, self.turns[turn])
        store.clean(keep={version, f"v{number - 1:06d}"})
        return version


def _random_state(base: Mapping[str, Tensor], facts: Sequence[Fact], generator: torch.Generator) -> EditState:
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name, weight in base.items():
        a, b = (torch.randn(size, len(facts), generator=generator) for size in weight.shape)
        # ‖A Bᵀ‖_F of independent normal columns is near √(n d_out d_in)
        size = (len(facts) * weight.numel()) ** 0.5
        factors[name] = a * float(CHANGE * length(weight) / size), b
    return EditState(tuple(facts), factors)


def _entries(base: Mapping[str, Tensor], state: EditState) -> dict[str, TensorEntry]:
    return {
        name: {
            "shape": list(weight.shape),
            "dtype": "float32",
            "base_sha256": tensor_sha256(weight),
            "sha256": tensor_sha256(materialise(weight, *state.factors[name])),
        }
        for name, weight in base.items()
    }
