"""Questions of general ability: how they are asked, and the arithmetic of the score by hand."""

import json
import math

import pytest
import zstandard

from benchmarks.errors import DataError
from benchmarks.glue import SHOWN, TASKS, Question, ability, answers, load_glue, weighted_f1
from monitoring.measuring.scoring import Scorer, TargetScore
from tests.tiny_models import save_checkpoint

PAIR = {"sentence1": "A cat {sat}.", "sentence2": "It sat."}
ITEMS = {
    "sst2": {"sentence": "a fine film", "label": 1},
    "mrpc": {**PAIR, "label": 0},
    "cola": {"sentence": "Him sat.", "label": 0},
    "rte": {**PAIR, "label": 0},
    "nli": {**PAIR, "label": "not_entailment"},
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "glue").mkdir()
    for name, item in ITEMS.items():
        write(tmp_path, name, [item] * (SHOWN + 3))
    return tmp_path


def write(folder, name, items):
    text = "\n".join(map(json.dumps, items))
    (folder / "glue" / f"{name}.jsonl.zst").write_bytes(zstandard.compress(text.encode()))


class Told:
    """A scorer that finds some words likely."""

    def __init__(self, *likely):
        self.likely = likely

    def encode(self, prompt, target):
        return prompt, target

    def score(self, encoded):
        return [TargetScore(float(target not in self.likely), 1, False) for _, target in encoded]


def test_questions_leave_out_the_items_that_may_be_shown(folder):
    write(folder, "cola", [ITEMS["cola"] | {"label": 1}] * SHOWN + [ITEMS["cola"]] * 2)
    found = load_glue(folder, 1)
    assert {name: len(asked) for name, asked in found.items()} == dict.fromkeys(TASKS, 1)
    assert found["cola"][0].label == 0
    assert found["rte"][0].prompt == "A cat {sat}.\nquestion: It sat. True or False?\nanswer:"


@pytest.mark.parametrize(
    ("item", "said"), [({"label": 1}, "no field 'sentence'"), (ITEMS["sst2"] | {"label": 7}, "label 7")]
)
def test_what_a_task_does_not_know_is_named(folder, item, said):
    write(folder, "sst2", [item] * (SHOWN + 1))
    with pytest.raises(DataError, match=rf"sst2\.jsonl\.zst.*{said}"):
        load_glue(folder, 5)


def test_a_missing_task_is_named(tmp_path):
    with pytest.raises(DataError, match=r"glue/sst2\.jsonl\.zst.*--data FOLDER"):
        load_glue(tmp_path, 5)


def test_the_more_probable_label_is_the_answer(folder):
    found = ability(Told("positive", "No", "True"), load_glue(folder, 3))
    assert found["glue_sst2"] == found["glue_mrpc"] == found["glue_cola"] == found["glue_rte"] == 100
    assert found["glue_nli"] == 0
    assert found["glue"] == 80


def test_a_model_without_numbers_answers_nothing():
    class Broken(Told):
        def score(self, encoded):
            return [TargetScore(math.nan, 1, False) for _ in encoded]

    assert answers(Broken(), TASKS["sst2"], [Question("Review :x\nSentiment :", 1)]) == [None]


def test_f1_is_weighted_by_how_often_a_label_is_right():
    # F1 of 1: 2·2/(3+3), of 0: 0/(1+1).
    assert weighted_f1([1, 1, 1, 0], [1, 1, 0, 1]) == pytest.approx(0.75 * 2 / 3)
    assert weighted_f1([1, 1, 0, 0], [1, 1, 1, 1]) == pytest.approx(1 / 3)
    assert weighted_f1([1], [None]) == 0


def test_a_real_model_answers_each_question(tmp_path, folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = save_checkpoint(tmp_path / "tiny")
    scorer = Scorer(AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path))
    questions = load_glue(folder, 2)
    told = ability(scorer, questions)
    assert told == ability(scorer, questions)
    assert set(told) == {"glue", *(f"glue_{name}" for name in TASKS)}
    assert all(value in (0, 100) for name, value in told.items() if name != "glue")  # one label each
