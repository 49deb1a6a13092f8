"""Which layers are written, and where the value is optimised for them."""

from dataclasses import dataclass
from typing import Literal

from editing.errors import OptionError

Placement = Literal["spread", "boundary", "single"]


@dataclass(frozen=True)
class Write:
    """One round of writing.

    Attributes:
        target: the layer at whose output the value is optimised.
        layers: the layers written, ascending; layer i of n takes the residual's share 1 / (n − i).
    """

    target: int
    layers: tuple[int, ...]


def window(layers: int) -> tuple[int, ...]:
    """The layers to edit in a model of so many: some 15 to 30 % of its depth, at most five."""
    first = max(1, round(0.14 * layers))
    last = max(first, min(first + 4, layers - 2))
    return tuple(range(first, last + 1))


def rounds(placement: Placement, layers: tuple[int, ...]) -> tuple[Write, ...]:
    """The rounds of a placement over a window of layers.

    spread: one value, its residual shared over all layers (MEMIT). boundary: first and last layer,
    each with a value of its own and the full residual (BLUE, arXiv 2502.03748). single: the last layer.

    Raises:
        OptionError: unknown placement.
    """
    if placement == "spread":
        return (Write(layers[-1], layers),)
    if placement == "boundary":
        ends = sorted({layers[0], layers[-1]})
        return tuple(Write(layer, (layer,)) for layer in ends)
    if placement == "single":
        return (Write(layers[-1], layers[-1:]),)
    raise OptionError(f"placement = {placement!r}: use spread, boundary or single")
