"""What the product says of room is the fit of the runs on record."""

import json

import pytest

from benchmarks.capacity.capacity import LIMITS, summed
from benchmarks.capacity.law import fitted, laws
from benchmarks.drawing.figures import DOCS
from monitoring.capacity import LAWS, Law

RECORD = json.loads((DOCS / "data" / "capacity.json").read_text())


@pytest.mark.parametrize("limit", LAWS)
def test_the_constants_that_ship_are_the_fit_of_the_runs_on_record(limit):
    law = LAWS[limit]
    seen = [run for run in RECORD["runs"] if run[limit]["facts"] is not None]
    found = fitted(seen, [run[limit]["facts"] for run in seen], law.names)
    assert flat(law) == pytest.approx(flat(found), rel=1e-3)
    assert (law.names, law.runs) == (found.names, found.runs)


def flat(law: Law):
    """All numbers of a law, one after another."""
    return [*law.coefficients, *law.largest, *sum(law.inverse, ()), law.spread, law.student]


def test_the_horizons_on_record_are_those_of_its_checkpoints():
    for run in RECORD["runs"]:
        rows = [
            {**one, **{name: run[name] for name in ("layers", "keys", "columns")}}
            for one in run["checkpoints"]
        ]
        again = summed(run["run"], rows)
        for limit in LIMITS:
            assert again[limit]["censored"] == run[limit]["censored"]
            assert again[limit]["facts"] == pytest.approx(run[limit]["facts"])


def test_the_laws_on_record_are_those_of_its_runs():
    held_out = {law["held_out"]["run"] for law in RECORD["laws"] if law["held_out"]}
    (name,) = held_out
    again = json.loads(json.dumps(laws(RECORD["runs"], list(LIMITS), name)))
    for now, then in zip(again, RECORD["laws"], strict=True):
        assert now.get("reason") == then.get("reason")
        assert now["error"] == pytest.approx(then["error"])
        assert (now["limit"], now["regressors"], now["left_out"]) == (
            then["limit"],
            then["regressors"],
            then["left_out"],
        )
