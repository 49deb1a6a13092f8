"""Against dense float64 singular value decompositions."""

import math

import pytest
import torch

from monitoring.measuring import spectral
from monitoring.measuring.spectral import (
    entropy_rank,
    gap_aware_similarity,
    singular_vector_similarity,
    spectrum,
    subspace_similarity,
)

RANK = 8


def weight_of(shape, seed=0):
    """A matrix with a decaying spectrum, so that its leading directions are well defined."""
    torch.manual_seed(seed)
    u, _, v = torch.linalg.svd(torch.randn(*shape, dtype=torch.float64), full_matrices=False)
    sizes = 5 * 0.8 ** torch.arange(u.shape[1], dtype=torch.float64)
    return ((u * sizes) @ v).float()


def dense_similarities(before, after, rank):
    u0, _, v0 = torch.linalg.svd(before.double(), full_matrices=False)
    u1, _, v1 = torch.linalg.svd(after.double(), full_matrices=False)
    left, right = u0[:, :rank].T @ u1[:, :rank], v0[:rank] @ v1[:rank].T
    ls = math.sqrt(float((left**2).sum() / rank) * float((right**2).sum() / rank))
    return ls, float((left.diagonal().abs() * right.diagonal().abs()).mean())


@pytest.fixture(params=["exact", "iterated"])
def method(request, monkeypatch):
    if request.param == "iterated":
        monkeypatch.setattr(spectral, "EXACT_SIDE", 0)


@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (40, 40)])
def test_equals_the_dense_decomposition(shape, method):
    before = weight_of(shape)
    after = before + 0.3 * weight_of(shape, seed=1)
    start = spectrum(before, RANK)
    now = spectrum(after, RANK, start)
    reference = torch.linalg.svdvals(after.double())
    assert now.frobenius == pytest.approx(float((reference**2).sum().sqrt()), rel=1e-12)
    assert torch.allclose(now.values, reference[:RANK], rtol=1e-6)
    assert now.stable_rank == pytest.approx(float((reference**2).sum() / reference[0] ** 2), rel=1e-6)
    ls, ss = dense_similarities(before, after, RANK)
    assert subspace_similarity(start, now) == pytest.approx(ls, abs=1e-5)
    assert singular_vector_similarity(start, now) == pytest.approx(ss, abs=1e-5)


def test_directions_are_right_where_values_leave_no_gap(monkeypatch):
    monkeypatch.setattr(spectral, "EXACT_SIDE", 0)
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    # Like an edited weight: one large value, then a slow fall that goes on behind the last one watched.
    u, v = torch.linalg.qr(drawn(400, 400)).Q, torch.linalg.qr(drawn(900, 400)).Q
    sizes = 16 * (1 - torch.arange(400) / 500).double()
    sizes[0] = 27
    before = ((u * sizes) @ v.T).float()
    after = (before.double() + drawn(400, 20) @ drawn(20, 900) * 0.05).float()
    now = spectrum(after, spectral.SUBSPACE_RANK, start=spectrum(before, spectral.SUBSPACE_RANK))
    ls, _ = dense_similarities(before, after, spectral.SUBSPACE_RANK)
    assert subspace_similarity(spectrum(before, spectral.SUBSPACE_RANK), now) == pytest.approx(ls, abs=0.01)


def test_an_unchanged_weight_is_wholly_similar(method):
    one = spectrum(weight_of((24, 60)), RANK)
    assert subspace_similarity(one, one) == pytest.approx(1, abs=1e-6)
    assert singular_vector_similarity(one, one) == pytest.approx(1, abs=1e-6)


def test_scaling_changes_norms_but_no_directions():
    weight = weight_of((24, 60))
    one, twice = spectrum(weight, RANK), spectrum(2 * weight, RANK)
    assert twice.spectral_norm == pytest.approx(2 * one.spectral_norm, rel=1e-9)
    assert twice.stable_rank == pytest.approx(one.stable_rank, rel=1e-9)
    assert subspace_similarity(one, twice) == pytest.approx(1, abs=1e-6)


def test_a_rotation_leaves_norms_and_turns_directions():
    weight = weight_of((40, 40))
    rotation = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64)).Q
    one, turned = spectrum(weight, RANK), spectrum((rotation @ weight.double()).float(), RANK)
    assert turned.spectral_norm == pytest.approx(one.spectral_norm, rel=1e-5)
    assert turned.stable_rank == pytest.approx(one.stable_rank, rel=1e-5)
    # LS_V stays 1 and LS_U falls to about r/d.
    assert subspace_similarity(one, turned) < 0.8


def test_mixing_inside_the_subspace_lowers_only_the_single_vectors():
    torch.manual_seed(0)
    u = torch.linalg.qr(torch.randn(24, 24, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(60, 60, dtype=torch.float64)).Q[:, :24]
    sizes = torch.linspace(10, 1, 24, dtype=torch.float64)
    swapped = sizes.clone()
    swapped[[0, 1]] = sizes[[1, 0]]
    one, other = (spectrum(((u * s) @ v.T).float(), RANK) for s in (sizes, swapped))
    assert subspace_similarity(one, other) == pytest.approx(1, abs=1e-5)
    assert singular_vector_similarity(one, other) == pytest.approx(1 - 2 / RANK, abs=1e-4)


def test_a_weight_with_nan_gives_nan():
    weight = weight_of((24, 60))
    start = spectrum(weight, RANK)
    weight[3, 3] = math.nan
    now = spectrum(weight, RANK, start)
    assert math.isnan(now.frobenius)
    assert math.isnan(now.spectral_norm)
    assert math.isnan(now.stable_rank)
    assert math.isnan(subspace_similarity(start, now))
    assert math.isnan(singular_vector_similarity(start, now))


def test_is_deterministic(method):
    weight = weight_of((24, 60))
    one, other = spectrum(weight, RANK), spectrum(weight, RANK)
    assert torch.equal(one.values, other.values)
    assert torch.equal(one.left, other.left)


def turned_by(weight, angle: float, seed=7):
    """`weight` with its left side turned by some small rotation: what a mild update does."""
    torch.manual_seed(seed)
    skew = torch.randn(len(weight), len(weight), dtype=torch.float64)
    rotation = torch.matrix_exp(angle * (skew - skew.T) / len(weight) ** 0.5)
    return (rotation @ weight.double()).float()


@pytest.mark.parametrize("shape", [(48, 120), (120, 48)])
def test_a_warm_start_gives_what_a_dense_decomposition_gives(shape):
    weight = weight_of(shape)
    start = spectrum(weight, RANK)
    later = turned_by(weight, 0.02)
    warm, cold = spectrum(later, RANK, start), spectrum(later, RANK)
    exact = torch.linalg.svdvals(later.double())[:RANK]
    assert torch.allclose(warm.values, exact, rtol=2e-3)
    assert subspace_similarity(start, warm) == pytest.approx(subspace_similarity(start, cold), abs=3e-3)
    assert subspace_similarity(cold, warm) > 0.99


def test_a_large_matrix_is_multiplied_in_float32(monkeypatch):
    weight = weight_of((40, 100))
    exact = spectrum(weight, RANK)
    monkeypatch.setattr(spectral, "FLOAT32_ENTRIES", 1)
    single = spectrum(weight, RANK, exact)
    assert torch.allclose(single.values, exact.values, rtol=1e-5)
    assert subspace_similarity(exact, single) == pytest.approx(1, abs=1e-4)


def test_entropy_rank_equals_its_definition_and_its_limits():
    weight = weight_of((24, 60))
    values = torch.linalg.svdvals(weight.double())
    shares = values / values.sum()
    assert entropy_rank(weight) == pytest.approx(math.exp(-float((shares * shares.log()).sum())), rel=1e-6)
    assert entropy_rank(weight.T) == pytest.approx(entropy_rank(weight), rel=1e-9)
    assert entropy_rank(torch.eye(12)) == pytest.approx(12)
    assert entropy_rank(torch.ones(5, 7)) == pytest.approx(1, abs=1e-5)
    assert math.isnan(entropy_rank(torch.full((3, 4), math.nan)))
    assert math.isnan(entropy_rank(torch.zeros(3, 4)))


def test_vectors_that_change_places_in_a_cluster_cost_nothing():
    torch.manual_seed(0)
    u = torch.linalg.qr(torch.randn(24, 24, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(60, 60, dtype=torch.float64)).Q[:, :24]
    sizes = torch.linspace(10, 1, 24, dtype=torch.float64)
    sizes[1] = sizes[0] * 0.995
    crossed = sizes.clone()
    crossed[[0, 1]] = sizes[[1, 0]]
    apart = sizes.clone()
    apart[[3, 4]] = sizes[[4, 3]]
    one, same, other = (spectrum(((u * s) @ v.T).float(), RANK) for s in (sizes, crossed, apart))
    assert singular_vector_similarity(one, same) == pytest.approx(1 - 2 / RANK, abs=1e-3)
    assert gap_aware_similarity(one, same) == pytest.approx(1, abs=1e-3)
    assert gap_aware_similarity(one, other) == pytest.approx(1 - 2 / RANK, abs=1e-3)
    assert gap_aware_similarity(one, one) == pytest.approx(1, abs=1e-6)
