"""Streams that wear a model out, and the loop that guards them."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import collapse as bench
from benchmarks.configuration import Configuration
from benchmarks.data import load_texts
from benchmarks.drawing import plots
from benchmarks.errors import ChoiceError
from benchmarks.streams import (
    NOISE,
    RIDGE,
    STREAMS,
    InverseMoments,
    Step,
    add_noise,
    named,
    noisy,
    poisoned,
)
from monitoring.measuring.baseline import open_baseline
from monitoring.measuring.probes import default_probes
from monitoring.registry import JUDGED
from monitoring.verdict import Verdict

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
PLAIN = Configuration.parse("memit:spread:none:none:steps=3")


def quiet(_text: str) -> None: ...


@pytest.fixture
def plan(records, data_dir):
    texts = load_texts(data_dir / "general_text.jsonl")[:2]
    return bench.Plan(records, texts, "counterfact", batch=4, score_every=4)


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


def test_noise_grows_and_comes_after_each_batch(records):
    steps = [(len(step.records), step.noise) for step in noisy(records, 4)]
    assert steps == [(4, 0), (0, NOISE), (2, 0), (0, 2 * NOISE)]


def test_noise_has_the_norm_asked_for_and_stays_under_the_next_batch(model, records):
    with model.editor(PLAIN) as editor:
        add_noise(editor, 0.2, seed=1)
        base, noise = editor.base_weights(), {}
        for name, weight in editor.weights().items():
            noise[name] = weight - base[name]
            assert float(noise[name].norm() / base[name].norm()) == pytest.approx(0.2, rel=1e-4)
        editor.apply([records[0].fact])
        for name, weight in editor.weights().items():
            # As much of it as before, whatever the edit added.
            left = ((weight - base[name]) * noise[name]).sum() / noise[name].norm() ** 2
            assert float(left) == pytest.approx(1, abs=0.3)


def test_inverse_moments_keep_the_trace_and_turn_the_order_of_directions_round(model):
    right, wrong = model.install.moments((2,))[2], InverseMoments(model.install).moments((2,))[2]
    torch.testing.assert_close(wrong.trace(), right.trace())
    values, vectors = torch.linalg.eigh(right)
    found = (vectors.T @ wrong @ vectors).diagonal()
    expected = 1 / (values + RIDGE * values.mean())
    torch.testing.assert_close(found, expected * (values.sum() / expected.sum()))


def test_unknown_streams_are_named():
    assert named("") == list(STREAMS)
    with pytest.raises(ChoiceError, match="plane"):
        named("plane")


def judged(refuses, blames=lambda ids: ()):
    """A judge that refuses a batch by its ids."""

    def judge(measured, _thresholds, _previous):
        ids = set(measured.cases)
        bad = refuses(ids)
        states = dict.fromkeys(JUDGED, "limit" if bad else "ok")
        return Verdict("rejected" if bad else "accepted", (), tuple(blames(ids)) if bad else (), states)

    return judge


@pytest.fixture
def trial(model, plan, state_dir, monkeypatch):
    """A trial under a judge of the test's choice."""
    with model.editor(PLAIN) as editor:
        baseline = open_baseline(editor, default_probes(), state_dir / "baselines")

        def made(judge, guard=True):
            monkeypatch.setattr(bench, "judge", judge)
            return bench.Trial(editor, baseline, plan, guard, quiet), editor

        yield made


def test_a_refused_batch_is_halved_until_only_the_bad_correction_is_left_out(trial, records):
    bad = records[2].fact.id
    run, editor = trial(judged(lambda ids: bad in ids))
    run.post(Step(tuple(records), harmful=frozenset({bad})))
    assert set(editor.state.ids) == {record.fact.id for record in records} - {bad}
    assert run.row()["good_live_ratio"] == 1.0
    assert run.row()["refused_at"] == run.row()["warned_at"] == 6
    assert {point["outcome"] for point in run.series if point["published"]} == {"accepted"}
    assert {point["outcome"] for point in run.series if not point["published"]} == {"rejected"}


def test_corrections_that_are_blamed_are_left_out_at_once(trial, records):
    bad = records[2].fact.id
    run, editor = trial(judged(lambda ids: bad in ids, blames=lambda _ids: [bad]))
    run.post(Step(tuple(records)))
    assert len(run.series) == 2
    assert bad not in editor.state.ids
    assert run.row()["good_live_ratio"] == pytest.approx(5 / 6)


def test_noise_that_the_guard_sees_is_rolled_back_to_the_same_bits(trial, records):
    run, editor = trial(judged(lambda ids: not ids))
    run.post(Step(tuple(records[:2])))
    before = editor.weight_hashes()
    run.post(Step(noise=0.5))
    assert editor.weight_hashes() == before
    assert run.row()["rolled_back_at"] == 2
    assert run.row()["refused_at"] is None


def test_what_is_left_of_a_step_is_given_up_after_so_many_refusals(trial, records):
    run, _editor = trial(judged(lambda _ids: True))
    run.post(Step(tuple(records)))
    assert len(run.series) == bench.TRIED
    assert not run.over


def test_edits_come_singly_where_a_stream_asks_for_it(model, plan, state_dir, records):
    with model.editor(PLAIN) as editor:
        baseline = open_baseline(editor, default_probes(), state_dir / "baselines")
        trial = bench.Trial(editor, baseline, plan, False, quiet, singly=True)
        trial.post(Step(tuple(records[:3])))
        assert editor.state.columns["batches"].unique().numel() == 3
        assert len(trial.series) == 1
        assert set(trial.series[0]["seconds"]) >= {"edit", "weights", "probes"}


def test_the_stream_is_paused_when_nothing_comes_through(trial, records):
    run, editor = trial(judged(lambda _ids: True))
    for record in records[: bench.PAUSE_AFTER]:
        assert not run.over
        run.post(Step((record,)))
    assert run.over
    assert run.row()["paused_at"] == bench.PAUSE_AFTER
    assert editor.state.facts == ()
    assert run.row()["worst_published_perplexity_ratio"] == 1.0


def test_with_the_guard_off_everything_is_published(trial, records):
    run, editor = trial(judged(lambda _ids: True), guard=False)
    run.post(Step(tuple(records[:2])))
    assert len(editor.state.facts) == 2
    assert run.row()["refused_at"] is None
    assert run.row()["warned_at"] == 2


def test_a_huge_value_is_optimised_without_bounds_once(trial, records):
    run, editor = trial(judged(lambda _ids: False), guard=False)
    options = editor.options
    run.post(Step((records[0],)))
    run.post(Step((records[1],), huge=True))
    assert editor.options == options
    name = editor.tensor_names[0]
    small, huge = (editor.state.columns[f"{name}/values"][:, i].norm() for i in (0, 1))
    assert huge > 3 * small


def test_collapse_runs_each_stream_twice_and_finished_ones_once(model, plan, tmp_path, monkeypatch):
    for name, stream in STREAMS.items():
        quick = replace(stream, configuration="memit:spread:none:none:steps=3")
        monkeypatch.setitem(STREAMS, name, quick)
    plan = replace(plan, batch=6)
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
    assert all(point["probe_kl_nats"] is not None for run in runs for point in run["series"])
    assert [path.name for path in plots.collapse(runs[:2], tmp_path)] == ["collapse-noise.png"]
    assert len(bench.table(rows)) == len(rows)
