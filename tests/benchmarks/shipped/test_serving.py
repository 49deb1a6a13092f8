"""A stub of serving that holds weights."""

import pytest
import torch

from benchmarks.shipped.faults import add_noise
from benchmarks.shipped.serving import HeldWeights
from benchmarks.streams import Step
from daemon.publish.serving import ServingError
from monitoring.measuring.scoring import Scorer
from monitoring.verdict import Verdict


@pytest.fixture
def served(open_trial, records):
    """A trial after one version, and its editor."""
    trial, editor = open_trial(lambda _shipped: lambda *_: accepted())
    trial.post(Step(tuple(records[:2])))
    return trial, editor


def accepted():
    return Verdict("accepted", (), (), {})


def test_it_holds_the_version_that_is_live(served):
    trial, editor = served
    replica = trial.daemon.replica
    assert replica.version == trial.daemon.versions()[-1].id == "v000001"
    assert replica.served().sha256 == editor.weight_hashes()
    assert any(not torch.equal(w, editor.base_weights()[name]) for name, w in replica.weights.items())


def test_it_serves_on_what_it_holds_whatever_the_editor_does(served, plan):
    trial, editor = served
    scorer, replica = Scorer(editor.model, editor.tokenizer), trial.daemon.replica
    asked = [scorer.encode_text(text) for text in plan.texts]
    said, held = replica.scorer.score(asked), replica.served()
    assert said == scorer.score(asked)
    add_noise(editor, 1.0, seed=1)
    assert scorer.score(asked) != said
    assert replica.scorer.score(asked) == said
    assert replica.served() == held


def test_log_probs_are_of_each_token_given_those_before_it(served):
    trial, editor = served
    ids = editor.tokenizer("The owner of the old mill is Ada")["input_ids"]
    found, nothing = trial.daemon.replica.log_probs([ids, []])
    with torch.inference_mode():
        log_p = editor.model(input_ids=torch.tensor([ids])).logits.float().log_softmax(-1)[0]
    expected = [0.0, *(float(log_p[i, token]) for i, token in enumerate(ids[1:]))]
    assert found == pytest.approx(expected, abs=1e-4)
    assert nothing == []


def test_a_publication_that_fails_ends_the_stream_with_its_reason(served, records, monkeypatch):
    trial, _ = served
    replica, honest = trial.daemon.replica, trial.daemon.replica.log_probs

    def damaged(passages):
        return [[each - 5.0 for each in told] for told in honest(passages)]

    monkeypatch.setattr(replica, "log_probs", damaged)
    assert not trial.over
    trial.post(Step(tuple(records[2:4])))
    assert trial.over
    row = trial.row()
    assert row["publish_failed_at"] == 4
    assert row["publish_failure"].startswith("v000002: publish failed: held does not compute what was staged")
    assert not row["collapsed"]


def test_a_version_whose_hash_differs_is_not_served(served, monkeypatch):
    trial, editor = served
    replica, store = trial.daemon.replica, trial.daemon.applier.store
    fresh = HeldWeights(store, editor, lambda version: pytest.fail(f"{version} was served"))
    monkeypatch.setattr(store, "weight_sha256", lambda _version: dict.fromkeys(editor.tensor_names, "0" * 64))
    with pytest.raises(ServingError, match="another hash"):
        fresh.publish(replica.version, fence=9)
    assert fresh.version != replica.version


def test_an_older_writer_is_refused(served):
    replica = served[0].daemon.replica
    with pytest.raises(ServingError, match="fence 0"):
        replica.publish("v000001", 0)
