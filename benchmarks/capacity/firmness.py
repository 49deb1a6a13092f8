"""How firmly a fact is written when the model is still empty, and the λ that makes runs equal in it.

A layer with leverage ℓ = s / (λ + s), s = kᵀC⁻¹k, writes ℓ of the residual that it is given; of n layers the
i-th is given 1 / (n − i) of what is left. So all together leave Π (1 − ℓᵢ / (n − i)). At one λ few layers, or
few key dimensions, would leave facts unsaid before anything is full, and their runs would tell of λ, not of
room. Published λ go with the width too: 1,500 here at 1,536, 15,000 to 20,000 at 6,400 to 16,384.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from benchmarks.capacity.masked import dimensions
from editing.columns import Pieces
from editing.install import Installation
from editing.memory.state import BARE
from editing.model.capture import Ascent
from editing.solve.ridge import RidgePrior
from editing.values.anchor import pilot_facts

#: Facts of the table of pilots that firmness is averaged over.
PILOTS = 32
#: λ is told to so many figures.
FIGURES = 2


class Firmness:
    """Of one model, written up to one layer. Call on unedited weights.

    Args:
        last: the layer.
    """

    def __init__(self, install: Installation, last: int) -> None:
        loaded, facts = install.loaded, pilot_facts(PILOTS)
        pieces = Pieces(loaded, facts, torch.full((len(facts),), BARE), install.contexts())
        every = range(last + 1)
        captured = Ascent(loaded, pieces.prompts).capture(every)
        self._keys = {layer: pieces.mean(captured.keys[layer]).double() for layer in every}
        self._moments = install.moments(every)
        self._width = loaded.ffn_width

    def weight(self, layers: Sequence[int], share: float, like: tuple[Sequence[int], float]) -> float:
        """λ at which `layers` with a share of their key dimensions write as firmly as others with all.

        Args:
            like: those layers and their λ.
        """
        wanted = left(self._squares(like[0], 1.0), like[1])
        squares = self._squares(layers, share)
        low, high = math.log(like[1]) - 12, math.log(like[1]) + 12
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (middle, high) if left(squares, math.exp(middle)) < wanted else (low, middle)
        return rounded(math.exp(low))

    def _squares(self, layers: Sequence[int], share: float) -> Mapping[int, Tensor]:
        used = dimensions(self._width, share)
        found = dict[int, Tensor]()
        for layer in layers:
            keys = self._keys[layer][used]
            prior = RidgePrior(self._moments[layer][used][:, used], 1.0)
            found[layer] = (keys * prior.inverse_times(keys)).sum(0)
        return found


def left(squares: Mapping[int, Tensor], weight: float) -> float:
    """Mean share of a residual that is left, from s [facts] of each layer, at a λ."""
    rest = torch.ones(())
    for place, layer in enumerate(sorted(squares)):
        leverage = squares[layer] / (weight + squares[layer])
        rest = rest * (1 - leverage / (len(squares) - place))
    return float(rest.mean())


def rounded(number: float) -> float:
    figures = FIGURES - 1 - math.floor(math.log10(number))
    return round(number, figures)
