"""The joint solve against dense float64 references, and the identities that the design rests on."""

import pytest
import torch

from editing.errors import SolveError
from editing.memory.delta import materialise
from editing.solve.ridge import NullspacePrior, RidgePrior, solve

D, D_IN, N = 6, 12, 5


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    text = normal(D_IN, 200) * torch.logspace(0, -2, D_IN, dtype=torch.float64)[:, None]
    return normal(D, D_IN), normal(D_IN, N), normal(D, N), text @ text.T / 200


def dense(base, keys, values, inverse):
    """W₀ + (V − W₀K)Kᵀ(M₀ + KKᵀ)⁻¹ with a generic solver."""
    system = torch.linalg.inv(inverse) + keys @ keys.T
    return base + torch.linalg.solve(system, keys @ (values - base @ keys).T).T


def updated(base, keys, values, prior):
    a, b = solve(base, keys, values, prior)
    return base + a.double() @ b.double().T


def test_memit_equals_the_dense_float64_solve(problem):
    base, keys, values, moment = problem
    floor = 1e-6 * moment.diagonal().mean() * 3.0
    prior = 3.0 * moment + floor * torch.eye(D_IN, dtype=torch.float64)
    reference = dense(base, keys, values, torch.linalg.inv(prior))
    torch.testing.assert_close(
        updated(base, keys, values, RidgePrior(moment, 3.0)), reference, atol=1e-4, rtol=1e-4
    )


def test_encore_norm_term_enters_the_prior(problem):
    base, keys, values, moment = problem
    prior = 3.0 * moment + (2.0 + 1e-6 * moment.diagonal().mean() * 3.0) * torch.eye(D_IN)
    reference = dense(base, keys, values, torch.linalg.inv(prior))
    torch.testing.assert_close(
        updated(base, keys, values, RidgePrior(moment, 3.0, 2.0)), reference, atol=1e-4, rtol=1e-4
    )


def test_three_forms_of_alphaedit_agree(problem):
    base, keys, values, moment = problem
    ridge, threshold = 10.0, 1e-2
    eigenvalues, vectors = torch.linalg.eigh(moment)
    basis = vectors[:, eigenvalues < threshold]
    p = basis @ basis.T
    residual = values - base @ keys
    paper = torch.linalg.solve(p @ keys @ keys.T + ridge * torch.eye(D_IN), p @ keys @ residual.T).T
    small = basis.T @ keys
    reduced = residual @ small.T @ torch.linalg.inv(small @ small.T + ridge * torch.eye(len(small))) @ basis.T
    ours = updated(base, keys, values, NullspacePrior(moment, threshold, ridge)) - base
    assert 0 < basis.shape[1] < D_IN
    torch.testing.assert_close(ours, paper, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours, reduced, atol=1e-5, rtol=1e-5)


def test_alphaedit_leaves_the_outputs_of_text_as_they_are(problem):
    base, keys, values, moment = problem
    eigenvalues, vectors = torch.linalg.eigh(moment)
    used = vectors[:, eigenvalues >= 1e-2]
    change = updated(base, keys, values, NullspacePrior(moment, 1e-2, 10.0)) - base
    assert (change @ used).norm() < 1e-6 * change.norm()


def test_alphaedit_without_ridge_gives_keys_of_the_null_space_their_values(problem):
    base, keys, values, moment = problem
    prior = NullspacePrior(moment, 1e-2, 1e-9)
    inside = (prior.basis @ prior.basis.T @ keys)[:, : prior.basis.shape[1]]
    values = values[:, : prior.basis.shape[1]]
    found = updated(base, inside, values, prior) @ inside
    torch.testing.assert_close(found, values, atol=1e-3, rtol=1e-3)


def test_encore_without_its_norm_term_is_memit_and_a_heavy_one_holds_the_weights(problem):
    base, keys, values, moment = problem
    plain, none, heavy = (updated(base, keys, values, RidgePrior(moment, 3.0, n)) for n in (0.0, 1e-9, 1e9))
    torch.testing.assert_close(none, plain, atol=1e-5, rtol=1e-5)
    assert (heavy - base).norm() < 1e-6 * (plain - base).norm()


def test_sequential_updates_equal_the_joint_solve_in_any_order(problem):
    base, keys, values, moment = problem
    floor = 1e-6 * moment.diagonal().mean() * 3.0
    joint = updated(base, keys, values, RidgePrior(moment, 3.0))
    for order in ([0, 1, 2, 3, 4], [4, 1, 3, 0, 2]):
        weight = base.clone()
        system = 3.0 * moment + floor * torch.eye(D_IN, dtype=torch.float64)
        for i in order:
            key, value = keys[:, i : i + 1], values[:, i : i + 1]
            system = system + key @ key.T
            weight = weight + torch.linalg.solve(system, key @ (value - weight @ key).T).T
        torch.testing.assert_close(joint, weight, atol=1e-4, rtol=1e-4)


def test_exact_retraction_is_the_solve_without_the_column(problem):
    base, keys, values, moment = problem
    system = 3.0 * moment + 1e-6 * moment.diagonal().mean() * 3.0 * torch.eye(D_IN)
    weight = dense(base, keys, values, torch.linalg.inv(system))
    gone, key, value = system + keys[:, :-1] @ keys[:, :-1].T, keys[:, -1:], values[:, -1:]
    downdated = weight - torch.linalg.solve(gone, key @ (value - weight @ key).T).T
    resolved = updated(base, keys[:, :-1], values[:, :-1], RidgePrior(moment, 3.0))
    torch.testing.assert_close(downdated, resolved, atol=1e-4, rtol=1e-4)


def test_columns_added_to_any_factors_of_the_earlier_update_give_the_solve_of_all(problem):
    base, keys, values, moment = problem
    prior = RidgePrior(moment, 3.0)
    joint = updated(base, keys, values, prior)
    a, b = solve(base, keys[:, :3], values[:, :3], prior)
    turned = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1))).Q
    for written in ((a, b), (a @ turned, b @ turned)):
        new = solve(base, keys, values, prior, written=written, earlier=3)
        assert new[0].shape[1] == new[1].shape[1] == keys.shape[1] - 3
        pairs = (written, new)
        weight = base + sum(left.double() @ right.double().T for left, right in pairs)
        torch.testing.assert_close(weight, joint, atol=1e-5, rtol=1e-5)


def test_heavier_prior_writes_less_and_none_writes_nothing(problem):
    base, keys, values, moment = problem
    sizes = [
        float((updated(base, keys, values, RidgePrior(moment, w)) - base).norm()) for w in (1.0, 1e3, 1e12)
    ]
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[2] < 1e-3


def test_low_rank_frobenius_identity(problem):
    base, keys, values, moment = problem
    a, b = (f.double() for f in solve(base, keys, values, RidgePrior(moment, 3.0)))
    cheap = base.norm() ** 2 + 2 * (a.T @ (base @ b)).trace() + ((a.T @ a) @ (b.T @ b)).trace()
    torch.testing.assert_close(cheap, (base + a @ b.T).norm() ** 2)


def test_energy_identity_of_a_single_edit(problem):
    """E_M(W') − E_M(W) = (‖v_new‖² − ‖v_old‖²) / q, NAS §2.5."""
    base, keys, values, moment = problem
    metric = 3.0 * moment + 1e-6 * moment.diagonal().mean() * 3.0 * torch.eye(D_IN)
    key = keys[:, :1]
    weight = updated(base, key, values[:, :1], RidgePrior(moment, 3.0))
    q = float(key.T @ torch.linalg.solve(metric, key))
    grown = float((weight @ metric @ weight.T).trace() - (base @ metric @ base.T).trace())
    expected = float((weight @ key).norm() ** 2 - (base @ key).norm() ** 2) / q
    assert grown == pytest.approx(expected, rel=1e-3)


def test_values_that_are_not_finite_are_refused(problem):
    base, keys, values, moment = problem
    values[0, 0] = float("nan")
    with pytest.raises(SolveError, match="not finite"):
        solve(base, keys, values, RidgePrior(moment, 3.0))


def test_singular_moment_of_no_tokens_is_refused():
    with pytest.raises(SolveError, match="more tokens"):
        RidgePrior(torch.zeros(4, 4), 1.0)


def test_materialise_repeats_its_bits(problem):
    base, keys, values, moment = problem
    a, b = solve(base, keys, values, RidgePrior(moment, 3.0))
    assert torch.equal(materialise(base, a, b), materialise(base, a, b))
