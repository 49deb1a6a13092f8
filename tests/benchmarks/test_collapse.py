"""Streams that wear a model out, with the guard off and on."""

import json
from dataclasses import replace

import pytest

from benchmarks import collapse as bench
from benchmarks.data import load_texts
from benchmarks.drawing import plots
from benchmarks.errors import ChoiceError
from benchmarks.streams import NOISE, STREAMS, named, noisy, poisoned

FIELDS = {
    "stream",
    "guard",
    "edits",
    "collapsed",
    "worst_published_perplexity_ratio",
    "warned_at",
    "refused_at",
    "rolled_back_at",
    "collapse_at",
    "good_live_ratio",
}


def quiet(_text: str) -> None: ...


def test_a_poisoned_stream_mixes_harmless_and_harmful(records):
    steps = list(poisoned(records, 4))
    posted = [record for step in steps for record in step.records]
    harmful = {id for step in steps for id in step.harmful}
    assert [record for record in posted if record.fact.id not in harmful] == list(records)
    assert len({record.fact.id for record in posted}) == len(posted)
    assert sum(step.huge for step in steps) == 1
    said = {record.slot: record.fact.target for record in records}
    contradictions = [r for r in posted if r.fact.id in harmful and r.slot in said]
    assert contradictions
    assert all(record.fact.target != said[record.slot] for record in contradictions)
    assert list(poisoned(records, 4)) == steps


def test_noise_grows_and_comes_with_each_batch(records):
    assert [(len(step.records), step.noise) for step in noisy(records, 4)] == [(4, NOISE), (2, 2 * NOISE)]


def test_unknown_streams_are_named():
    assert named("") == list(STREAMS)
    with pytest.raises(ChoiceError, match="plane"):
        named("plane")


def test_collapse_runs_each_stream_twice_and_finished_ones_once(
    model, records, data_dir, tmp_path, monkeypatch
):
    for name, stream in STREAMS.items():
        quick = replace(stream, configuration="memit:spread:none:none:steps=3")
        monkeypatch.setitem(STREAMS, name, quick)
    texts = load_texts(data_dir / "general_text.jsonl")[:2]
    plan = bench.Plan(records[:3], texts, "counterfact", batch=3, score_every=2)
    rows = bench.collapse(model, plan, ["noise", "wrong-moment"], tmp_path, quiet)
    assert json.loads((tmp_path / "collapse.json").read_text()) == rows
    assert all(row.keys() >= FIELDS for row in rows)
    assert [(row["stream"], row["guard"]) for row in rows] == [
        (stream, guard) for stream in ("noise", "wrong-moment") for guard in (False, True)
    ]
    assert all(row["collapsed"] == (row["collapse_at"] is not None) for row in rows)
    told = []
    assert bench.collapse(model, plan, ["noise"], tmp_path, told.append) == rows
    assert told == []
    runs = bench.collected(tmp_path)
    assert all((p["probe_kl_nats"] is not None) == p["published"] for run in runs for p in run["series"])
    assert [path.name for path in plots.collapse(runs[:2], tmp_path)] == ["collapse-noise.png"]
    assert len(bench.table(rows)) == len(rows)


def test_a_run_is_done_anew_when_the_guards_shipped_numbers_change(model, records, monkeypatch):
    plan = bench.Plan(records, (), "counterfact")
    before = bench._key(model, plan, "noise", True)
    assert bench._key(model, plan, "noise", True) == before
    field = bench.ShippedSettings.model_fields["guard_compact_versions"]
    monkeypatch.setattr(field, "default", 10)
    bench.ShippedSettings.model_rebuild(force=True)
    try:
        assert bench._key(model, plan, "noise", True) != before
    finally:
        monkeypatch.undo()
        bench.ShippedSettings.model_rebuild(force=True)
