"""Spectra of weight matrices: norms, stable rank, and how far the dominant directions have turned.

All arithmetic is float64; results are Python floats or float32 bases.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Number of leading singular directions watched. 64 of 576 hold most of the energy of the bundled
#: model's edited weights, and the bases stay small enough to store (64 x (d_out + d_in) floats).
SUBSPACE_RANK = 64

#: Up to this smaller side the Gram matrix is decomposed exactly (576: some 0.1 s); above it block
#: subspace iteration takes over, whose cost has no cubic term.
EXACT_SIDE = 1024

#: Subspace iteration: passes and extra directions. The extra ones carry the gap that the r-th
#: singular value itself does not have.
ITERATION_PASSES = 8
OVERSAMPLING = 16


@dataclass(frozen=True)
class Spectrum:
    """The leading part of a singular value decomposition W ≈ U diag(σ) Vᵀ.

    Attributes:
        frobenius: ‖W‖_F of the whole matrix.
        values: σ, descending, float64 [r].
        left: U, float32 [d_out, r].
        right: V, float32 [d_in, r].
    """

    frobenius: float
    values: Tensor
    left: Tensor
    right: Tensor

    @property
    def spectral_norm(self) -> float:
        """σ₁ = ‖W‖₂."""
        return float(self.values[0])

    @property
    def stable_rank(self) -> float:
        """‖W‖_F² / ‖W‖₂², between 1 and the rank; NaN for a zero matrix."""
        return self.frobenius**2 / self.spectral_norm**2 if self.spectral_norm else math.nan


def frobenius_norm(weight: Tensor) -> float:
    """‖W‖_F, accumulated in float64."""
    return float(torch.linalg.vector_norm(weight, dtype=torch.float64))


def drift_ratio(weight: Tensor, base: Tensor) -> float:
    """‖W − W₀‖_F / ‖W₀‖_F."""
    difference = weight.to(torch.float64) - base.to(torch.float64)
    norm = frobenius_norm(base)
    return frobenius_norm(difference) / norm if norm else math.nan


def spectrum(weight: Tensor, rank: int = SUBSPACE_RANK, start: Spectrum | None = None) -> Spectrum:
    """Leading singular values and vectors of a [d_out, d_in] weight.

    Works on the Gram matrix of the smaller side: exact up to `EXACT_SIDE`, else block subspace
    iteration, warm when `start` (an earlier spectrum of the same weight) is given. Squaring halves
    the digits, which for the *leading* values in float64 still leaves more than float32 holds.
    A weight with NaN or infinite entries gives a spectrum of NaN.
    """
    rank = min(rank, *weight.shape)
    if not torch.isfinite(weight).all():
        return _undefined(weight, rank)
    wide = weight.shape[0] <= weight.shape[1]
    matrix = weight.to(torch.float64) if wide else weight.to(torch.float64).T  # [small, large]
    if matrix.shape[0] <= EXACT_SIDE:
        squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
        near = vectors.flip(1)[:, :rank]
        values = squares.flip(0)[:rank].clamp_min(0).sqrt()
    else:
        values, near = _iterate(
            matrix, rank, None if start is None else (start.left if wide else start.right)
        )
    # Directions of value zero have no partner; leaving them zero keeps every overlap below one.
    far = (matrix.T @ near) / torch.where(values > 0, values, torch.inf)
    left, right = (near, far) if wide else (far, near)
    return Spectrum(frobenius_norm(weight), values, left.to(torch.float32), right.to(torch.float32))


def _iterate(matrix: Tensor, rank: int, warm: Tensor | None) -> tuple[Tensor, Tensor]:
    """Block subspace iteration with Rayleigh–Ritz on M Mᵀ; returns (σ [r], U [small, r])."""
    width = min(rank + OVERSAMPLING, matrix.shape[0])
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(matrix.shape[0], width, generator=generator, dtype=torch.float64)
    if warm is not None:
        kept = min(warm.shape[1], width)
        block[:, :kept] = warm[:, :kept].to(torch.float64)
    for _ in range(ITERATION_PASSES):
        block = torch.linalg.qr(matrix @ (matrix.T @ block)).Q
    small = matrix.T @ block
    squares, rotation = torch.linalg.eigh(small.T @ small)
    values = squares.flip(0)[:rank].clamp_min(0).sqrt()
    return values, (block @ rotation.flip(1))[:, :rank]


def _undefined(weight: Tensor, rank: int) -> Spectrum:
    nan = torch.full((max(weight.shape), rank), math.nan)
    values = torch.full((rank,), math.nan, dtype=torch.float64)
    return Spectrum(math.nan, values, nan[: weight.shape[0]], nan[: weight.shape[1]])


def subspace_similarity(base: Spectrum, now: Spectrum) -> float:
    """LS = √(LS_U · LS_V), LS_U = ‖U₀ᵀ U‖_F² / r: mean squared cosine of the principal angles.

    1 for the same dominant subspaces; about r/d for unrelated ones. Source: REVIVE
    (arXiv 2601.11042), with the formula written out here because the paper's is not public code.
    """
    overlaps = []
    for before, after in ((base.left, now.left), (base.right, now.right)):
        product = before.to(torch.float64).T @ after.to(torch.float64)
        overlaps.append(float((product**2).sum()) / before.shape[1])
    return _unit(math.sqrt(overlaps[0] * overlaps[1]))


def singular_vector_similarity(base: Spectrum, now: Spectrum) -> float:
    """SS = mean over i ≤ r of |⟨u_i⁰, u_i⟩| · |⟨v_i⁰, v_i⟩|.

    Falls sooner than LS: it also sees rotations and crossings inside the dominant subspace.
    """
    left = (base.left.to(torch.float64) * now.left.to(torch.float64)).sum(0).abs()
    right = (base.right.to(torch.float64) * now.right.to(torch.float64)).sum(0).abs()
    return _unit(float((left * right).mean()))


def _unit(value: float) -> float:
    """Rounding can carry a cosine past one; NaN stays NaN."""
    return 1.0 if value > 1.0 else value
