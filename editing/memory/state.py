"""The memory of facts: an immutable value from which the edited weights follow."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from editing.facts import Fact
from editing.typed import run_lengths

#: Name of the column that numbers the batches.
BATCHES = "batches"
#: Name of the column that says which forms of its fact a column holds: the sum of 2^number over them. The
#: first column of a fact holds its bare prompt, and no other column does, so that every odd number begins a
#: fact. Where there is no such column each fact has one, for its bare prompt.
FORMS = "forms"
#: What it says of a column for the bare prompt alone.
BARE = 1
#: Name of the column that says which columns a consolidation trained (1) and which came later (0). Where it
#: is, the factors are no solution of the table: facts are added to them, and countered in them.
CONSOLIDATED = "consolidated"


def owners(forms: Tensor) -> Tensor:
    """Index of the fact that each column belongs to [n], from the forms [n] that the columns hold."""
    return (forms & 1).cumsum(0) - 1


@dataclass(frozen=True)
class Table:
    """What a weight was asked to map to what.

    Attributes:
        keys: [d_in, n].
        values: [d, n].
        batches: [n] ascending, the batch each column was written in; None where it does not matter.
    """

    keys: Tensor
    values: Tensor
    batches: Tensor | None = None

    def by_batch(self) -> Iterator[slice]:
        """The columns of each batch, in order; all in one where batches are not told apart."""
        count = self.keys.shape[1]
        sizes = [count] if self.batches is None else run_lengths(self.batches)
        start = 0
        for size in sizes:
            yield slice(start, start + size)
            start += size


@dataclass(frozen=True)
class EditState:
    """All live facts with what was recorded when they were written, and the factors solved from them.

    Attributes:
        facts: live facts in order of addition.
        factors: tensor name → (A [d, n], B [d_in, n]), float32; the weight is
            ``materialise(base, A, B)``.
        columns: ``"<tensor>/keys"`` [d_in, n], ``"<tensor>/values"`` [d, n] and ``"targets/<layer>"``
            [d, n]; of some methods ``"batches"`` [1, n] and ``"interference/<layer>"`` [1, n]; of
            methods that tune weights none. Of facts with several columns ``"forms"`` [1, n] int64, see
            `FORMS`; the columns of a fact stand together, in the order of the facts. After a consolidation
            ``"consolidated"`` [1, n] int64, see `CONSOLIDATED`.
    """

    facts: tuple[Fact, ...] = ()
    factors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict[str, tuple[Tensor, Tensor]])
    columns: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(fact.id for fact in self.facts)

    @property
    def next_batch(self) -> int:
        """A number above those of all batches recorded."""
        recorded = self.columns.get(BATCHES)
        return 0 if recorded is None or not recorded.numel() else int(recorded.max()) + 1

    @property
    def forms(self) -> Tensor:
        """Which forms each column holds, [n] int64; see `FORMS`."""
        recorded = self.columns.get(FORMS)
        return torch.full((len(self.facts),), BARE) if recorded is None else recorded[0]

    @property
    def owners(self) -> Tensor:
        """Index of the fact that each column belongs to, [n]."""
        return owners(self.forms)

    @property
    def fits(self) -> bool:
        """Whether the columns are those of the facts: a first one for each, and all of the same number."""
        recorded = self.columns.get(FORMS)
        if recorded is not None and (recorded.dtype != torch.int64 or recorded.dim() != 2):
            return False
        forms = self.forms
        whole = int((forms & 1).sum()) == len(self.facts) and bool((forms > 0).all())
        begins = not len(forms) or bool(forms[0] & 1)
        return whole and begins and all(column.shape[1] == len(forms) for column in self.columns.values())

    def width(self, facts: int) -> int:
        """How many columns the first `facts` facts have."""
        return int((self.owners < facts).sum())

    def table(self, tensor: str) -> Table:
        """Keys and values of all live facts for one edited tensor."""
        batches = self.columns.get(BATCHES)
        keys, values = (self.columns[f"{tensor}/{kind}"] for kind in ("keys", "values"))
        return Table(keys, values, None if batches is None else batches[0])

    def without(self, ids: Sequence[str]) -> "EditState":
        """The table less the facts named; the factors are left for the caller to solve anew."""
        dropped = set(ids)
        keep = [i for i, fact in enumerate(self.facts) if fact.id not in dropped]
        index = torch.isin(self.owners, torch.tensor(keep, dtype=torch.long)).nonzero()[:, 0]
        return EditState(
            facts=tuple(self.facts[i] for i in keep),
            columns={name: column[:, index] for name, column in self.columns.items()},
        )

    def with_columns(self, facts: Sequence[Fact], columns: dict[str, Tensor]) -> "EditState":
        """The table with columns of new facts appended; the factors are left for the caller to solve.

        Where only the old or only the new facts have several columns each, the forms of the others are told
        too. Without `facts`, columns of facts that are there already.
        """
        if facts and (FORMS in columns) != (FORMS in self.columns):
            count = 0 if FORMS in columns else next(iter(columns.values())).shape[1]
            told = {FORMS: self.forms[None]} if FORMS in columns else {}
            new = columns if FORMS in columns else columns | {FORMS: torch.full((1, count), BARE)}
            return replace(self, columns=self.columns | told).with_columns(facts, new)
        joined = {
            name: torch.cat([self.columns[name], new], dim=1) if name in self.columns else new
            for name, new in columns.items()
        }
        return EditState(facts=self.facts + tuple(facts), columns=self.columns | joined)
