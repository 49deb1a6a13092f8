"""A challenge is the same on every machine, and its products show what rounding does not explain."""

import pytest
import torch

from editing.memory.products import VECTORS, difference, least, most, signs

ROWS, COLUMNS = 96, 160


@pytest.fixture
def weight():
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)) / 50


def test_the_signs_are_these_on_every_machine():
    found = signs(7, "a.weight", 11, 2)
    assert found.shape == (2, 11)
    assert found.flatten().tolist() == [
        1, -1, -1, 1, -1, -1, 1, 1, 1, -1, -1, 1, 1, 1, 1, 1, -1, 1, 1, 1, 1, 1,
    ]  # fmt: skip


def test_each_seed_and_each_tensor_has_signs_of_its_own():
    first = signs(1, "a", 400)
    assert set(first.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(first.mean())) < 0.1
    for other in (signs(2, "a", 400), signs(1, "b", 400)):
        assert 0.3 < float((first == other).float().mean()) < 0.7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rounding_alone_stays_within_its_bound(weight, dtype):
    held = weight.to(dtype)
    for seed in range(50):
        vectors = signs(seed, "a", COLUMNS)
        assert (
            difference(held, [vectors.to(dtype) @ held.T], vectors) < least(COLUMNS) <= most(dtype, COLUMNS)
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_two_ranks_that_round_their_halves_stay_within_it_too(weight, dtype):
    held = weight.to(dtype)
    for seed in range(50):
        vectors = signs(seed, "a", COLUMNS)
        halves = zip(vectors.to(dtype).chunk(2, 1), held.chunk(2, 1), strict=True)
        assert difference(held, [x @ w.T for x, w in halves], vectors) < least(COLUMNS)


CHANGES = {
    "one element": lambda w: w.index_put((torch.tensor(3), torch.tensor(5)), torch.tensor(0.1)),
    "one element more": lambda w: w.index_put((torch.tensor(3), torch.tensor(5)), torch.tensor(10.0)),
    "noise": lambda w: w + 0.05 * w.std() * torch.randn(w.shape, generator=torch.Generator().manual_seed(1)),
    "a scale": lambda w: w * 0.9,
    "nothing": torch.zeros_like,
    "rows swapped": lambda w: w[torch.tensor([1, 0, *range(2, ROWS)])],
    "columns swapped": lambda w: w[:, torch.tensor([1, 0, *range(2, COLUMNS)])],
    "half": lambda w: torch.cat([w[:, : COLUMNS // 2], -w[:, COLUMNS // 2 :]], 1),
    "not a number": lambda w: w.index_put((torch.tensor(3), torch.tensor(5)), torch.tensor(float("nan"))),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_rounding_does_not_explain_is_found_with_every_seed(weight, what):
    held, wrong = weight.bfloat16(), CHANGES[what](weight).bfloat16()
    for seed in range(20):
        vectors = signs(seed, "a", COLUMNS)
        told = vectors.bfloat16() @ wrong.T
        assert not difference(held, [told], vectors) <= most(torch.bfloat16, COLUMNS)


def test_noise_of_a_thousandth_is_found_where_kernels_round_once(weight):
    held = weight.bfloat16()
    wrong = (held * (1 + 0.004 * (torch.arange(COLUMNS) == 5))).bfloat16()  # one step of some of a column
    vectors = signs(1, "a", COLUMNS)
    found = difference(held, [vectors.bfloat16() @ wrong.T], vectors)
    assert least(COLUMNS) < found < most(torch.bfloat16, COLUMNS)


def test_products_of_another_shape_are_as_far_as_can_be(weight):
    vectors = signs(0, "a", COLUMNS)
    told = vectors @ weight.T
    for wrong in (told[:, 1:], told[1:], torch.zeros(0), told[None]):
        assert difference(weight, [wrong], vectors) == float("inf")
    assert difference(weight, [], vectors) == float("inf")


def test_rows_and_matrices_that_are_zero_can_be_compared(weight):
    vectors = signs(0, "a", COLUMNS, VECTORS)
    weight[3] = 0
    assert difference(weight, [vectors @ weight.T], vectors) < 1e-5
    zero = torch.zeros_like(weight)
    assert difference(zero, [vectors @ zero.T], vectors) == 0
    assert difference(zero, [vectors @ weight.T], vectors) > 1
