"""Which facts two states hold alike: what need not be taken over from one to the other."""

from collections.abc import Collection

import torch

from editing.facts import Fact
from editing.memory.state import EditState
from editing.typed import whole_numbers


def unchanged(start: EditState, live: EditState, recorded: Collection[str]) -> list[str]:
    """Ids of the facts that both states hold with the same texts, forms and columns, bit for bit.

    A fact that shares its value with a newer one was written again beside it: its id stays, its target does
    not.

    Args:
        recorded: names of the columns that are compared.
    """
    before, now = _places(start), _places(live)
    names = [name for name in recorded if name in live.columns]
    found: list[str] = []
    for id, (fact, columns) in now.items():
        old = before.get(id)
        if old is None or old[0] != fact:
            continue
        pairs = [(start.forms[None], live.forms[None])]
        pairs += [(start.columns[name], live.columns[name]) for name in names if name in start.columns]
        if len(pairs) == len(names) + 1 and all(torch.equal(a[:, old[1]], b[:, columns]) for a, b in pairs):
            found.append(id)
    return found


def _places(state: EditState) -> dict[str, tuple[Fact, slice]]:
    """Id → the fact and its columns."""
    counts = torch.bincount(state.owners, minlength=len(state.facts))
    ends = whole_numbers(counts.cumsum(0))
    starts = [0, *ends[:-1]]
    return {
        fact.id: (fact, slice(start, end)) for fact, start, end in zip(state.facts, starts, ends, strict=True)
    }
