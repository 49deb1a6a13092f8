"""What an editing method is made of, and which choices it combines with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from torch import Tensor

from editing.errors import OptionError
from editing.memory.state import Table
from editing.methods.parameters import Parameters
from editing.solve.placement import Placement
from editing.solve.revive import Protection
from editing.solve.ridge import Factors
from editing.values.anchor import OUTLIER, AnchorRule

Protect = Literal["revive", "revive-after", "crisp", "none"]


class Solver(Protocol):
    """Turns the table of a weight's keys and values into its update."""

    def factors(self, table: Table, written: Factors | None = None, earlier: int = 0) -> Factors:
        """Factors of the whole update.

        Args:
            written: factors of the update that the first `earlier` columns made, whole batches, where
                they are at hand. They spare work and, where the method can, are the first columns of
                the result, which is what it would be without them to their rounding.
        """
        ...


@dataclass(frozen=True)
class Method:
    """One editing method.

    Attributes:
        solver: makes the solver of a weight W₀ with second moment C; None for methods without values.
        steps: makes the solver of a weight W₀ whose table holds gradients in the place of values, from the
            keys and gradients of a warm-up.
        variant: the fields of `ValueOptions` that make the method's value optimisation its own.
        target: what a value is a target for: the residual stream ("hidden"), the MLP's output for the
            bare prompt ("outputs"), or the MLP's output for the averaged key ("averaged").
        share: how the residual is divided when so many layers are left.
        placements: those it can be combined with; the first is its default.
        anchors: the first is its default.
        outlier: a write vector more than this many anchors long is not written.
        batched: whether the batch of each fact is part of the table.
        projects: whether an update is projected once it is solved, so that the error can be carried on.
        bars: whether facts that earlier updates disturb avoid the directions of these (DeltaEdit).
        low_rank: of gradient descent: whether the update is trained as two small factors.
        whole: of gradient descent: whether all live facts are trained together, from the base weights.
    """

    solver: Callable[[Tensor, Tensor, Protection, Parameters], Solver] | None
    steps: Callable[[Tensor, tuple[Tensor, Tensor], Parameters], Solver] | None = None
    variant: Mapping[str, Any] = field(default_factory=dict[str, Any])
    target: Literal["hidden", "outputs", "averaged"] = "hidden"
    share: Callable[[int], float] = float
    placements: tuple[Placement, ...] = get_args(Placement)
    anchors: tuple[AnchorRule, ...] = get_args(AnchorRule)
    outlier: float = OUTLIER
    batched: bool = False
    projects: bool = False
    bars: bool = False
    low_rank: bool = False
    whole: bool = False

    @property
    def valued(self) -> bool:
        """Whether values are found, and written by a solve."""
        return self.solver is not None

    @property
    def _protects(self) -> tuple[Protect, ...]:
        if self.valued:
            return "revive", "revive-after", "none"
        return ("crisp", "none") if self.whole else ("none",)

    @property
    def tuned(self) -> bool:
        """Whether weights are trained, and no columns are recorded."""
        return self.solver is None and self.steps is None

    def combined(
        self, name: str, placement: str | None, anchor: str | None, protect: str
    ) -> tuple[Placement, AnchorRule, Protect]:
        """The choices, defaults filled in.

        Raises:
            OptionError: one is unknown or does not combine with the method.
        """
        anchors = self.anchors if self.valued else ("none",)
        return (
            _checked("placement", placement, get_args(Placement), self.placements, name),
            _checked("anchor", anchor, get_args(AnchorRule), anchors, name),
            _checked("protect", protect, get_args(Protect), self._protects, name),
        )


def _checked(
    option: str, value: str | None, known: tuple[str, ...], possible: tuple[str, ...], method: str
) -> Any:
    """`value`, or where it is None the first possible one."""
    if value is None:
        return possible[0]
    if value not in known:
        raise OptionError(f"{option} = {value!r}: use {', '.join(known)}")
    if value not in possible:
        raise OptionError(
            f"{option} = {value!r} does not combine with method = {method!r}; use {', '.join(possible)}"
        )
    return value
