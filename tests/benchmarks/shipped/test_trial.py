"""What becomes of a stream under the shipped daemon, and what is seen of it."""

from dataclasses import replace

import pytest

from benchmarks.shipped import trial as trials
from benchmarks.shipped.trial import correction
from benchmarks.streams import Step, contradiction, poisoned
from daemon.core.lifecycle import State
from editing.memory.delta import materialise
from monitoring.measuring.scoring import Scorer
from monitoring.registry import JUDGED
from monitoring.verdict import Verdict
from tests.benchmarks.shipped.conftest import of_the_model

#: Values long enough to be seen, short enough to pass.
SEEN = "memit-seq:spread:none:none"


def judged(refuses, blames=lambda ids: (), state="limit"):
    """A judge that refuses a batch by its ids."""

    def judge(measured, _previous):
        ids = set(measured.cases)
        bad = refuses(ids)
        states = dict.fromkeys(JUDGED, state if bad else "ok")
        return Verdict("rejected" if bad else "accepted", (), tuple(blames(ids)) if bad else (), states)

    return lambda _shipped: judge


def outcomes(trial):
    """Whether a version was served → what was said of it."""
    found = {True: set(), False: set()}
    for point in trial.series:
        found[point["published"]].add(point["outcome"])
    return found


def test_a_refused_batch_is_halved_until_only_the_bad_correction_is_left_out(open_trial, records):
    bad = records[2].fact.id
    trial, editor = open_trial(judged(lambda ids: bad in ids))
    trial.post(Step(tuple(records), harmful=frozenset({bad})))
    assert set(editor.state.ids) == {record.fact.id for record in records} - {bad}
    assert trial.row()["good_live_ratio"] == 1.0
    assert trial.row()["refused_at"] == trial.row()["warned_at"] == 6
    assert outcomes(trial) == {True: {"accepted"}, False: {"rejected"}}


def test_corrections_that_are_blamed_are_left_out_at_once(open_trial, records):
    bad = records[2].fact.id
    trial, editor = open_trial(judged(lambda ids: bad in ids, blames=lambda _ids: [bad]))
    trial.post(Step(tuple(records)))
    assert len(trial.series) == 2
    assert bad not in editor.state.ids
    assert trial.row()["good_live_ratio"] == pytest.approx(5 / 6)


def test_noise_that_the_guard_sees_is_not_served_and_the_corrections_are(open_trial, records):
    trial, editor = open_trial(of_the_model)
    trial.post(Step(tuple(records[:2]), noise=2.0))
    assert trial.row()["refused_at"] == 2
    assert trial.row()["rolled_back_at"] is None
    assert trial.row()["good_live_ratio"] == 1
    base = editor.base_weights()
    assert all((w - base[n]).norm() < base[n].norm() for n, w in trial.daemon.replica.weights.items())


def test_noise_is_served_with_the_guard_off(open_trial, records):
    trial, editor = open_trial(of_the_model, guard=False)
    trial.post(Step(tuple(records[:2]), noise=2.0))
    base = editor.base_weights()
    assert all((w - base[n]).norm() > base[n].norm() for n, w in trial.daemon.replica.weights.items())
    assert trial.row()["refused_at"] is None
    assert trial.row()["warned_at"] == 2


def test_with_the_guard_off_everything_is_served(open_trial, records):
    trial, editor = open_trial(judged(lambda _ids: True), guard=False)
    trial.post(Step(tuple(records[:2])))
    assert len(editor.state.facts) == 2
    assert outcomes(trial) == {True: {"rejected"}, False: set()}
    assert trial.row()["refused_at"] is None
    assert trial.row()["warned_at"] == 2


@pytest.mark.parametrize("guard", [True, False])
def test_of_a_poisoned_stream_the_guard_lets_only_accepted_versions_be_served(open_trial, plan, guard):
    trial, _editor = open_trial(of_the_model, guard, SEEN)
    for step in poisoned(plan.records, plan.batch):
        trial.post(step)
    row, found = trial.row(), outcomes(trial)
    assert row["edits"] == 13
    if guard:
        assert row["refused_at"] is not None
        assert found == {True: {"accepted"}, False: {"rejected"}}
        assert row["first_limit"]
    else:
        assert row["refused_at"] is row["paused_at"] is None
        assert found == {True: {"accepted", "rejected"}, False: set()}
        assert row["first_limit"]
    assert any(point["edits"] == 6 and point["published"] for point in trial.series)


def test_perplexity_is_that_of_the_weights_in_the_store(open_trial, plan, records):
    trial, editor = open_trial(of_the_model, configuration=SEEN)
    for part in (records[:2], records[2:4]):
        trial.post(Step(tuple(part)))
    found = {point["version"]: point["perplexity_ratio"] for point in trial.series}
    store, base = trial.daemon.applier.store, editor.base_weights()
    texts = plan.texts[: trials.TEXTS]
    unedited = trials.text_perplexity(Scorer(editor.model, editor.tokenizer, base), texts)
    for version, ratio in found.items():
        weights = {name: materialise(base[name], *ab) for name, ab in store.load_factors(version).items()}
        perplexity = trials.text_perplexity(Scorer(editor.model, editor.tokenizer, weights), texts)
        assert ratio == perplexity / unedited
    assert found.keys() == {"v000001", "v000002"}
    assert trial.row()["worst_published_perplexity_ratio"] == max(1.0, *found.values())


def test_s_is_scored_on_the_served_weights_and_ends_the_stream_below_its_bound(
    open_trial, records, monkeypatch
):
    trial, _editor = open_trial(of_the_model)
    asked = []
    monkeypatch.setattr(trials, "score", lambda scorer, sample: asked.append((scorer, sample)) or Low)
    trial._next_score = 2
    trial.post(Step(tuple(records[:2])))
    ((scorer, sample),) = asked
    assert sample == list(records[:2])
    held = trial.daemon.replica.weights
    assert all(scorer._replaced[name].equal(weight) for name, weight in held.items())
    assert trial.over
    assert trial.row()["collapse_at"] == 2
    assert trial.series[-1]["s"] == Low.s


class Low:
    s = 12.0


def test_a_live_version_that_is_found_bad_is_rolled_back(open_trial, records):
    bad = []

    def judge(_shipped):
        def judged(measured, previous):
            live = not measured.cases and previous is None
            outcome = "rejected" if (live and bad) or not (live or measured.cases) else "accepted"
            return Verdict(outcome, (), (), {"probe_kl_nats": "limit"} if outcome == "rejected" else {})

        return judged

    trial, editor = open_trial(judge)
    for part in (records[:2], records[2:4]):
        trial.post(Step(tuple(part)))
    bad.append("now")
    trial.post(Step())
    assert trial.row()["rolled_back_at"] == trial.row()["warned_at"] == 4
    assert trial.daemon.replica.version == "v000001"
    assert len(editor.state.facts) == 2
    assert trial.row()["good_live_ratio"] == 0.5
    bad.clear()
    trial.post(Step((records[4],)))  # the cool-down is over
    assert len(editor.state.facts) == 3


def test_the_stream_is_over_when_the_guard_pauses_the_queue(open_trial, records):
    def foggy(_shipped):
        return lambda *_: Verdict("inconclusive", (), (), dict.fromkeys(JUDGED, "unknown"))

    trial, editor = open_trial(foggy)
    for record in records:
        trial.post(Step((record,)))
        if trial.over:
            break
    assert trial.row()["paused_at"] == 2  # three attempts each, and the sixth verdict in a row pauses
    assert editor.state.facts == ()
    assert trial.row()["worst_published_perplexity_ratio"] == 1.0


def test_a_contradiction_takes_the_place_of_the_correction_before_it(open_trial, records):
    trial, _editor = open_trial(of_the_model)
    trial.post(Step((records[0],)))
    newer = contradiction(records[0], "Eve")
    trial.post(Step((newer,), harmful=frozenset({newer.fact.id})))
    assert trial.daemon.ids(State.LIVE) == {newer.fact.id}
    assert (trial.row()["good_superseded"], trial.row()["good_live_ratio"]) == (1, 0.0)


def test_a_record_is_posted_with_what_the_guard_needs(records):
    posted = correction(records[0])
    assert (posted.subject, posted.prompt, posted.target) == (
        records[0].fact.subject,
        records[0].fact.prompt,
        records[0].fact.target,
    )
    assert posted.was == records[0].old
    assert len(posted.paraphrases) == len(posted.neighbours) == trials.CASE_PROMPTS


def test_a_paraphrase_of_several_lines_is_posted_as_one(records):
    posted = correction(replace(records[0], paraphrases=("It rained.\nThe mill is owned by",)))
    assert posted.paraphrases == ["It rained. The mill is owned by"]
