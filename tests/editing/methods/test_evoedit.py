"""EvoEdit against the recursion of its paper, in dense float64."""

import pytest
import torch

from editing.errors import SolveError
from editing.memory.state import Table
from editing.methods.evoedit import evoedit
from editing.methods.joint import alphaedit
from editing.methods.parameters import Parameters
from editing.solve.revive import unprotected
from editing.values.options import ValueOptions
from tests.editing.methods.conftest import D_IN, D

THRESHOLD = 0.5
NUMBERS = Parameters((0,), ValueOptions()).changed(nullspace_threshold=THRESHOLD, nullspace_ridge=1.0)
PARTS = [slice(0, 2), slice(2, 3), slice(3, 5)]


@pytest.fixture
def table():
    generator = torch.Generator().manual_seed(3)
    keys, values = torch.randn(D_IN, 5, generator=generator), torch.randn(D, 5, generator=generator)
    return Table(keys, values, torch.tensor([0, 0, 1, 3, 3]))


def first(table, count):
    return Table(table.keys[:, :count], table.values[:, :count], table.batches[:count])


def written(base, factors):
    a, b = factors
    return base.double() + a.double() @ b.double().T


def made(base, moment, **changes):
    return evoedit(base, moment, unprotected(base), NUMBERS.changed(**changes))


def projector(moment):
    values, vectors = torch.linalg.eigh(moment)
    free = vectors[:, values < THRESHOLD]
    assert 5 < free.shape[1] < D_IN
    return free @ free.T


def test_it_equals_the_recursion_of_the_paper(base, moment, table):
    weight, p = base.double(), projector(moment)
    for part in PARTS:
        keys, values = table.keys[:, part].double(), table.values[:, part].double()
        identity = torch.eye(keys.shape[1], dtype=torch.float64)
        weight = (
            weight + (values - weight @ keys) @ torch.linalg.inv(keys.T @ p @ keys + identity) @ keys.T @ p
        )
        q = torch.linalg.svd(p @ keys, full_matrices=False).U
        p = p - q @ q.T
    found = written(base, made(base, moment).factors(table))
    torch.testing.assert_close(found, weight, atol=1e-5, rtol=1e-5)


def test_no_later_batch_changes_what_earlier_keys_give(base, moment, table):
    solver = made(base, moment)
    whole = written(base, solver.factors(table))
    for count in (2, 3):
        then, keys = written(base, solver.factors(first(table, count))), table.keys[:, :count].double()
        assert ((then - base) @ keys).norm() > 0.1
        torch.testing.assert_close(whole @ keys, then @ keys, atol=1e-5, rtol=1e-5)


def test_one_batch_is_alphaedit(base, moment, table):
    one = Table(table.keys, table.values, torch.zeros(5))
    found = written(base, made(base, moment).factors(one))
    joint = written(base, alphaedit(base, moment, unprotected(base), NUMBERS).factors(one))
    torch.testing.assert_close(found, joint, atol=1e-5, rtol=1e-5)


def test_a_key_written_before_is_not_written_again(base, moment, table):
    again = torch.cat([table.keys, table.keys[:, :1]], dim=1)
    values = torch.cat([table.values, table.values[:, 1:2]], dim=1)
    more = Table(again, values, torch.tensor([0, 0, 1, 3, 3, 4]))
    solver = made(base, moment)
    before, after = (written(base, solver.factors(t)) for t in (table, more))
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_a_large_ridge_writes_nothing(base, moment, table):
    small = written(base, made(base, moment, nullspace_ridge=1e9).factors(table))
    assert (small - base).norm() < 1e-6


def test_it_goes_on_to_the_bits_of_the_whole_fold(base, moment, table):
    solver, grown, earlier = made(base, moment), None, 0
    for count in (2, 3, 5):
        grown, earlier = solver.factors(first(table, count), grown, earlier), count
    whole = made(base, moment).factors(table)
    assert all(torch.equal(x, y) for x, y in zip(grown, whole, strict=True))


def test_a_null_space_that_is_used_up_is_told(base, moment):
    generator = torch.Generator().manual_seed(4)
    keys, values = torch.randn(D_IN, 13, generator=generator), torch.randn(D, 13, generator=generator)
    batches = torch.tensor([0] * 12 + [1])
    with pytest.raises(SolveError, match=r"12 earlier keys use up the null space of \d+ directions; retract"):
        made(base, moment).factors(Table(keys, values, batches))
