"""Methods that write batch after batch, against dense float64 references written from their equations."""

import pytest
import torch

from editing.memory.state import Table
from editing.methods.chain import ChainSolver, emmet, memit, nse, prune, rect, rome
from editing.methods.joint import memit_seq
from editing.methods.parameters import Parameters
from editing.methods.regularise import conditioned, sparse
from editing.solve.revive import unprotected
from editing.solve.ridge import NeuronPrior, bounded
from editing.values.options import ValueOptions
from tests.editing.methods.conftest import D_IN, D

BATCHES = torch.tensor([0, 0, 1, 3, 3])
NUMBERS = Parameters((0,), ValueOptions()).changed(moment_weight=3.0)


@pytest.fixture
def table():
    generator = torch.Generator().manual_seed(3)
    return Table(
        torch.randn(D_IN, 5, generator=generator), torch.randn(D, 5, generator=generator), BATCHES.clone()
    )


def written(base, factors):
    a, b = factors
    return base.double() + a.double() @ b.double().T


def folded(base, table, columns_of, step):
    """W_b = W_{b−1} + step(W_{b−1}, K_b, R_b, keys of earlier batches)."""
    weight = base.double()
    for columns in columns_of:
        keys, values = table.keys[:, columns].double(), table.values[:, columns].double()
        past = table.keys[:, : columns[0]].double()
        weight = weight + step(weight, keys, values - weight @ keys, past)
    return weight


PARTS = [[0, 1], [2], [3, 4]]
SINGLE = [[i] for i in range(5)]


def ridge(moment, weight=3.0):
    """λC with the solver's floor."""
    return weight * moment + 1e-6 * weight * moment.diagonal().mean() * torch.eye(D_IN, dtype=torch.float64)


def made(method, base, moment, **changes):
    numbers = NUMBERS.changed(**changes)
    return method(base, moment, unprotected(base), numbers)


def near(actual, expected, tolerance=1e-4):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def test_memit_forgets_its_keys_between_batches(base, moment, table):
    def step(_w, k, r, _past):
        return r @ k.T @ torch.linalg.inv(ridge(moment) + k @ k.T)

    found = written(base, made(memit, base, moment).factors(table))
    near(found, folded(base, table, PARTS, step))
    joint = written(base, made(memit_seq, base, moment).factors(table))
    assert (found - joint).norm() > 0.01


def test_memit_of_one_batch_is_the_joint_solve(base, moment, table):
    one = Table(table.keys, table.values, torch.zeros(5))
    near(
        written(base, made(memit, base, moment).factors(one)),
        written(base, made(memit_seq, base, moment).factors(one)),
    )


def test_emmet_equals_its_equation(base, moment, table):
    inverse = torch.linalg.inv(ridge(moment))

    def step(_w, k, r, _past):
        slack = 0.1 if k.shape[1] > 1 else 0.0
        system = k.T @ inverse @ k + slack * torch.eye(k.shape[1], dtype=torch.float64)
        return r @ torch.linalg.inv(system) @ k.T @ inverse

    near(written(base, made(emmet, base, moment).factors(table)), folded(base, table, PARTS, step))


def test_emmet_without_slack_gives_the_last_batch_its_values_exactly(base, moment, table):
    weight = written(base, made(emmet, base, moment, slack=0.0).factors(table))
    near(weight @ table.keys[:, 3:].double(), table.values[:, 3:].double())


def test_emmet_is_memit_with_the_product_of_slack_and_weight(base, moment, table):
    pairs = Table(table.keys[:, :4], table.values[:, :4], torch.tensor([0, 0, 1, 1]))
    near(
        written(base, made(emmet, base, moment, slack=0.1, moment_weight=30.0).factors(pairs)),
        written(base, made(memit, base, moment, moment_weight=3.0).factors(pairs)),
    )


def test_rome_equals_its_equation_and_writes_each_value_exactly(base, moment, table):
    inverse = torch.linalg.inv(ridge(moment, 1.0))

    def step(_w, k, r, _past):
        direction = inverse @ k
        return r @ direction.T / (direction.T @ k)

    solver = made(rome, base, moment)
    near(written(base, solver.factors(table)), folded(base, table, SINGLE, step))
    for n in range(1, 6):
        first = Table(table.keys[:, :n], table.values[:, :n], BATCHES[:n])
        weight = written(base, solver.factors(first))
        near(weight @ table.keys[:, n - 1].double(), table.values[:, n - 1].double())


def test_nse_equals_its_equation(base, moment, table):
    def step(_w, k, r, past):
        size, order = k.abs().sum(1).sort(descending=True)
        chosen = [int(i) for i, s in zip(order, size.cumsum(0), strict=True) if s <= 0.6 * size.sum()]
        part = k[chosen]
        system = 3.0 * moment[chosen][:, chosen] + past[chosen] @ past[chosen].T + part @ part.T
        change = torch.zeros(D, D_IN, dtype=torch.float64)
        change[:, chosen] = r @ part.T @ torch.linalg.inv(system)
        assert 0 < len(chosen) < D_IN
        return change

    near(
        written(base, made(nse, base, moment, neuron_share=0.6).factors(table)),
        folded(base, table, PARTS, step),
        1e-3,
    )


def test_nse_with_all_neurons_is_the_joint_solve(base, moment, table):
    near(
        written(base, made(nse, base, moment, neuron_share=1.0).factors(table)),
        written(base, made(memit_seq, base, moment).factors(table)),
    )
    prior = NeuronPrior(moment, 3.0, table.keys[:, :0], table.keys, 1.0)
    assert prior.neurons.tolist() == list(range(D_IN))


def test_nse_writes_at_least_one_neuron(base, moment, table):
    _, b = made(nse, base, moment, neuron_share=0.0).factors(Table(table.keys, table.values))
    assert (b.abs().sum(1) > 0).sum() == 1


def test_rect_keeps_the_relatively_largest_entries(base, moment, table):
    def step(w, k, r, _past):
        delta = r @ k.T @ torch.linalg.inv(ridge(moment) + k @ k.T)
        relative = (delta / w).abs()
        cut = relative.flatten().sort(descending=True).values[round(0.4 * delta.numel()) - 1]
        return torch.where(relative >= cut * (1 - 1e-9), delta, 0.0)

    found = made(rect, base, moment).factors(table)
    near(written(base, found), folded(base, table, PARTS, step), 1e-3)
    assert found[0].shape[1] == D


def test_rect_that_keeps_all_is_memit(base, moment, table):
    near(
        written(base, made(rect, base, moment, kept_share=1.0).factors(table)),
        written(base, made(memit, base, moment).factors(table)),
    )


def test_rect_keeps_exactly_the_share_asked_for(base):
    update = torch.randn(D, 2), torch.randn(D_IN, 2)
    a, b = sparse(base, update, 0.25)
    delta = a @ b.T
    assert int((delta != 0).sum()) == round(0.25 * D * D_IN)
    dense = update[0] @ update[1].T
    near(delta[delta != 0], dense[delta != 0], 1e-5)


def test_prune_compresses_only_the_singular_values_above_the_limit():
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(D, 3, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(D_IN, 3, generator=generator)).Q
    values = torch.tensor([40.0, 12.0, 2.0])
    a, b = conditioned((left * values, right), 10.0, 1.5)
    dense = (a.double() @ b.double().T)[:, :]
    logarithms = [
        10 + float(torch.log(torch.tensor(v / 10)) / torch.log(torch.tensor(1.5))) for v in (40, 12)
    ]
    near(torch.linalg.svdvals(dense)[:3].float(), torch.tensor([*logarithms, 2.0]))
    near(dense.float() @ right[:, 0], left[:, 0] * logarithms[0])


def test_prune_never_enlarges_a_singular_value():
    update = torch.eye(3) * torch.tensor([0.2, 0.11, 0.05]), torch.eye(3)
    a, b = conditioned(update, 0.1, 1.2)
    assert (torch.linalg.svdvals(a @ b.T) <= torch.tensor([0.2, 0.11, 0.05]) + 1e-6).all()


def test_prune_leaves_a_small_update_as_it_is(base, moment, table):
    assert float(torch.linalg.svdvals(base)[0]) > 1
    small = Table(table.keys, base @ table.keys + 0.01 * table.values, BATCHES)
    pruned, plain = (made(method, base, moment).factors(small) for method in (prune, memit))
    assert all(torch.equal(x, y) for x, y in zip(pruned, plain, strict=True))


def test_prune_bounds_a_large_update_and_adds_it_once(base, moment, table):
    large = Table(table.keys, 1000 * table.values, BATCHES)
    pruned, plain = (written(base, made(m, base, moment).factors(large)) - base for m in (prune, memit))
    limit = torch.linalg.svdvals(base.double())[0]
    before, after = torch.linalg.svdvals(plain)[0], torch.linalg.svdvals(pruned)[0]
    assert before > 10 * limit
    assert after < limit + torch.log(before / limit) / torch.log(torch.tensor(1.2)) + 1


def projected(update, weight):
    """RECT on a dense update."""
    relative = (update / weight).abs()
    cut = relative.flatten().sort(descending=True).values[round(0.4 * update.numel()) - 1]
    return torch.where(relative >= cut * (1 - 1e-9), update, 0.0)


def compressed(update, limit):
    """PRUNE on a dense update."""
    u, s, vt = torch.linalg.svd(update, full_matrices=False)
    logarithms = limit + (s.clamp(min=limit) / limit).log() / torch.log(torch.tensor(1.2))
    return (u * torch.minimum(s, logarithms)) @ vt


@pytest.mark.parametrize(("method", "scale"), [(rect, 1.0), (prune, 1000.0)])
def test_compensation_equals_its_equations(method, scale, base, moment, table):
    """E_b = (R(Δ_b) − Δ_b)C_b, Δ_b = (R_bK_bᵀ − E_{b−1})C_b⁻¹."""
    table = Table(table.keys, scale * table.values, table.batches)
    limit = torch.linalg.svdvals(base.double())[0]
    total, error, system = torch.zeros(D, D_IN).double(), 0.0, ridge(moment)
    for part in PARTS:
        keys, values = table.keys[:, part].double(), table.values[:, part].double()
        system = system + keys @ keys.T
        weight = base.double() + total
        delta = ((values - weight @ keys) @ keys.T - error) @ torch.linalg.inv(system)
        kept = projected(delta, weight) if method is rect else compressed(total + delta, limit) - total
        error, total = (kept - delta) @ system, total + kept
    found = written(base, made(method, base, moment, compensated=True).factors(table)) - base
    assert error.norm() > 0.1
    torch.testing.assert_close(found, total, atol=2e-4 * scale, rtol=1e-3)
    plain = written(base, made(method, base, moment).factors(table)) - base
    assert (plain - total).norm() > 0.01 * total.norm()


@pytest.mark.parametrize("method", [rect, prune])
def test_compensated_methods_that_project_nothing_are_the_joint_solve(method, base, moment, table):
    small = Table(table.keys, base @ table.keys + 0.01 * table.values, table.batches)
    found = made(method, base, moment, compensated=True, kept_share=1.0).factors(small)
    near(written(base, found), written(base, made(memit_seq, base, moment).factors(small)))


def test_compensated_prune_does_not_depend_on_the_batches(base, moment, table):
    large = Table(table.keys, 1000 * table.values, BATCHES)
    one = Table(large.keys, large.values, torch.zeros(5))
    solver = made(prune, base, moment, compensated=True)
    near(written(base, solver.factors(large)), written(base, solver.factors(one)), 1e-3)


@pytest.mark.parametrize("method", [rect, prune])
def test_compensated_methods_go_on_to_the_bits_of_the_whole_fold(method, base, moment, table):
    solver, grown, earlier = made(method, base, moment, compensated=True), None, 0
    for n in (2, 3, 5):
        part = Table(table.keys[:, :n], table.values[:, :n], BATCHES[:n])
        grown, earlier = solver.factors(part, grown, earlier), n
    assert all(torch.equal(x, y) for x, y in zip(grown, solver.factors(table), strict=True))


@pytest.mark.parametrize("method", [memit, emmet, rome, nse, rect, prune])
def test_going_on_from_the_earlier_factors_gives_the_bits_of_the_whole_fold(method, base, moment, table):
    solver = made(method, base, moment)
    grown, earlier = None, 0
    for n in (2, 3, 5):
        part = Table(table.keys[:, :n], table.values[:, :n], BATCHES[:n])
        grown, earlier = solver.factors(part, grown, earlier), n
    whole = solver.factors(table)
    assert all(torch.equal(x, y) for x, y in zip(grown, whole, strict=True))


def test_rank_is_bounded_without_changing_the_update(base):
    generator = torch.Generator().manual_seed(0)
    for d, d_in in ((3, 5), (5, 3)):
        a, b = torch.randn(d, 9, generator=generator), torch.randn(d_in, 9, generator=generator)
        assert bounded(a[:, :6], b[:, :6])[0].shape[1] == 6
        small = bounded(a, b)
        assert small[0].shape[1] == 3
        near(small[0] @ small[1].T, a @ b.T, 1e-5)
        assert bounded(*small)[0] is small[0]


def test_a_long_chain_of_batches_keeps_its_files_small(base, moment):
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(D_IN, 40, generator=generator), torch.randn(D, 40, generator=generator)
    table = Table(keys, values, torch.arange(40))
    solver = made(memit, base, moment)
    assert isinstance(solver, ChainSolver)
    assert solver.factors(table)[0].shape[1] <= 2 * D

    def step(_w, k, r, _past):
        return r @ k.T @ torch.linalg.inv(ridge(moment) + k @ k.T)

    near(written(base, solver.factors(table)), folded(base, table, [[i] for i in range(40)], step), 1e-3)
