"""Against sums of exact fractions."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.shares import LEVEL, Counted, at_most, may_reach


def exactly(hits: int, asked: int, share: Fraction) -> Fraction:
    terms = (math.comb(asked, k) * share**k * (1 - share) ** (asked - k) for k in range(hits + 1))
    return sum(terms, Fraction(0))


@given(st.integers(1, 60), st.data(), st.integers(0, 20))
def test_the_chance_is_the_binomial_sum(asked, data, twentieths):
    hits = data.draw(st.integers(0, asked))
    share = Fraction(twentieths, 20)
    assert at_most(hits, asked, float(share)) == pytest.approx(float(exactly(hits, asked, share)), abs=1e-12)


def test_many_cases_do_not_overflow():
    assert at_most(90_000, 100_000, 0.9) == pytest.approx(0.5, abs=0.01)


#: cases asked → the most that may be missed at a limit of 0.9
ALLOWED = {
    1: 0,
    2: 0,
    3: 0,
    4: 0,
    5: 1,
    9: 1,
    10: 1,
    13: 1,
    14: 2,
    20: 2,
    22: 2,
    23: 3,
    32: 3,
    64: 7,
    128: 14,
}


@pytest.mark.parametrize(("asked", "missed"), ALLOWED.items())
def test_edges_at_a_limit_of_nine_tenths(asked, missed):
    def passes(hits: int) -> bool:
        counted = Counted(hits, asked)
        return counted.share >= 0.9 or may_reach(counted, 0.9)

    assert passes(asked - missed)
    assert not passes(asked - missed - 1)


def test_the_level_is_the_highest_tenth_that_leaves_the_full_sample_its_rule():
    assert not may_reach(Counted(28, 32), 0.9, LEVEL)
    assert may_reach(Counted(28, 32), 0.9, LEVEL + 0.1)


def test_false_refusals_are_as_the_level_says():
    """Of a model that keeps 95 %: at most 7 and 27 answered are refused, and without the bound at most 8."""
    assert at_most(7, 9, 0.95) == pytest.approx(0.07, abs=0.005)
    assert at_most(28, 32, 0.95) == pytest.approx(0.07, abs=0.005)
    assert at_most(8, 9, 0.95) == pytest.approx(0.37, abs=0.005)


@given(st.integers(0, 200), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_none_of_them_is_never_excused(asked, limit, level):
    assert not may_reach(Counted(0, asked), limit, level)


def test_reads_as_people_say_it():
    assert str(Counted(8, 9)) == "8 of 9"
    assert math.isnan(Counted(0, 0).share)
    for hits, asked in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match=f"{hits} of {asked}"):
            Counted(hits, asked)
