"""Spectra of weight matrices: norms, stable rank, and how far the dominant directions have turned.

All arithmetic is float64; results are Python floats or float32 bases.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.typed import eigenvalues, eigh, entropy, frobenius, orthonormal

#: Number of leading singular directions watched. 64 of 576 hold most of the energy of the bundled
#: model's edited weights, and the bases stay small enough to store (64 x (d_out + d_in) floats).
SUBSPACE_RANK = 64

#: Up to this smaller side the Gram matrix is decomposed exactly (576: some 0.1 s); above it a block Krylov
#: iteration has no cubic term.
EXACT_SIDE = 1024

#: Blocks of the Krylov space, and extra directions in each. Edited weights have no gap at the last watched
#: singular value: power iteration from the last spectrum was still 0.02 off in LS after eight passes.
KRYLOV_BLOCKS = 5
OVERSAMPLING = 16

#: Neighbouring singular values closer than this share of the larger one make one cluster: inside it
#: single vectors turn and swap at the least touch, and mean nothing.
CLUSTER_GAP = 0.01

#: Entries above which a matrix is multiplied in float32: its float64 copy (Llama-3-8B: 470 MB a layer)
#: and half the speed buy digits that the bases, float32 themselves, cannot hold.
FLOAT32_ENTRIES = 1 << 23


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
    return frobenius(weight)


def spectrum(weight: Tensor, rank: int = SUBSPACE_RANK, start: Spectrum | None = None) -> Spectrum:
    """Leading singular values and vectors of a [d_out, d_in] weight.

    With a smaller side s up to `EXACT_SIDE`: eigenvectors of the Gram matrix, 2 s² l + O(s³) flops. Else a
    block Krylov iteration that begins at `start`, an earlier spectrum of the same weight, where there is one:
    18 (r + 16) d_out d_in flops (Llama-3-8B: 85 GFLOP).
    Squaring halves the digits, which for the *leading* values still leaves what float32 holds.
    A weight with NaN or infinite entries gives a spectrum of NaN.
    """
    rank = min(rank, *weight.shape)
    norm = frobenius_norm(weight)
    if not math.isfinite(norm):
        return _undefined(weight, rank)
    wide = weight.shape[0] <= weight.shape[1]
    matrix = _working(weight) if wide else _working(weight).T  # [small, large]
    if matrix.shape[0] <= EXACT_SIDE:
        exact = matrix.to(torch.float64)
        squares, vectors = eigh(exact @ exact.T)
        near = vectors.flip(1)[:, :rank].to(matrix.dtype)
        far, values = matrix.T @ near, squares.flip(0)[:rank].clamp_min(0).sqrt()
    else:
        warm = None if start is None else (start.left if wide else start.right)
        near, far, values = _krylov(matrix, rank, warm)
    # Directions of value zero have no partner; leaving them zero keeps every overlap below one.
    far = far / torch.where(values > 0, values, torch.inf).to(matrix.dtype)
    left, right = (near, far) if wide else (far, near)
    return Spectrum(norm, values, left.to(torch.float32), right.to(torch.float32))


def _working(weight: Tensor) -> Tensor:
    return weight.to(torch.float32 if weight.numel() > FLOAT32_ENTRIES else torch.float64)


def _krylov(matrix: Tensor, rank: int, warm: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Block Krylov iteration with Rayleigh–Ritz on M Mᵀ; returns (U [small, r], MᵀU [large, r], σ [r]).

    The space is spanned by X, MMᵀX, …, (MMᵀ)^q X. Power iteration keeps the last of these only, and needs
    about the square of the passes. Source: Musco & Musco, arXiv 1504.05477, algorithm 2.
    """
    width = min(rank + OVERSAMPLING, matrix.shape[0])
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(matrix.shape[0], width, generator=generator, dtype=torch.float64).to(matrix)
    if warm is not None and torch.isfinite(warm).all():
        kept = min(warm.shape[1], width)
        block[:, :kept] = warm[:, :kept].to(matrix)
    basis, images = matrix.new_zeros(matrix.shape[0], 0), matrix.new_zeros(matrix.shape[1], 0)
    for _ in range(KRYLOV_BLOCKS):
        for _ in range(2):  # once leaves what rounding has brought back
            block = orthonormal(block - basis @ (basis.T @ block))
        image = matrix.T @ block
        basis, images = torch.cat([basis, block], 1), torch.cat([images, image], 1)
        # No more directions than there are.
        block = matrix @ image[:, : matrix.shape[0] - basis.shape[1]]
        if not block.shape[1]:
            break
    squares, rotation = eigh(images.T.double() @ images.double())
    turned = rotation.flip(1)[:, :rank].to(matrix)
    return basis @ turned, images @ turned, squares.flip(0)[:rank].clamp_min(0).sqrt()


def _undefined(weight: Tensor, rank: int) -> Spectrum:
    nan = torch.full((max(weight.shape), rank), math.nan)
    values = torch.full((rank,), math.nan, dtype=torch.float64)
    return Spectrum(math.nan, values, nan[: weight.shape[0]], nan[: weight.shape[1]])


def subspace_similarity(base: Spectrum, now: Spectrum) -> float:
    """LS = √(LS_U · LS_V), LS_U = ‖U₀ᵀ U‖_F² / r: mean squared cosine of the principal angles.

    1 for the same dominant subspaces; about r/d for unrelated ones. Source: REVIVE
    (arXiv 2601.11042), with the formula written out here because the paper's is not public code.
    """
    overlaps: list[float] = []
    for before, after in ((base.left, now.left), (base.right, now.right)):
        product = before.to(torch.float64).T @ after.to(torch.float64)
        overlaps.append(float((product**2).sum()) / before.shape[1])
    return _unit(math.sqrt(overlaps[0] * overlaps[1]))


def singular_vector_similarity(base: Spectrum, now: Spectrum) -> float:
    """SS = mean over i ≤ r of |⟨u_i⁰, u_i⟩| · |⟨v_i⁰, v_i⟩|.

    Falls sooner than LS: it also sees rotations and crossings inside the dominant subspace.
    """
    return _unit(float(_overlaps(base, now).diagonal().mean()))


def gap_aware_similarity(base: Spectrum, now: Spectrum, gap: float = CLUSTER_GAP) -> float:
    """SS_max = mean over i ≤ r of max_j |⟨u_i⁰, u_j⟩| · |⟨v_i⁰, v_j⟩|, j in the cluster of i.

    A cluster is a run of base values with (σ_i − σ_{i+1}) / σ_i < `gap`. Vectors of one cluster may
    change places without any change that matters: SS counts that as a loss, this does not.
    O((d_out + d_in) r²) flops.
    """
    overlaps = _overlaps(base, now)
    values = base.values
    together = (values[:-1] - values[1:]) < gap * values[:-1]
    cluster = torch.cat([torch.zeros(1), (~together).cumsum(0).double().cpu()]).to(overlaps.device)
    same = cluster[:, None] == cluster[None, :]
    return _unit(float(overlaps.masked_fill(~same, -1).amax(1).mean()))


def _overlaps(base: Spectrum, now: Spectrum) -> Tensor:
    """|⟨u_i⁰, u_j⟩| · |⟨v_i⁰, v_j⟩| for all i, j: float64 [r, r]."""
    left = base.left.to(torch.float64).T @ now.left.to(torch.float64)
    right = base.right.to(torch.float64).T @ now.right.to(torch.float64)
    return (left * right).abs()


def entropy_rank(weight: Tensor) -> float:
    """exp(−Σ p_i ln p_i), p_i = σ_i / Σσ over *all* singular values: how many directions carry W.

    From the eigenvalues of the smaller Gram matrix in float64: 2 s² l + O(s³) flops (Llama-3-8B: half a
    TFLOP a layer), so it is a deep measure, not one of each update. NaN for a zero or non-finite weight.
    """
    if not math.isfinite(frobenius_norm(weight)):
        return math.nan
    matrix = weight.to(torch.float64) if weight.shape[0] <= weight.shape[1] else weight.to(torch.float64).T
    values = eigenvalues(matrix @ matrix.T).clamp_min(0).sqrt()
    shares = values / values.sum()
    return float(entropy(shares).exp())


def _unit(value: float) -> float:
    """Rounding can carry a cosine past one; NaN stays NaN."""
    return 1.0 if value > 1.0 else value
