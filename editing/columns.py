"""Columns of facts that are asked in several forms: which forms a column holds, its keys and its targets."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.facts import Fact
from editing.forms import PROMPT, Columns
from editing.memory.state import BARE, owners
from editing.model.asked import Asked, numbered
from editing.model.capture import Ascent, capture, mean_keys
from editing.model.loaded import LoadedModel
from editing.model.tokens import Prompt
from editing.typed import parts, whole_numbers


def numbers_in(form: int) -> list[int]:
    """Numbers of the forms that a column holds."""
    return [number for number in range(form.bit_length()) if form >> number & 1]


def layout(forms: Sequence[Sequence[int]], columns: Columns) -> Tensor:
    """Which forms the columns of some facts hold [m], from the numbers of each fact's forms."""
    held: list[int] = []
    for numbers in forms:
        bits = [1 << number for number in numbers]
        if columns == "each":
            held += bits
        elif columns == "averaged":
            held.append(sum(bits))
        else:
            held.append(BARE)
    return torch.tensor(held, dtype=torch.long)


class Pieces:
    """The forms that the columns of some facts hold, as prompts; columns [m] in the order of the facts.

    Attributes:
        every: the forms, column by column.
        prompts: all of their prompts, contexts included.
        bare: of each form the prompt that stands alone.
    """

    def __init__(
        self, loaded: LoadedModel, facts: Sequence[Fact], forms: Tensor, contexts: Sequence[str]
    ) -> None:
        held = zip(whole_numbers(owners(forms)), whole_numbers(forms), strict=True)
        self.every: list[Asked] = []
        self._column: list[int] = []
        for column, (owner, form) in enumerate(held):
            for number in numbers_in(form):
                self.every.append(numbered(loaded, facts[owner], number, contexts))
                self._column.append(column)
        self.prompts: list[Prompt] = [prompt for piece in self.every for prompt in piece.prompts]
        self.bare: list[Prompt] = [piece.prompts[0] for piece in self.every]

    def mean(self, each: Tensor) -> Tensor:
        """[d, prompts] → [d, m]: of each form as `mean_keys`, and of a column's forms the mean."""
        sizes = [len(piece.prompts) for piece in self.every]
        if len(set(sizes)) == 1:
            return self.columns(mean_keys(each, sizes[0]))
        means = [mean_keys(part, part.shape[1]) for part in parts(each, sizes, dim=1)]
        return self.columns(torch.cat(means, dim=1))

    def columns(self, each: Tensor) -> Tensor:
        """[d, forms] → [d, m], the mean over the forms of a column."""
        count = self._column[-1] + 1
        if len(self._column) == count:
            return each
        column = torch.tensor(self._column, device=each.device)
        total = each.new_zeros(len(each), count).index_add_(1, column, each)
        return total / torch.bincount(column, minlength=count)


#: (id of a fact, number of a form, layer) → how that form's target there differs from the bare prompt's, [d].
Shifts = dict[tuple[str, int, int], Tensor]


def shifts(loaded: LoadedModel, facts: Sequence[Fact], forms: Tensor, layer: int, target: str) -> Shifts:
    """How the targets of further forms differ: δ is added to what each form has without it.

    Must be called on the weights that the values were found on.

    Args:
        target: see `editing.methods.method.Method.target`.
    """
    if bool((forms == BARE).all()):
        return {}
    captured = capture(loaded, Pieces(loaded, facts, forms, [""]).bare, [layer])
    found = (captured.hidden if target == "hidden" else captured.outputs)[layer].cpu()
    return told_apart(facts, forms, layer, found)[1]


def replay(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    forms: Tensor,
    layer: int,
    above: Sequence[int],
    change: Tensor,
    target: str,
) -> tuple[dict[str, Tensor], Shifts]:
    """Targets of the layers `above`: what they give when δ is at the output of block `layer`. FE's forward
    replay (arXiv 2605.00358).

    Must be called on the weights that the values were found on.

    Args:
        forms: of the facts' columns [m]; δ is added in each form, at its subject's last token.
        change: δ [d, n] of each fact.
        target: see `editing.methods.method.Method.target`.

    Returns:
        "targets/<layer>" [d, n] of the bare prompts, and how those of further forms differ.
    """
    owner = torch.tensor([i for i, _ in _places(forms)])
    # One prompt a pass: a value must not feel those of the facts beside it.
    ascent = Ascent(loaded, Pieces(loaded, facts, forms, [""]).bare, layer + 1, rows=1)
    ascent.add(change.cpu()[:, owner])
    captured = ascent.capture(above)
    columns, shift = dict[str, Tensor](), Shifts()
    for one in above:
        found = (captured.hidden if target == "hidden" else captured.outputs)[one].cpu()
        columns[f"targets/{one}"], further = told_apart(facts, forms, one, found)
        shift |= further
    return columns, shift


def told_apart(facts: Sequence[Fact], forms: Tensor, layer: int, found: Tensor) -> tuple[Tensor, Shifts]:
    """From what each form has at a layer [d, forms]: the bare prompts' [d, n], and how the others differ."""
    places, bare, told = _places(forms), list[Tensor](), Shifts()
    for (owner, number), own in zip(places, found.T, strict=True):
        if number == PROMPT:
            bare.append(own)
        told[facts[owner].id, number, layer] = own - bare[-1]
    return torch.stack(bare, dim=1), told


def _places(forms: Tensor) -> list[tuple[int, int]]:
    """(index of the fact, number of the form) of all forms, in the order of `Pieces.every`."""
    held = zip(whole_numbers(owners(forms)), whole_numbers(forms), strict=True)
    return [(owner, number) for owner, form in held for number in numbers_in(form)]


@dataclass(frozen=True)
class Sought:
    """What the table shall get of some facts at one layer beside keys and values.

    Attributes:
        columns: name → [·, n], a column a fact; "targets/<layer>" are those of the bare prompts there.
        shift: how further forms' targets differ.
    """

    columns: dict[str, Tensor]
    shift: Shifts

    def only(self, keep: Tensor) -> "Sought":
        """The facts that the mask `keep` [n] names."""
        return Sought({name: column[:, keep] for name, column in self.columns.items()}, self.shift)

    def laid_out(self, facts: Sequence[Fact], forms: Tensor) -> dict[str, Tensor]:
        """The same with the columns that `forms` [m] tells."""
        if len(forms) == len(facts) and bool((forms == BARE).all()):
            return self.columns
        owner = owners(forms)
        spread = {name: column[:, owner] for name, column in self.columns.items()}
        for name, column in spread.items():
            if name.startswith("targets/"):
                layer = int(name.removeprefix("targets/"))
                spread[name] = column + self._mean_shift(facts, owner, forms, layer)
        return spread

    def _mean_shift(self, facts: Sequence[Fact], owner: Tensor, forms: Tensor, layer: int) -> Tensor:
        held = zip(whole_numbers(owner), whole_numbers(forms), strict=True)
        found = [
            torch.stack([self.shift[facts[i].id, number, layer] for number in numbers_in(form)]).mean(0)
            for i, form in held
        ]
        return torch.stack(found, dim=1)
