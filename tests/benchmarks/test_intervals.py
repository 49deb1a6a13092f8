"""Intervals, beside published ones and by their limits."""

import pytest

from benchmarks import intervals
from benchmarks.scores import harmonic


@pytest.mark.parametrize(
    ("said", "asked", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_that_of_newcombes_table(said, asked, low, high):
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    assert intervals.wilson(said / asked, asked) == pytest.approx((low, high), abs=5e-5)


def test_an_interval_narrows_with_the_facts_asked_and_stays_within_0_and_1():
    assert intervals.wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    (low, high), (lower, higher) = (intervals.wilson(0.5, asked) for asked in (1000, 10))
    assert lower < low < 0.5 < high < higher


@pytest.mark.parametrize(
    ("share", "asked", "told"), [(87.0, 100, "divide percent"), (0.5, 0, "at least one")]
)
def test_what_is_no_share_is_refused(share, asked, told):
    with pytest.raises(ValueError, match=told):
        intervals.wilson(share, asked)


def test_s_has_its_interval_from_the_ends_of_the_three():
    low, high = intervals.score(0.98, 0.87, 0.66, 1000)
    assert low < harmonic(0.98, 0.87, 0.66) < high
    assert intervals.score(0.5, 0.5, 0.5, 40) == pytest.approx(intervals.wilson(0.5, 40))


def test_a_crossing_lies_on_the_line_between_two_checkpoints():
    rows = [{"edits": edits, "x": x} for edits, x in ((200, 2.0), (100, 1.0), (400, 4.0))]
    assert intervals.crossing(rows, "x", 3.0) == (300.0, (200, 400))
    with pytest.raises(ValueError, match="does not pass 5"):
        intervals.crossing(rows, "x", 5.0)


def test_the_command_prints_what_the_page_has(capsys):
    intervals.main(["share", "49", "60"])
    intervals.main(["scores", "98.2", "87.2", "65.7", "1000"])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "49 of 60: 81.7 % (70.1–89.4)"
    assert shown[1].endswith("| 81.4 (78.9–83.5)")
    with pytest.raises(SystemExit):
        intervals.main(["share", "61", "60"])
    assert "between 0 and 1" in capsys.readouterr().err
