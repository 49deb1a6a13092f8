"""A challenge to a matrix: what it makes of vectors of signs that a seed chooses.

Who holds a matrix cannot always show its bytes: a kernel packs it anew, a rank has a slice, a quantised layer
has codes. But it can multiply. A vector of signs adds up each whole row, so that every element counts the
same. One element that is off by d moves one product by d; noise of size s on a matrix of n columns moves all
products by some s·√n.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

#: Vectors of a challenge. More make it likelier that errors within a row do not cancel out.
VECTORS = 8
#: The largest seed + 1.
SEEDS = 1 << 63
#: Kernels add up in float32, in steps of 2⁻²³, and err by some √columns steps; this is eight.
SUM_STEP = 2.0**-20
#: A kernel that rounds sums in between, as on some GPUs, errs by at most so many steps of the served dtype.
STEPS = 4.0
#: Rows that are nearly empty are measured against this share of a typical one.
LEAST_ROW = 1e-3


def signs(seed: int, tensor: str, columns: int, count: int = VECTORS) -> Tensor:
    """Vectors of +1 and -1, float32 [count, columns]: the same on every machine, others for each tensor."""
    told = hashlib.shake_256(f"{seed}|{tensor}".encode()).digest((count * columns + 7) // 8)
    bits = torch.frombuffer(bytearray(told), dtype=torch.uint8)[:, None] >> torch.arange(8)
    return (bits.flatten()[: count * columns] & 1).float().reshape(count, columns) * 2 - 1


def difference(weight: Tensor, told: Sequence[Tensor], vectors: Tensor) -> float:
    """How far products are from those of a matrix, as a share of the size of its rows; the worst one.

    That each rank rounds its products to the served dtype once explains itself, and is taken off.

    Args:
        weight: [rows, columns], rounded to the dtype that it is served in.
        told: products that somebody else computed [count, rows]; of several ranks the sum counts.
        vectors: what was multiplied [count, columns].

    Returns:
        Infinite where the shapes do not fit or a product is no number.
    """
    if not told or any(one.shape != (len(vectors), len(weight)) for one in told):
        return float("inf")
    parts = torch.stack([one.double() for one in told])
    if not torch.isfinite(parts).all():
        return float("inf")
    exact = weight.double()
    sizes = exact.square().sum(1).sqrt()
    typical = float(sizes.square().mean().sqrt()) or 1.0
    rounded = parts.abs().sum(0) * torch.finfo(weight.dtype).eps / 2
    wrong = (vectors.double() @ exact.T - parts.sum(0)).abs() - rounded
    return max(0.0, float((wrong / (sizes + LEAST_ROW * typical)).max()))


def least(columns: int) -> float:
    """The `difference` that sums in float32 explain."""
    return SUM_STEP * columns**0.5


def most(dtype: torch.dtype, columns: int) -> float:
    """The `difference` that any float kernel explains."""
    return max(least(columns), STEPS * torch.finfo(dtype).eps)
