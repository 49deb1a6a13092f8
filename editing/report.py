"""What `Editor.apply` tells of a batch. No model here: the daemon reads reports without transformers."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass


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


class Clock:
    """Adds up seconds by stage."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {"values": 0.0, "keys": 0.0, "solve": 0.0}
        self._now = now

    @contextmanager
    def time(self, stage: str) -> Generator[None]:
        start = self._now()
        try:
            yield
        finally:
            self.seconds[stage] += self._now() - start
