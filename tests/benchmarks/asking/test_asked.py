"""How people ask, on a model that says nothing: what is asked, counted and told."""

import json

import pytest

from benchmarks.asking.asked import COLUMNS, Plan, asked, same, table, taken
from benchmarks.asking.ways import VARIED, WAYS, Asked, asked_records
from benchmarks.configuration import Configuration
from benchmarks.data import Neighbour, Record, Records
from benchmarks.errors import DataError
from editing.facts import Fact
from tests.tiny_models import CHAT_TEMPLATE

QUESTIONS = {"P1": {"given": ["Who owns {}?"], "asked": ["Whose is {}?", "Name the owner of {}."]}}


def record(subject: str, target: str) -> Record:
    fact = Fact(subject, "The owner of {} is", target)
    return Record(fact, "Bob", (f"{subject} is owned by",), (Neighbour("A cat is", "red"),))


RECORDS = Records((record("the mill", "Ada"), record("Blue Lake", "Eve"), record("Red Hill", "Tom")), {})


@pytest.fixture
def files(tmp_path):
    facts, questions = tmp_path / "facts.json", tmp_path / "questions.json"
    told = [
        {
            "requested_rewrite": {
                "subject": one.fact.subject,
                "prompt": one.fact.prompt,
                "relation_id": "P1" if one.fact.target != "Tom" else "P2",
            }
        }
        for one in RECORDS.records
    ]
    facts.write_text(json.dumps(told))
    questions.write_text(json.dumps(QUESTIONS))
    return facts, questions


def test_facts_whose_relation_has_questions_are_asked_one_and_may_post_another(files):
    found = asked_records(RECORDS, *files)
    assert [one.fact.target for one in found] == ["Ada", "Eve"]
    assert found[0].fact.questions == ("Who owns {}?",)
    assert found[0].question == "Whose is the mill?"
    questions = files[1]
    questions.write_text("{}")
    with pytest.raises(DataError, match="no fact"):
        asked_records(RECORDS, *files)


def test_ways_of_asking():
    one = Asked(RECORDS.records[0], "Whose is the mill?")
    asked = {name: way.asks(one, "") for name, way in WAYS.items()}
    assert asked["prompt"] == asked["chat_prompt"] == "The owner of the mill is"
    assert asked["paraphrase"] == "the mill is owned by"
    assert asked["question"] == "Q: Whose is the mill?\nA:"
    assert asked["old_in_context"] == "Somebody told me: The owner of the mill is Bob. Whose is the mill?"
    assert [turn["role"] for turn in asked["second_turn"]] == ["user", "assistant", "user"]
    assert asked["second_turn"][-1]["content"] == asked["chat_question"] == "Whose is the mill?"
    assert [name for name, way in WAYS.items() if not way.chat] == ["prompt", "paraphrase", "question"]
    hinted = WAYS["chat_question"].asks(one, f"{one.told} ")
    assert hinted == "The owner of the mill is Ada. Whose is the mill?"


def test_ways_in_which_askers_vary_a_question():
    one = Asked(RECORDS.records[0], "Whose is the mill?")
    asked = {name: way.asks(one, "") for name, way in VARIED.items()}
    assert all(way.chat for way in VARIED.values())
    assert [turn["role"] for turn in asked["system_prompt"]] == ["system", "user"]
    assert [turn["role"] for turn in asked["long_chat"]] == ["user", "assistant", "user", "assistant", "user"]
    assert {asked[name][-1]["content"] for name in ("system_prompt", "long_chat")} == {one.question}
    assert asked["lower_case"] == "whose is the mill?"
    assert asked["trailing_blank"] == "Whose is the mill? "


def test_answers_are_the_same_when_their_first_four_words_are():
    assert same(["a b c d e", "a b", ""], ["a  b c d f", "a b c", ""]) == [True, False, True]


@pytest.mark.parametrize("templated", [True, False])
def test_rows_tell_every_form_that_the_model_can_be_asked_in(model, files, tmp_path, templated):
    every = taken(asked_records(RECORDS, *files), model, 2)
    tokenizer = model.loaded.tokenizer
    tokenizer.chat_template = CHAT_TEMPLATE if templated else None
    model.loaded.__dict__.pop("chat", None)
    chosen = [
        Configuration.parse(f"memit-seq::none::steps=2,forms={forms}") for forms in ("prompt", "prompt.chat")
    ]
    plan = Plan(every, every[1:], ["A cat sat there. " * 4], (1, 2), 2, varied=templated)
    ways = {**WAYS, **VARIED} if templated else WAYS
    try:
        rows = asked(model, plan, chosen, tmp_path)
    finally:
        tokenizer.chat_template = None
        model.loaded.__dict__.pop("chat", None)
    names = [name for name, way in ways.items() if templated or not way.chat]
    assert [(row["configuration"], row["edits"], row["form"]) for row in rows] == [
        (str(one), mark, name) for one in chosen for mark in (1, 2) for name in names
    ]
    assert json.loads((tmp_path / "asked.json").read_text()) == rows
    for row in rows:
        assert row["asked"] == row["edits"]
        assert 0 <= row["low"] <= row["after"] <= row["high"] <= 1
        assert 0 <= row["said"] <= row["after"]
        assert row["perplexity_ratio"] > 0
        assert (row["exact_match"] is None) == ways[row["form"]].chat
    assert {row["columns"] for row in rows} == ({1.0, 2.0} if templated else {1.0})
    lines = table(rows)
    assert {len(line) for line in lines} == {len(COLUMNS)}
    assert lines[0][4].startswith(f"{100 * rows[0]['after']:.0f} (")
