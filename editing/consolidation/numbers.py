"""The numbers of a consolidation."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from editing.errors import OptionError
from editing.forms import Kind, checked_kinds
from editing.values.options import Ends

#: What steps are kept out of: nothing, what ordinary text curves by (`editing.solve.crisp`), or the leading
#: directions of the unedited weight (`editing.solve.revive`).
Kept = Literal["none", "crisp", "revive"]
#: Methods that can write onto trained weights, by name: who asks for that need not load torch.
ABLE = ("memit-seq", "encore", "alphaedit", "deltaedit")
#: What is said where it cannot.
UNABLE = (
    f"the method cannot write onto weights that were trained; consolidate with {', '.join(ABLE[:-1])} or "
    f"{ABLE[-1]}, and protect revive or none"
)


@dataclass(frozen=True)
class ConsolidationNumbers:
    """How a consolidation trains.

    Attributes:
        layers: whose `down_proj` is trained.
        start: share of the joint solution that training begins with.
        epochs: passes over all prompts of all facts.
        batch: prompts of facts in a step.
        rate: Adam's in the first step; it falls in a line to zero. Measured: docs/log/consolidation.md.
        forms: kinds of forms that facts are asked in.
        ends: what must follow the target.
        said_weight: what a prompt counts that is said already, at less than `margin`; others count 1.
        margin: nats.
        text_rows, chat_rows, other_rows: ordinary texts, chats and questions about others in a step.
        text_weight, chat_weight, other_weight: of their divergence from the unedited model.
        protect: what steps are kept out of.
        curvature_energy: γ of "crisp".
        protected_share: of the smaller side, singular directions that "revive" keeps out of.
        rank: of the trained update of each layer; 0: full.
        rows: prompts in one pass; bounds memory.
        seed: of the order of prompts and ordinary texts.
    """

    layers: tuple[int, ...]
    start: float = 1.0
    epochs: int = 6
    batch: int = 32
    rate: float = 2e-4
    forms: tuple[Kind, ...] = ("prompt", "chat", "questions")
    ends: Ends = "stop"
    said_weight: float = 0.1
    margin: float = 0.1
    text_rows: int = 4
    chat_rows: int = 2
    other_rows: int = 8
    text_weight: float = 1.0
    chat_weight: float = 1.0
    other_weight: float = 1.0
    protect: Kept = "none"
    curvature_energy: float = 0.9
    protected_share: float = 0.05
    rank: int = 0
    rows: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))
        object.__setattr__(self, "forms", checked_kinds(self.forms))
        _positive("layers", len(self.layers), self.layers)
        if self.protect not in get_args(Kept):
            raise OptionError(f"protect = {self.protect!r}: use {', '.join(get_args(Kept))}")
        if self.ends not in get_args(Ends):
            raise OptionError(f"ends = {self.ends!r}: use {', '.join(get_args(Ends))}")
        for name in ("batch", "rows", "rate"):
            _positive(name, getattr(self, name), getattr(self, name))
        if not 0 <= self.start <= 1:
            raise OptionError(f"start = {self.start!r}: give a share from 0 to 1")

    def changed(self, **numbers: Any) -> "ConsolidationNumbers":
        """The same but for some numbers, by name.

        Raises:
            OptionError: one is unknown or of no use.
        """
        known = [field.name for field in fields(self)]
        if unknown := sorted(numbers.keys() - set(known)):
            raise OptionError(f"{unknown[0]}: no number of a consolidation; use {', '.join(known)}")
        return replace(self, **numbers)


def unable(method: str, protect: str) -> str | None:
    """Why facts of a method cannot be consolidated; None where they can."""
    return None if method in ABLE and protect != "revive-after" else UNABLE


def _positive(name: str, value: float, told: object) -> None:
    if value <= 0:
        raise OptionError(f"{name} = {told!r}: give more than none")
