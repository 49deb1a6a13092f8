"""What the weight-space measures of one layer cost beside its update, on synthetic matrices of any shape.

One layer is held at a time: a shape of Llama-3-8B needs some 2 GB. The update's values cannot be found
without the model: what they need is counted (`Update.value_flops`) and divided by the rate at which this
machine multiplies such matrices. Keys, solve and all that is measured on answers are left out, so that the
share told is too high rather than too low.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from monitoring.measuring.change import (
    Change,
    HeldKeys,
    contact_ratio,
    drift_ratio,
    held_key_measures,
    key_errors,
)
from monitoring.measuring.measure import KEY_SAMPLE
from monitoring.measuring.spectral import (
    gap_aware_similarity,
    singular_vector_similarity,
    spectrum,
    subspace_similarity,
)

#: Size of the synthetic update relative to the weight, about what 100 facts leave.
DRIFT = 0.02
#: Keys of ordinary text, as in `monitoring.measuring.baseline`.
HELD = 128
#: Live facts, and layers that a value is written into.
FACTS, LAYERS = 100, 5


@dataclass(frozen=True)
class Update:
    """What value optimisation does for one fact.

    Attributes:
        layers: layers above the edited ones.
        layer_weights, head_weights: entries of a layer's matrices and of the vocabulary head.
        evaluations: of the loss.
        positions: tokens that δ reaches, all contexts together.
        predicted: tokens whose probability is asked for.
    """

    layers: int = 23
    layer_weights: int = 218_112_000
    head_weights: int = 525_336_576
    evaluations: int = 12
    positions: int = 48
    predicted: int = 13

    @property
    def value_flops(self) -> float:
        """Forward at each evaluation, backward at each but the last; see `benchmarks.floor.floor_flops`."""
        body = self.positions * self.layers * self.layer_weights + self.predicted * self.head_weights
        return 2.0 * (2 * self.evaluations - 1) * body


def layer_cost(d_out: int, d_in: int, update: Update | None = None) -> dict[str, Any]:
    """Seconds of the measures of one [d_out, d_in] weight, and their share of the smallest update.

    That is one fact, whose value is written into `LAYERS` layers: each has its part of the time.
    """
    update, generator = update or Update(), torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    base = drawn(d_out, d_in) / d_in**0.5
    a, b = drawn(d_out, FACTS), drawn(d_in, FACTS)
    a *= DRIFT * base.norm() / (a @ (b.T @ b) * a).sum().sqrt()
    held = drawn(d_in, HELD)
    watched = HeldKeys(held, base @ held)
    keys = drawn(d_in, min(FACTS, KEY_SAMPLE))
    before = spectrum(base)
    weight = torch.addmm(base, a, b.T)
    values = weight @ keys

    def measures() -> None:
        now = spectrum(weight, start=before)
        change = Change.between(base, weight, (a, b))
        drift_ratio(change, before.frobenius)
        contact_ratio(change, before)
        held_key_measures(change, watched)
        for similarity in (subspace_similarity, singular_vector_similarity, gap_aware_similarity):
            similarity(before, now)
        key_errors(weight, keys, values)

    seconds = {"measures": _seconds(measures)}
    rate = 2.0 * base.numel() * HELD / _seconds(lambda: base @ held)
    seconds["values_of_one_fact"] = update.value_flops / rate / LAYERS
    return {
        "shape": [d_out, d_in],
        "seconds": seconds,
        "matrix_flops_per_second": rate,
        "share": seconds["measures"] / sum(seconds.values()),
        "update": asdict(update),
    }


def _seconds(what: Callable[[], Any]) -> float:
    start = time.perf_counter()
    what()
    return time.perf_counter() - start
