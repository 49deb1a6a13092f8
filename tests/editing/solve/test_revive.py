"""REVIVE: what is protected, and that no update touches it."""

import pytest
import torch

from editing.memory.state import Table
from editing.methods.chain import memit, nse, prune, rect, rome
from editing.methods.joint import alphaedit, encore, memit_seq
from editing.methods.parameters import Parameters
from editing.solve.revive import ProtectedPrior, dominant, protection, unprotected
from editing.solve.ridge import NullspacePrior, RidgePrior
from editing.values.options import ValueOptions

D, D_IN, K = 8, 14, 2
NUMBERS = Parameters((0,), ValueOptions()).changed(
    moment_weight=3.0, nullspace_threshold=0.05, neuron_share=0.9
)


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def base():
    return normal(D, D_IN, seed=0)


@pytest.fixture
def moment():
    text = normal(D_IN, 200, seed=1) * torch.logspace(0, -2, D_IN, dtype=torch.float64)[:, None]
    return text @ text.T / 200


@pytest.fixture
def table():
    return Table(normal(D_IN, 5, seed=2), normal(D, 5, seed=3), torch.tensor([0, 0, 1, 2, 2]))


@pytest.mark.parametrize("turned", [False, True])
def test_protected_directions_are_the_leading_singular_ones(base, turned):
    weight = base.T if turned else base
    u, _, vt = torch.linalg.svd(weight, full_matrices=False)
    found = dominant(weight, 0.25, within=True)
    for ours, theirs in ((found.left, u[:, :K]), (found.right, vt[:K].T)):
        torch.testing.assert_close(ours @ ours.T, theirs @ theirs.T)
        torch.testing.assert_close(ours.T @ ours, torch.eye(K, dtype=torch.float64))


def test_at_least_one_direction_is_protected(base):
    assert dominant(base, 1e-6, within=False).left.shape == (D, 1)


@pytest.mark.parametrize("protect", ["revive", "revive-after"])
@pytest.mark.parametrize("method", [memit_seq, encore, alphaedit, memit, rome, nse, rect, prune])
def test_no_update_touches_the_protected_directions(method, protect, base, moment, table):
    protected = protection(protect, base, 0.25)
    a, b = (x.double() for x in method(base, moment, protected, NUMBERS).factors(table))
    delta = a @ b.T
    assert delta.norm() > 0.1
    assert (delta @ protected.right).norm() < 1e-5 * delta.norm()
    assert (protected.left.T @ delta).norm() < 1e-5 * delta.norm()


def test_constrained_inverse_is_that_of_a_basis_of_the_complement(base, moment):
    """M⁻¹ − M⁻¹V(VᵀM⁻¹V)⁻¹VᵀM⁻¹ = N(NᵀMN)⁻¹Nᵀ."""
    right = dominant(base, 0.25, within=True).right
    prior = RidgePrior(moment, 3.0)
    system = prior.factor @ prior.factor.T
    complement = torch.linalg.svd(right.T).Vh[K:].T
    reference = complement @ torch.linalg.inv(complement.T @ system @ complement) @ complement.T
    found = ProtectedPrior(prior, right).inverse_times(torch.eye(D_IN, dtype=torch.float64))
    torch.testing.assert_close(found, reference, atol=1e-8, rtol=1e-8)


def test_of_a_null_space_the_part_orthogonal_to_the_directions_is_left(base, moment):
    right = dominant(base, 0.25, within=True).right
    prior = NullspacePrior(moment, 0.05, 10.0)
    # Range(P) ∩ V^⊥: the null space of (I − P) + VVᵀ.
    outside = torch.eye(D_IN, dtype=torch.float64) - prior.basis @ prior.basis.T + right @ right.T
    values, vectors = torch.linalg.eigh(outside)
    inside = vectors[:, values < 1e-9]
    found = ProtectedPrior(prior, right).inverse_times(torch.eye(D_IN, dtype=torch.float64))
    assert inside.shape[1] == prior.basis.shape[1] - K
    torch.testing.assert_close(found, inside @ inside.T / 10.0, atol=1e-9, rtol=1e-9)


def test_directions_that_the_null_space_lacks_already_cost_it_nothing(moment):
    prior = NullspacePrior(moment, 0.05, 10.0)
    vectors = torch.linalg.eigh(moment).eigenvectors
    identity = torch.eye(D_IN, dtype=torch.float64)
    found = ProtectedPrior(prior, vectors[:, -K:]).inverse_times(identity)
    torch.testing.assert_close(found, prior.inverse_times(identity))


def test_solving_within_the_constraint_fits_better_than_filtering_after(base, moment, table):
    """Both leave out what the left side forbids; compared is the rest of the residual."""
    errors = {}
    for protect in ("revive", "revive-after"):
        protected = protection(protect, base, 0.25)
        a, b = (x.double() for x in memit_seq(base, moment, protected, NUMBERS).factors(table))
        miss = table.values - (base + a @ b.T) @ table.keys
        errors[protect] = float((miss - protected.left @ (protected.left.T @ miss)).norm())
    assert errors["revive"] < errors["revive-after"]


def test_constrained_solve_is_the_optimum_among_allowed_updates(base, moment, table):
    protected = protection("revive", base, 0.25)
    prior = RidgePrior(moment, 3.0)
    system = prior.factor @ prior.factor.T
    complement = torch.linalg.svd(protected.right.T).Vh[K:].T
    residual = table.values - base @ table.keys
    residual = residual - protected.left @ (protected.left.T @ residual)
    small = complement.T @ table.keys
    reference = (
        residual @ small.T @ torch.linalg.inv(complement.T @ system @ complement + small @ small.T)
    ) @ complement.T
    a, b = (x.double() for x in memit_seq(base, moment, protected, NUMBERS).factors(table))
    torch.testing.assert_close(a @ b.T, reference, atol=1e-4, rtol=1e-4)


def test_nothing_protected_changes_no_bit(base):
    factors = normal(D, 3, seed=5).float(), normal(D_IN, 3, seed=6).float()
    kept = unprotected(base).filtered(*factors)
    assert all(torch.equal(x, y) for x, y in zip(kept, factors, strict=True))
