"""UltraEdit and StableEdit against dense float64 references written from their equations."""

import pytest
import torch

from editing.errors import SolveError
from editing.memory.state import Table
from editing.methods.parameters import Parameters
from editing.methods.ultraedit import scaled, stableedit, ultraedit, whitened
from editing.values.gradients import gradients
from editing.values.options import ValueOptions

D, D_IN = 4, 7
NUMBERS = Parameters((0,), ValueOptions()).changed(step_rate=0.01, step_ridge=2.0)
PARTS = [(0, 2), (2, 3), (3, 6)]


@pytest.fixture
def base():
    return torch.randn(D, D_IN, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def table():
    generator = torch.Generator().manual_seed(2)
    keys = torch.randn(D_IN, 6, generator=generator) + 1
    return Table(keys, torch.randn(D, 6, generator=generator), torch.tensor([0, 0, 1, 2, 2, 2]))


@pytest.fixture
def warmed():
    generator = torch.Generator().manual_seed(3)
    return 2 * torch.randn(D_IN, 9, generator=generator), 3 * torch.randn(D, 9, generator=generator) + 1


def nothing():
    return torch.zeros(D_IN, 0), torch.zeros(D, 0)


def written(factors):
    a, b = factors
    return a.double() @ b.double().T


def first(table, count):
    return Table(table.keys[:, :count], table.values[:, :count], table.batches[:count])


def mean_and_deviation(rows):
    mean = rows.mean(0)
    return mean, ((rows - mean) ** 2).sum(0).div(len(rows) - 1).sqrt()


def stepped(keys, gradients, seen_keys, seen_gradients, normal):
    """ΔWᵀ = (KᵀK + λI)⁻¹KᵀV with rows for tokens, as the paper writes it."""
    mean, deviation = mean_and_deviation(seen_keys)
    lengths = (((keys - mean) / deviation) ** 2).sum(1, keepdim=True)
    values = -0.01 * lengths * normal(gradients, seen_gradients)
    system = keys.T @ keys + 2.0 * torch.eye(D_IN, dtype=torch.float64)
    return (torch.linalg.inv(system) @ keys.T @ values).T


def by_deviation(gradients, seen):
    mean, deviation = mean_and_deviation(seen)
    return (gradients - mean) / deviation


def by_covariance(gradients, seen):
    values, vectors = torch.linalg.eigh(torch.cov(seen.T))
    return (gradients - seen.mean(0)) @ vectors @ torch.diag(values**-0.5) @ vectors.T


@pytest.mark.parametrize(("method", "normal"), [(ultraedit, by_deviation), (stableedit, by_covariance)])
def test_it_equals_the_equations_with_the_statistics_of_the_whole_life(method, normal, base, table, warmed):
    expected = torch.zeros(D, D_IN, dtype=torch.float64)
    for start, stop in PARTS:
        keys, own = table.keys[:, start:stop].T.double(), table.values[:, start:stop].T.double()
        seen = [
            torch.cat([before, now[:, :stop]], dim=1).T.double()
            for before, now in zip(warmed, (table.keys, table.values), strict=True)
        ]
        expected = expected + stepped(keys, own, *seen, normal)
    found = written(method(base, warmed, NUMBERS).factors(table))
    assert expected.norm() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_whitening_waits_for_more_columns_than_dimensions_and_one(base, table):
    few = first(table, 5)
    assert few.keys.shape[1] == D + 1
    plain, stable = (
        written(method(base, nothing(), NUMBERS).factors(few)) for method in (ultraedit, stableedit)
    )
    assert torch.equal(plain, stable)
    plain, stable = (
        written(method(base, nothing(), NUMBERS).factors(table)) for method in (ultraedit, stableedit)
    )
    assert not torch.equal(plain, stable)


def test_normalised_columns_have_mean_zero_and_deviation_one():
    seen = 5 * torch.randn(D, 50, generator=torch.Generator().manual_seed(4), dtype=torch.float64) + 3
    near = {"atol": 1e-6, "rtol": 1e-6}
    torch.testing.assert_close(scaled(seen, seen).std(1), torch.ones(D, dtype=torch.float64), **near)
    torch.testing.assert_close(torch.cov(whitened(seen, seen)), torch.eye(D, dtype=torch.float64), **near)
    assert float(whitened(seen, seen).mean(1).abs().max()) < 1e-6


def test_a_single_fact_without_a_warm_up_writes_nothing(base, table, warmed):
    one = first(table, 1)
    assert written(ultraedit(base, nothing(), NUMBERS).factors(one)).norm() == 0
    assert written(stableedit(base, warmed, NUMBERS).factors(one)).norm() > 1e-3


def test_a_large_ridge_or_no_rate_writes_nothing(base, table, warmed):
    for changes in ({"step_ridge": 1e12}, {"step_rate": 0.0}):
        assert written(ultraedit(base, warmed, NUMBERS.changed(**changes)).factors(table)).norm() < 1e-6


@pytest.mark.parametrize("method", [ultraedit, stableedit])
def test_going_on_from_the_earlier_factors_gives_the_bits_of_the_whole_fold(method, base, table, warmed):
    solver, grown, earlier = method(base, warmed, NUMBERS), None, 0
    for count in (2, 3, 6):
        grown, earlier = solver.factors(first(table, count), grown, earlier), count
    whole = method(base, warmed, NUMBERS).factors(table)
    assert all(torch.equal(x, y) for x, y in zip(grown, whole, strict=True))


def test_a_gradient_that_is_not_finite_is_refused(base, table):
    bad = Table(table.keys, table.values * float("nan"), table.batches)
    with pytest.raises(SolveError, match="key or gradient is not finite"):
        ultraedit(base, nothing(), NUMBERS).factors(bad)


def test_gradients_are_those_of_a_finite_difference(editor, facts):
    """A bias added where the answer begins changes the loss by the gradient."""
    layers, prompts = (2, 4), [editor.loaded.encode(fact) for fact in facts]
    found, losses = gradients(editor.loaded, prompts, layers)
    step = 1e-2
    for i, prompt in enumerate(prompts):
        alone, loss = gradients(editor.loaded, [prompt], layers)
        torch.testing.assert_close(loss[0], losses[i], atol=1e-5, rtol=1e-5)
        for layer in layers:
            torch.testing.assert_close(alone[layer][1][:, 0], found[layer][1][:, i], atol=1e-5, rtol=1e-3)
            own = found[layer][1][:, i]
            direction = own / own.norm()
            up, down = (biased(editor.loaded, prompt, layer, sign * step * direction) for sign in (1, -1))
            torch.testing.assert_close((up - down) / (2 * step), own.norm(), atol=1e-3, rtol=2e-2)


def biased(loaded, prompt, layer, bias):
    def add(_module, _inputs, output):
        changed = output.clone()
        changed[0, prompt.target_start - 1] += bias
        return changed

    handle = loaded.projection(layer).register_forward_hook(add)
    try:
        return gradients(loaded, [prompt], [7])[1][0]
    finally:
        handle.remove()


@pytest.mark.parametrize("method", ["ultraedit", "stableedit"])
def test_a_step_lowers_the_loss_and_a_fact_taken_out_is_out_of_the_statistics(open_editor, facts, method):
    editor = open_editor(method=method, changed={"step_rate": 1e-4})
    prompts = [editor.loaded.encode(fact) for fact in facts]
    before = gradients(editor.loaded, prompts, editor.layers)[1]
    report = editor.apply(facts)
    after = gradients(editor.loaded, prompts, editor.layers)[1]
    assert after.mean() < before.mean()
    torch.testing.assert_close(torch.tensor([o.loss for o in report.outcomes]), before, atol=1e-4, rtol=1e-4)
    name = editor.tensor_names[0]
    recorded = editor.state.table(name)
    editor.retract("f2")
    kept = [0, 2, 3]
    left = Table(recorded.keys[:, kept], recorded.values[:, kept], recorded.batches[kept])
    expected = editor._solvers[editor.layers[0]].factors(left)
    assert all(torch.equal(x, y) for x, y in zip(editor.state.factors[name], expected, strict=True))


def test_compacting_steps_anew_from_the_base(open_editor, facts):
    editor = open_editor(method="ultraedit", changed={"step_rate": 1e-4})
    editor.apply(facts[:2])
    editor.apply(facts[2:])
    editor.compact()
    at_once = open_editor(method="ultraedit", changed={"step_rate": 1e-4})
    at_once.apply(facts)
    assert editor.weight_hashes() == at_once.weight_hashes()


def test_each_form_has_a_column_with_its_own_gradient(open_chat_editor, facts):
    choices = {"method": "stableedit", "changed": {"warm_up": 8}, "forms": ("prompt", "chat")}
    editor = open_chat_editor(**choices)
    base = editor.weight_hashes()
    editor.apply(facts)
    assert editor.state.forms.tolist() == [1, 2] * 4
    written, state = editor.weight_hashes(), editor.state
    editor.compact()
    assert editor.weight_hashes() == written
    editor.retract("f1")
    assert editor.state.forms.tolist() == [1, 2] * 3
    editor.restore(state)
    assert editor.weight_hashes() == written
    editor.retract(*editor.state.ids)
    assert editor.weight_hashes() == base
