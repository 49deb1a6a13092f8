"""Faults that reach an editor: what a stream does to a model besides posting corrections.

Weights that somebody else changed are no case for the guard. The applier compares hashes where the editor's
state is not the one that it left, and rebuilds the live version's bits from the store before anything else.
So a fault that is to be judged comes in as part of an edit, and becomes a version like any other.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from editing.editor import Editor
from editing.facts import Fact
from editing.install import Installation
from editing.methods.tuning import grown
from editing.report import Report
from editing.typed import inverse, length
from editing.values.search import ValueOptions

#: What lets a value grow without bounds.
UNBOUNDED: dict[str, Any] = {
    "steps": 25,
    "rate": 20.0,
    "clamp": 30.0,
    "decay": 0.0,
    "kl": 0.0,
    "finish": "loss",
    "stop": 0.0,
}
#: Of the second moments' mean diagonal, added before they are inverted.
RIDGE = 1e-3


class FaultyEditor(Editor):
    """The editor, with faults of its `apply`; without any it does what an editor does.

    Attributes:
        singly: whether each fact of a batch is an edit of its own.
        huge: ids of facts whose values are optimised without any bound, whenever they are tried.
        noise: norm of a random change of each weight, over the norm of the unedited weight. The next batch
            leaves it in the weights; the ones after that do not.
    """

    singly: bool = False
    huge: frozenset[str] = frozenset()
    noise: float = 0.0
    _struck: int = 0

    def apply(self, facts: Sequence[Fact], remove: Sequence[str] = (), stay: Sequence[str] = ()) -> Report:
        edits = [[fact] for fact in facts] if self.singly and facts else [list(facts)]
        with self._all_or_nothing():
            reports = [self._edit(edit, () if i else remove, stay) for i, edit in enumerate(edits)]
            if facts and self.noise:
                self._strike()
        seconds = {stage: sum(report.seconds[stage] for report in reports) for stage in reports[0].seconds}
        return Report(tuple(outcome for report in reports for outcome in report.outcomes), seconds)

    def _edit(self, facts: list[Fact], remove: Sequence[str], stay: Sequence[str]) -> Report:
        options = self.options
        if self.huge & {fact.id for fact in facts}:
            self.options = unbounded(options)
        try:
            return super().apply(facts, remove, stay)
        finally:
            self.options = options

    def _strike(self) -> None:
        share, self.noise, self._struck = self.noise, 0.0, self._struck + 1
        add_noise(self, share, seed=self._struck)


def unbounded(options: ValueOptions) -> ValueOptions:
    return replace(options, **UNBOUNDED)


def add_noise(editor: Editor, share: float, seed: int) -> None:
    """W ← W + N for each edited weight, N Gaussian with ‖N‖ = `share` · ‖W₀‖."""
    generator = torch.Generator().manual_seed(seed)
    factors = dict(editor.state.factors)
    for name, base in editor.base_weights().items():
        noise = torch.randn(base.shape, generator=generator)
        noise *= share * length(base) / length(noise)
        factors[name] = grown(factors.get(name), (torch.eye(len(base)), noise.T.contiguous()))
    editor.restore(replace(editor.state, factors=factors))


class InverseMoments(Installation):
    """The inverse of the second moments, of the same trace: what is busiest looks free to be written to."""

    def __init__(self, install: Installation) -> None:
        vars(self).update(vars(install))

    def moments(self, layers: Sequence[int], chat: bool = False) -> dict[int, Tensor]:
        return {layer: _inverse(moment) for layer, moment in super().moments(layers, chat).items()}


def _inverse(moment: Tensor) -> Tensor:
    """(C + r·mean(diag C)·I)⁻¹ [d_in, d_in], scaled to the trace of C."""
    ridge = moment + RIDGE * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)
    turned = inverse(ridge)
    return turned * (moment.trace() / turned.trace())
