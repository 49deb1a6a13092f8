"""An editor that uses a share of the key dimensions solves the smaller problem, and leaves the rest alone."""

import pytest
import torch

from benchmarks.capacity.firmness import Firmness, left
from benchmarks.capacity.masked import Masked, MaskedEditor, MaskedSolver, dimensions
from benchmarks.configuration import Configuration
from benchmarks.errors import ChoiceError
from editing.memory.state import Table
from editing.methods.joint import JointSolver
from editing.solve.revive import unprotected
from editing.solve.ridge import RidgePrior

PLAIN = Configuration.parse("memit-seq:spread:none:none:steps=3,moment_weight=10,again=0,layers=1-2")
WIDTH, DEPTH, FACTS, WEIGHT = 12, 5, 4, 3.0


@pytest.fixture
def problem():
    draw = torch.Generator().manual_seed(0)
    base, values = (torch.randn(DEPTH, n, generator=draw) for n in (WIDTH, FACTS))
    keys, text = (torch.randn(WIDTH, n, generator=draw) for n in (FACTS, 40))
    return base, keys, values, (text @ text.T / 40).double()


def masked(base, moment, used):
    inner = base[:, used]
    solver = JointSolver(inner, RidgePrior(moment[used][:, used], WEIGHT), unprotected(inner))
    return MaskedSolver(solver, base, used)


def test_a_smaller_share_is_part_of_a_larger_one_and_the_same_seed_gives_the_same():
    quarter, half = dimensions(96, 0.25), dimensions(96, 0.5)
    assert (len(quarter), len(half)) == (24, 48)
    assert set(quarter) < set(half)
    assert dimensions(96, 0.25) == quarter != dimensions(96, 0.25, seed=1)
    assert dimensions(7, 1.0) == list(range(7))


def test_the_update_is_the_dense_solution_within_the_dimensions(problem):
    base, keys, values, moment = problem
    used = [0, 3, 4, 8, 11]
    a, b = masked(base, moment, used).factors(Table(keys, values))
    update = (a.double() @ b.double().T).numpy()
    # min ‖(W₀ + D) K − V‖² + λ tr(D C Dᵀ) over D that is zero outside, by its normal equations.
    k, residual = keys[used].double(), values.double() - base.double() @ keys.double()
    dense = torch.linalg.solve(WEIGHT * moment[used][:, used] + k @ k.T, k @ residual.T).T
    assert update[:, used] == pytest.approx(dense.numpy(), rel=1e-4, abs=1e-6)
    assert not update[:, sorted(set(range(WIDTH)) - set(used))].any()


def test_columns_that_are_added_give_the_solve_of_all_at_once(problem):
    base, keys, values, moment = problem
    solver = masked(base, moment, [0, 3, 4, 8, 11])
    first = solver.factors(Table(keys[:, :2], values[:, :2]))
    grown = solver.factors(Table(keys, values), first, 2)
    whole = solver.factors(Table(keys, values))
    products = [(a.double() @ b.double().T).numpy() for a, b in (grown, whole)]
    assert products[0] == pytest.approx(products[1], rel=1e-4, abs=1e-6)


def test_with_all_dimensions_it_is_the_usual_editor_bit_for_bit(model, records):
    facts, written = [record.fact for record in records[:3]], list[dict[str, torch.Tensor]]()
    for configuration in (PLAIN, Masked.of(PLAIN, 1.0)):
        with model.editor(configuration) as editor:
            editor.apply(facts)
            written.append({name: weight.clone() for name, weight in editor.weights().items()})
    assert all(torch.equal(weight, written[1][name]) for name, weight in written[0].items())
    assert str(Masked.of(PLAIN, 1.0)) == str(PLAIN)


def test_with_a_share_no_other_column_of_a_weight_moves(model, records):
    with model.editor(Masked.of(PLAIN, 0.25)) as editor:
        assert isinstance(editor, MaskedEditor)
        editor.apply([record.fact for record in records[:3]])
        others = sorted(set(range(model.loaded.ffn_width)) - set(editor.used))
        for name, weight in editor.weights().items():
            moved = weight - editor.base_weights()[name]
            assert moved[:, editor.used].abs().sum() > 0
            assert moved[:, others].abs().sum() == 0


@pytest.mark.parametrize("text", ["ft::none:none", "memit-seq:::revive"])
def test_a_share_is_refused_where_it_would_mean_nothing(model, text):
    chosen = Masked.of(Configuration.parse(text), 0.5)
    with pytest.raises(ChoiceError, match="a share of the keys needs"), model.editor(chosen):
        pass


def test_what_is_filled_is_the_leverage_of_the_keys(model, records):
    with model.editor(Masked.of(PLAIN, 0.5)) as editor:
        assert isinstance(editor, MaskedEditor)
        editor.apply([record.fact for record in records[:3]])
        taken = 0.0
        for layer in editor.layers:
            key = editor.state.columns[f"{model.loaded.tensor_name(layer)}/keys"][editor.used].double()
            moment = 10 * model.install.moments([layer])[layer][editor.used][:, editor.used]
            taken += float((key.T @ torch.linalg.solve(moment + key @ key.T, key)).trace())
        assert editor.filled() == pytest.approx(taken / (2 * len(editor.used)), rel=1e-4)
        assert 0 < taken < 2 * 3


def test_a_share_is_told_in_the_name(model):
    half = Masked.of(PLAIN, 0.5)
    assert str(half) == f"{PLAIN},keys=0.5"
    assert str(Masked.of(Configuration.parse("memit-seq"), 0.5)).endswith(":keys=0.5")


# -- firmness ---------------------------------------------------------------------------------------


def test_what_is_left_of_a_residual_is_the_product_over_the_layers():
    squares = {1: torch.tensor([1.0, 3.0]), 2: torch.tensor([1.0, 1.0])}
    # At λ = 1 the lower layer gets half the residual and writes ½, ¾ of that; the upper writes ½ of the rest.
    assert left(squares, 1.0) == pytest.approx((0.75 * 0.5 + 0.625 * 0.5) / 2)


def test_fewer_dimensions_need_a_smaller_weight_to_write_as_firmly(model):
    firmness = Firmness(model.install, 2)
    usual = ((1, 2), 10.0)
    assert firmness.weight((1, 2), 1.0, usual) == pytest.approx(10.0, rel=0.05)
    half, one = firmness.weight((1, 2), 0.5, usual), firmness.weight((2,), 1.0, usual)
    assert half < 10 > one
