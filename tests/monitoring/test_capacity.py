"""Room for facts: from a law and its interval to what an operator reads."""

import math

import pytest

from monitoring.capacity import LAWS, Law, Room, room

#: Of runs with x̄ = 8 and Sxx = 10: (XᵀX)⁻¹ = [[1/8 + x̄²/Sxx, −x̄/Sxx], [−x̄/Sxx, 1/Sxx]].
INVERSE = ((1 / 8 + 6.4, -0.8), (-0.8, 0.1))


def law(intercept=-2.0, spread=0.2, names=("directions",), largest=(10_000.0,)):
    """ln n = a + ln D, from eight runs around D = e⁸."""
    return Law(names, (intercept, 1.0), INVERSE, spread, 1.943, 8, largest)


LAW = law()


def test_the_interval_is_that_of_a_new_run():
    middle, low, high = LAW.facts({"directions": math.exp(9)})
    # 1 + 1/m + (x − x̄)² / Sxx
    half = 1.943 * 0.2 * math.sqrt(1 + 1 / 8 + 1 / 10)
    assert middle == pytest.approx(math.exp(7))
    assert (low, high) == pytest.approx((math.exp(7 - half), math.exp(7 + half)))


def test_layers_and_keys_can_count_differently():
    inverse = ((0.1, 0, 0), (0, 0.1, 0), (0, 0, 0.1))
    two = Law(("layers", "keys_per_column"), (1.0, 0.5, 1.0), inverse, 0.1, 2.0, 8, (9.0, 1536.0))
    middle, low, high = two.facts({"layers": 4, "keys_per_column": 768})
    assert middle == pytest.approx(math.e * 2 * 768)
    wide = math.sqrt(1 + 0.1 * (1 + math.log(4) ** 2 + math.log(768) ** 2))
    assert math.log(high / low) == pytest.approx(2 * 2.0 * 0.1 * wide)
    # The farther of the two is told.
    assert room(18, 1536, 1.0, {"x": two}).beyond == 2.0
    assert room(5, 14_336, 1.0, {"x": two}).beyond == 9.3
    assert room(5, 14_336, 10.0, {"x": two}).beyond == 1.0


def test_directions_are_layers_times_keys_over_columns():
    same = [room(5, 1600, 1.0, {"x": LAW}), room(10, 1600, 2.0, {"x": LAW}), room(1, 8000, 1.0, {"x": LAW})]
    assert len(set(same)) == 1
    # e⁻² · 8,000 = 1,083, told to two figures.
    assert same[0].facts == 1100


def test_the_limit_that_comes_first_is_told():
    later = law(-1.0)
    assert room(5, 1600, 1.0, {"later": later, "first": LAW}).ends == "first"


def test_more_directions_than_were_measured_are_told():
    near, far = room(5, 1600, 1.0, {"x": LAW}), room(5, 14_336, 1.0, {"x": LAW})
    assert (near.beyond, far.beyond) == (1.0, 7.2)
    assert "extrapolated" not in str(near)
    assert str(far).endswith("an estimate from one small model, extrapolated 7.2-fold")


def test_what_people_read_is_also_in_the_json():
    found = Room(180, 90, 1400, "facts are lost", 1.0)
    assert str(found) == (
        "room for about 180 facts (90 to 1,400) until facts are lost; an estimate from one small model"
    )
    assert found.to_json() == {
        **{"facts": 180, "low": 90, "high": 1400, "ends": "facts are lost", "beyond": 1.0},
        "told": str(found),
    }


def test_small_numbers_are_not_rounded_away():
    tiny = law(0.0, 1e-9)
    told = [room(1, n, 1.0, {"x": tiny}).facts for n in (3, 47, 468, 4680)]
    assert told == [3, 47, 470, 4700]


@pytest.mark.parametrize("columns", [1.0, 3.0])
def test_the_laws_that_ship_say_more_for_more_directions(columns):
    assert LAWS
    small, large = room(5, 1536, columns), room(5, 14_336, columns)
    assert 0 < small.low < small.facts < small.high
    assert small.facts < large.facts
