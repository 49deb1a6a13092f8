"""What `Editor.apply` tells of a batch."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from editing.facts import Fact
from editing.values.anchor import outlier_reason
from editing.values.search import Values


@dataclass(frozen=True)
class Outcome:
    """What became of one fact of a batch.

    Attributes:
        id: the fact's id.
        written: whether it is in the weights now; a fact that is not has left nothing behind.
        reason: why it was not written.
        value_norm: ‖v*‖ before anchoring, at the last layer a value was optimised for; NaN for methods
            without values.
        value_norm_ratio: that over the anchor; NaN without an anchor.
        loss: the value optimisation's final loss, nats; of methods without values, of the weights'.
        steps: its evaluations of the loss.
        left_out: names of the forms that the tokenizer cannot place, each with the reason; the fact is
            written for the others.
    """

    id: str
    written: bool
    reason: str | None
    value_norm: float
    value_norm_ratio: float
    loss: float
    steps: int
    left_out: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Report:
    """Outcomes of a batch, in the order given, and the seconds spent on values, keys and solves."""

    outcomes: tuple[Outcome, ...]
    seconds: dict[str, float]

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the facts that were written."""
        return tuple(outcome.id for outcome in self.outcomes if outcome.written)


def outcomes(
    facts: Sequence[Fact], values: Values, norms: Tensor, outliers: Tensor, anchor: float, longest: float
) -> dict[str, Outcome]:
    """Outcomes by id of facts whose values were found and, but for outliers, will be written."""
    columns = (facts, norms.tolist(), outliers.tolist(), values.loss.tolist(), values.steps.tolist())
    return {
        fact.id: Outcome(
            fact.id,
            not bad,
            outlier_reason(norm, anchor, longest) if bad else None,
            norm,
            norm / anchor,
            loss,
            steps,
        )
        for fact, norm, bad, loss, steps in zip(*columns, strict=True)
    }


def tuned(facts: Sequence[Fact], losses: Tensor, steps: int) -> tuple[Outcome, ...]:
    """Outcomes of facts that the weights were trained on."""
    nan = float("nan")
    return tuple(
        Outcome(fact.id, True, None, nan, nan, loss, steps)
        for fact, loss in zip(facts, losses.tolist(), strict=True)
    )


class Clock:
    """Adds up seconds by stage."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {"values": 0.0, "keys": 0.0, "solve": 0.0}
        self._now = now

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self.seconds[stage] += self._now() - start
