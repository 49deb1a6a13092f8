"""The belief audit: who is asked, what is counted, and how well a measure tells what is lost."""

import pytest
import torch

from benchmarks.configuration import Configuration
from benchmarks.lifelong.beliefs import (
    CHOICES,
    FEWEST,
    MEASURES,
    SPOKEN,
    Beliefs,
    audited,
    auroc,
    beliefs,
    choices,
    crowding,
    measures,
    nearness,
    predictions,
)
from benchmarks.lifelong.churn import Plan, churn, never_written
from benchmarks.runs import Stream

PLAN = Plan(3, 2, ("price",))
PLAIN = Configuration.parse("memit:single:none:none:moment_weight=1,steps=2")


@pytest.fixture
def facts():
    return churn(PLAN, lambda _prompt, answers: answers[0])


def stream(facts, **changes):
    return Stream([one.record for one in facts], [], "churn", checkpoints=(3, 6), **changes)


def test_auroc_counts_pairs_and_half_of_ties():
    assert auroc([3.0, 1.0, 2.0], [True, False, False]) == 1.0
    assert auroc([1.0, 3.0, 2.0], [True, False, False]) == 0.0
    assert auroc([2.0, 2.0, 1.0, 3.0], [True, False, False, False]) == pytest.approx((0.5 + 1 + 0) / 3)


def test_nearness_is_the_cosine_with_the_nearest_other_key():
    keys = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    assert nearness(keys).tolist() == [1.0, 1.0, 0.0]
    assert nearness(keys[:, :1]).tolist() == [-1.0]


def test_crowding_is_in_deviations_of_the_outputs():
    # Outputs spread by 2 and 4 along the axes; a fact sees its output changed by 1 along each.
    moment = torch.diag(torch.tensor([4.0, 16.0, 1.0], dtype=torch.float64))
    update = torch.ones(3, 4, dtype=torch.float64)
    # √4 times 1, ½ and ¼ deviations: the median is the middle one.
    assert crowding(update, moment).tolist() == pytest.approx([2 * 0.5] * 4)


def test_the_sample_of_a_checkpoint_is_asked_again_as_long_as_it_holds(facts):
    def ids(edits, **changes):
        return {one.fact.id for one in audited(stream(facts, **changes), edits, 2)}

    assert len(ids(3)) == len(ids(6)) == 2
    # Superseded facts hold no more.
    assert not ids(3) & ids(6)
    once = churn(Plan(6, 1, ("price",)), lambda _prompt, answers: answers[0])
    early = {one.fact.id for one in audited(stream(once), 3, 2)}
    later = {one.fact.id for one in audited(stream(once), 6, 2)}
    assert early <= later
    assert 2 <= len(later) <= 4


def test_a_choice_does_not_depend_on_the_letters(facts):
    class Liking:
        """Prefers one answer, and the letter B far more."""

        def __init__(self, liked):
            self.liked = liked

        def encode(self, prompt, letter):
            return prompt, letter

        def score(self, pairs):
            return [type("Score", (), {"nll": self.nll(*pair)}) for pair in pairs]

        def nll(self, prompt, letter):
            line = next(line for line in prompt.splitlines() if line.startswith(f"{letter}. "))
            return 5.0 - 4.0 * (letter == "B") - (line[3:] in self.liked)

    assert choices(Liking({one.fact.target for one in facts}), facts[:1]) == ["new"]
    assert choices(Liking({facts[0].record.old}), facts[:1]) == ["old"]
    assert choices(Liking({"I am not sure"}), facts[:2]) == ["unsure"] * 2


def test_an_audit_of_the_model_tells_each_probe_and_measure(model, facts):
    asks = Beliefs(model.loaded, facts, never_written(PLAN), size=2)
    with model.editor(PLAIN) as editor:
        editor.apply([one.fact for one in facts[:3]])
        row = asks.row(stream(facts, asks=asks), 3, editor)
        told = measures(editor)
    assert told.keys() == {one.fact.id for one in facts[:3]}
    assert len(row["audit"]) == 2
    for one in row["audit"]:
        assert {name: one[name] for name in MEASURES} == told[one["id"]]
        assert -1 <= one["key_nearness"] <= 1
        assert one["value_norm"] > 0 < one["crowding"]
        assert one["choice"] in CHOICES
        # The tiny model has no chat template.
        assert [way for way in SPOKEN if one[way] is None] == [
            "chat_prompt",
            "chat_question",
            "old_in_context",
        ]
    names = {"method": "memit", "placement": "single", "anchor": "none", "protect": "none", "options": ""}
    lines = beliefs([{**names, "dataset": "churn", "edits": 3, **row}])
    assert {line["probe"] for line in lines} == {"prompt", "paraphrase", "question"} | {
        f"choice_{name}" for name in CHOICES
    }
    assert all(0 <= line["low"] <= line["share"] <= line["high"] <= 100 for line in lines)
    assert sum(line["asked"] for line in lines if line["probe"] == "prompt") == 2


def test_predictions_are_of_facts_said_before_and_lost_after():
    def run(edits, said):
        names = {"method": "memit", "placement": "single", "anchor": "none", "protect": "none", "options": ""}
        audit = [
            {"id": str(i), "prompt": hit, "key_nearness": float(i), "crowding": -float(i), "value_norm": 1.0}
            for i, hit in enumerate(said)
        ]
        return {**names, "dataset": "counterfact", "edits": edits, "audit": audit}

    count = 3 * FEWEST
    # The first was never said; of the others the last five are lost.
    before, after = [False] + [True] * (count - 1), [False] + [True] * (count - 1 - FEWEST) + [False] * FEWEST
    found = {one["measure"]: one for one in predictions([run(300, after), run(100, before)])}
    assert [found[name]["auroc"] for name in MEASURES] == [1.0, 0.0, 0.5]
    assert {(one["from"], one["to"], one["lost"], one["of"]) for one in found.values()} == {
        (100, 300, FEWEST, count - 1)
    }
    # Of fewer losses nothing is told.
    assert predictions([run(100, before), run(300, [*after[:-1], True])]) == []
