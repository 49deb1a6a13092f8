"""What RECT and PRUNE make of an update that is already solved."""

import math

import torch
from torch import Tensor

from editing.solve.ridge import Factors
from editing.typed import qr, svd


def sparse(weight: Tensor, update: Factors, share: float) -> Factors:
    """Keeps the entries of ΔW that change their weight relatively most, |ΔW / W|; the others are zero.

    Args:
        weight: W [d, d_in], before the update.
        update: A [d, n], B [d_in, n].
        share: of entries kept, above 0.

    Returns:
        A = I, B = ΔWᵀ: the result has full rank.
    """
    a, b = update
    delta = a.double() @ b.double().T
    # In place of a division by zero a weight that is zero counts as this small.
    relative = delta.abs() / (weight.double().abs() + 1e-8)
    count = max(1, round(share * delta.numel()))
    threshold = relative.flatten().kthvalue(delta.numel() - count + 1).values
    kept = torch.where(relative >= threshold, delta, torch.zeros_like(delta))
    return torch.eye(len(a), dtype=a.dtype, device=a.device), kept.T.to(b.dtype).contiguous()


def conditioned(update: Factors, limit: float, log_base: float) -> Factors:
    """Compresses the singular values s of ΔW = A Bᵀ that exceed `limit`: s → limit + log_α(s / limit).

    Never enlarges one, which that formula does just above a small limit. An update whose singular values
    all stay below is given back as it is.

    Args:
        limit: the largest singular value of W₀.
        log_base: α.
    """
    a, b = (factor.double() for factor in update)
    if not a.shape[1]:
        return update
    # ΔW = Q_a (R_a R_bᵀ) Q_bᵀ: the small middle matrix has the singular values.
    (q_a, r_a), (q_b, r_b) = qr(a), qr(b)
    left, values, right = svd(r_a @ r_b.T)
    if float(values[0]) <= limit:
        return update
    logarithms = (values.clamp(min=limit) / limit).log() / math.log(log_base)
    small = torch.minimum(values, limit + logarithms)
    return (q_a @ left * small).to(update[0].dtype), (q_b @ right.T).to(update[1].dtype)
