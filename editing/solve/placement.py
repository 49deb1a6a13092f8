"""Which layers are written, and where the value is optimised for them."""

from dataclasses import dataclass
from typing import Literal

from editing.errors import OptionError

Placement = Literal["spread", "boundary", "single", "replay"]


@dataclass(frozen=True)
class Write:
    """One round of writing.

    Attributes:
        target: the layer at whose output the value is optimised.
        layers: the layers written, ascending. Up to `target` they share its residual: layer i of n takes
            1 / (n − i). Each above it has a target and a residual of its own.
    """

    target: int
    layers: tuple[int, ...]

    def aim(self, layer: int) -> int:
        """The layer at whose output the target of `layer` is meant."""
        return max(layer, self.target)

    @property
    def aims(self) -> tuple[int, ...]:
        """All of these, ascending."""
        return tuple(sorted({self.aim(layer) for layer in self.layers}))

    def left(self, layer: int) -> int:
        """How many layers, `layer` and above, still share its residual."""
        return sum(x >= layer and self.aim(x) == self.aim(layer) for x in self.layers)


def window(layers: int) -> tuple[int, ...]:
    """The layers to edit in a model of so many: some 15 to 30 % of its depth, at most five."""
    first = max(1, round(0.14 * layers))
    last = max(first, min(first + 4, layers - 2))
    return tuple(range(first, last + 1))


def rounds(placement: Placement, layers: tuple[int, ...]) -> tuple[Write, ...]:
    """The rounds of a placement over a window of layers.

    spread: one value, its residual shared over all layers (MEMIT). boundary: first and last layer,
    each with a value of its own and the full residual (BLUE, arXiv 2502.03748). single: the last layer.
    replay: one value at the first layer; the others' targets are what a forward pass with it gives there,
    and every residual is written whole (FE, arXiv 2605.00358).

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
    if placement == "replay":
        return (Write(layers[0], layers),)
    raise OptionError(f"placement = {placement!r}: use spread, boundary, single or replay")
