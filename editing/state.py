"""The memory of facts: an immutable value from which the edited weights follow."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from editing.facts import Fact


@dataclass(frozen=True)
class EditState:
    """All live facts with what was recorded when they were written, and the factors solved from them.

    Attributes:
        facts: live facts in order of addition.
        factors: tensor name → (A [d, n], B [d_in, n]), float32; the weight is
            ``materialise(base, A, B)``.
        columns: ``"<tensor>/keys"`` [d_in, n], ``"<tensor>/values"`` [d, n] and ``"targets/<layer>"``
            [d, n]; column i belongs to ``facts[i]``.
    """

    facts: tuple[Fact, ...] = ()
    factors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(fact.id for fact in self.facts)

    def without(self, ids: Sequence[str]) -> "EditState":
        """The table less the facts named; the factors are left for the caller to solve anew."""
        dropped = set(ids)
        keep = [i for i, fact in enumerate(self.facts) if fact.id not in dropped]
        index = torch.tensor(keep, dtype=torch.long)
        return EditState(
            facts=tuple(self.facts[i] for i in keep),
            columns={name: column[:, index] for name, column in self.columns.items()},
        )

    def with_columns(self, facts: Sequence[Fact], columns: dict[str, Tensor]) -> "EditState":
        """The table with columns of new facts appended; the factors are left for the caller to solve."""
        joined = {
            name: torch.cat([self.columns[name], new], dim=1) if name in self.columns else new
            for name, new in columns.items()
        }
        return EditState(facts=self.facts + tuple(facts), columns=joined)
