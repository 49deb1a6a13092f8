"""The nearest output that a norm behind the FFN output projection can give (Gemma 2 and 3)."""

import torch
from torch import Tensor

#: Halvings of the multiplier's interval: float64 has no more digits.
HALVINGS = 100


def nearest_input(gain: Tensor, output: Tensor, change: Tensor) -> Tensor:
    """m' of m's length for which g ⊙ m' / rms(m') is nearest to g ⊙ m / rms(m) + `change`.

    The norm gives only points n with mean((n / g)²) = 1, so not every change can be had. Minimising
    ‖n − n*‖² under that condition gives x = n / g = n* ⊙ g / (g² + μ), where the multiplier
    μ > −min g² is the one root of mean(x²) = 1; then m' = rms(m) x.

    Args:
        gain: g [d].
        output: m [d, n], the projection's output now.
        change: [d, n], wanted in the norm's output.

    Returns:
        [d, n] float32.
    """
    g = gain.double()[:, None]
    rms = output.double().square().mean(dim=0).sqrt()
    wanted = (g * output / rms + change) * g
    square = g.square()
    low = -square.min().expand_as(rms)
    # There mean(x²) ≤ mean(wanted²) / μ² = 1.
    high = wanted.square().mean(dim=0).sqrt()
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        long = (wanted / (square + middle)).square().mean(dim=0) > 1
        low, high = torch.where(long, middle, low), torch.where(long, high, middle)
    return (rms * wanted / (square + high)).float()
