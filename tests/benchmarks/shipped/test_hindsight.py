"""What recorded streams teach, on series that are known."""

import pytest

from benchmarks.shipped import hindsight
from monitoring.registry import JUDGED, WATCHED
from monitoring.thresholds import Thresholds


def run(perplexity=(), guard=False, stream="worn", **measures):
    """A run whose versions hold two edits more each; a measure that is not given was not measured."""
    series = [
        {name: None for name in JUDGED}
        | {"edits": 2 * (i + 1), "perplexity_ratio": ratio, "seconds": {"edit": 3.0, "weights": 1.0}}
        | {name: values[i] for name, values in measures.items()}
        for i, ratio in enumerate(perplexity)
    ]
    row = {"stream": stream, "guard": guard, "collapsed": not guard, "collapse_at": 2 * len(series)}
    return {"row": row | {"first_warn": {}}, "noise": {}, "series": series}


def test_the_measure_that_warns_earliest_comes_first():
    ended = {"guard": False, "collapsed": True}
    rows = [
        {"collapse_at": 100, "first_warn": {"probe_kl_nats": 90, "retention_ratio": 10}} | ended,
        {"collapse_at": 50, "first_warn": {"probe_kl_nats": 20}} | ended,
        {"collapse_at": None, "first_warn": {}, "guard": True, "collapsed": False},
    ]
    assert hindsight.leads(rows)[0] == ["probe_kl_nats", "10", "30"]
    assert ["retention_ratio", "90", "–"] in hindsight.leads(rows)
    assert len(hindsight.leads(rows)) == len(JUDGED)


def test_levels_are_the_worst_before_perplexity_is_too_high():
    worn = run((1.0, 1.1, 2.0, 1.1), retention_ratio=(1.0, 0.9, 0.1, 0.1), probe_kl_nats=(0.1, 0.3, 9, 9))
    broken = run((None, 1.0), probe_kl_nats=(9, 9))
    table = {row[0]: row[1:] for row in hindsight.levels([worn, run((1.0,), guard=True), broken])}
    assert table["retention_ratio"] == ["0.9", "–"]
    assert table["probe_kl_nats"] == ["0.3", "–"]
    assert table["canary_ratio"] == ["–", "–"]
    assert len(table) == len(WATCHED)


def test_a_forecast_is_judged_by_where_its_limit_was_passed():
    kl = [0.0075 * (i + 1) for i in range(48)]  # above 0.3 from the 41st version on
    wild = [1.0] * 40 + [9.0] * 8  # nothing to be seen of it half way
    found = {row["measure"]: row for row in hindsight.foretold([run(wild, probe_kl_nats=kl)], Thresholds())}
    assert found.keys() == {"perplexity_ratio", "probe_kl_nats"}
    seen = found["probe_kl_nats"]
    assert (seen["limit_at"], seen["points"], seen["left"]) == (82, 20, 42)
    assert seen["right"]
    assert seen["forecast"] == pytest.approx(40, rel=0.02)
    assert found["perplexity_ratio"]["forecast"] is None
    assert not found["perplexity_ratio"]["right"]


def test_a_falling_measure_passes_its_limit_downwards():
    kept = [1 - 0.005 * i for i in range(48)]
    (row,) = hindsight.foretold([run([1.0] * 48, retention_ratio=kept)], Thresholds())
    assert (row["measure"], row["limit_at"], row["right"]) == ("retention_ratio", 44, True)


def test_all_tables_are_as_wide_as_their_heads():
    runs = [run([1.0] * 20, probe_kl_nats=[0.1 * i for i in range(20)]), run((1.0,), guard=True)]
    tables = hindsight.learnt(runs)
    assert all({len(line) for line in rows} == {len(rows[0])} for rows in tables.values() if len(rows) > 1)
    assert ["weights", "25.0"] in tables["Share of the updates' time, percent"]


def test_a_stream_of_which_nothing_was_served_has_no_shares():
    nothing = run((1.0,), stream="refused")
    nothing["series"][0]["seconds"] = {}
    assert hindsight.upkeep([run((1.0,)), nothing]) == [["edit", "75.0", "–"], ["weights", "25.0", "–"]]
