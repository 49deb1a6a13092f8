"""When an answer says a target, and what a model answers."""

import pytest
import torch

from editing.model.answers import answers
from editing.said import holds, said, settled

SAID = [
    ("Paris", "Paris"),
    (" Paris", "Paris"),
    ("\n Paris.", "Paris"),
    ("Paris, the capital", "Paris"),
    ("Paris (France)", "Paris"),
    ("Paris\nIt is", "Paris"),
    ("Paris.It lacks a space", "Paris"),
    ("Paris!", "Paris"),
    ("Paris—the capital", "Paris"),
    ('Paris"', "Paris"),
    ("Paris**", "Paris"),
    ("Paris's mayor", "Paris"),
    ("Ankara'da", "Ankara"),
    ("Ankara’dır.", "Ankara"),
    ("Astana қаласы", "Astana"),
    ("$1", "$1"),
    ("$1.", "$1"),
    ("$1. It was", "$1"),
    ("$1, or so", "$1"),
    ("$1 a month", "$1"),
    ("$1.10.", "$1.10"),
    ("3.16.1", "3.16.1"),
    ("3.16.1.", "3.16.1"),
    ("3.16.1, released", "3.16.1"),
    ("2024-05-01.", "2024-05-01"),
    ("1 May 2024, a Wednesday", "1 May 2024"),
    ("1,000 seats", "1,000"),
    ("12 000", "12"),
    ("10:30.", "10:30"),
    ("5 %", "5"),
    ("Apple Inc. is", "Apple Inc."),
    ("C++.", "C++"),
    ("東京。", "東京"),
    ("東京", "東京"),
    ("Zoe\u0308", "Zoë"),
    ("Zoë", "Zoe\u0308"),
    ("Paris", " Paris "),
    ("U.S. troops", "U.S."),
    ("St. John's", "St. John's"),
]
UNSAID = [
    ("", "Paris"),
    ("Parisian", "Paris"),
    ("The answer is Paris", "Paris"),
    ("paris", "Paris"),
    ("PARIS", "Paris"),
    ("Par", "Paris"),
    ("Astanaq", "Astana"),
    ("Astanada", "Astana"),
    ("Helsinkiin", "Helsinki"),
    ("$1.10", "$1"),
    ("$10", "$1"),
    ("$1,000", "$1"),
    ("$1\u00a0000", "$1"),
    ("1\u202f000", "1"),
    ("$1k", "$1"),
    ("1.5", "1"),
    ("3.16.1", "3.16"),
    ("3.16.1-0.0.", "3.16.1"),
    ("3.16.1rc2", "3.16.1"),
    ("3.16.12", "3.16.1"),
    ("2024-05-01", "2024"),
    ("2024/25", "2024"),
    ("1990–1995", "1990"),
    ("10:30", "10"),
    ("5%", "5"),
    ("5€", "5"),
    ("5°C", "5"),
    ("1 May 20245", "1 May 2024"),
    ("C++", "C"),
    ("C#", "C"),
    ("AT&T", "AT"),
    ("AC/DC", "AC"),
    ("Node.js", "Node"),
    ("Rolls-Royce", "Rolls"),
    ("Jean‑Luc", "Jean"),
    ("O'Neil", "O"),
    ("U.S.", "U"),
    ("a_b", "a"),
    ("x@y", "x"),
    ("東京都", "東京"),
    ("Zoe\u0301", "Zoe"),
    ("नई दिल्ली", "नई दिल्ल"),
    ("Paris", ""),
    ("Paris", " "),
]


@pytest.mark.parametrize(("answer", "target"), SAID)
def test_is_said(answer, target):
    assert said(answer, target)


@pytest.mark.parametrize(("answer", "target"), UNSAID)
def test_is_not_said(answer, target):
    assert not said(answer, target)


@pytest.mark.parametrize(("answer", "target"), SAID + UNSAID)
def test_what_is_settled_stays_said(answer, target):
    begun = [answer[:end] for end in range(len(answer) + 1) if settled(answer[:end], target)]
    assert not begun or said(answer, target)


def test_an_answer_is_settled_by_a_blank_or_three_more_characters():
    assert [settled(text, "Rome") for text in ("Rome", "Rome.", "Rome. ", "Rome. I", "Rome ")] == [
        *(False, False, False, True, True)
    ]
    assert not settled("1\u00a0", "1")
    assert not settled("U.S", "U")


def greedy(loaded, ids, count):
    """Full passes, one text at a time."""
    ids, told = list(ids), []
    for _ in range(count):
        best = int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax())
        if best == loaded.tokenizer.eos_token_id:
            break
        ids.append(best)
        told.append(best)
    return loaded.tokenizer.decode(told, skip_special_tokens=True)


def test_answers_are_those_of_one_text_at_a_time(open_chat_editor):
    loaded = open_chat_editor().loaded
    texts = ["The owner of the old mill is", "A cat", "We know that Blue Lake lies near the town of "]
    plain = [loaded.tokenizer(text.rstrip())["input_ids"] for text in texts]
    assert answers(loaded.speaker, texts, 8) == [greedy(loaded, ids, 8) for ids in plain]
    chat = [
        loaded.tokenizer(f"<user> {text}<pad><assistant> ", add_special_tokens=False)["input_ids"]
        for text in texts
    ]
    assert answers(loaded.speaker, texts, 8, chat=True) == [greedy(loaded, ids, 8) for ids in chat]
    assert answers(loaded.speaker, texts, 0) == ["", "", ""]
    assert answers(loaded.speaker, [], 8) == []


def test_a_common_beginning_is_read_once(open_chat_editor, monkeypatch):
    loaded = open_chat_editor().loaded
    begin = "We know that Blue Lake lies near the town of the old mill and "
    texts = [begin + end for end in ("the owner is", "a cat", "its town lies near the lake of")]
    monkeypatch.setattr("editing.model.answers.SHARED", 1000)
    apart = answers(loaded.speaker, texts, 8)
    read = []
    handle = loaded.model.base_model.register_forward_pre_hook(
        lambda _m, _a, named: read.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    monkeypatch.setattr("editing.model.answers.SHARED", 4)
    assert answers(loaded.speaker, texts, 8) == apart
    handle.remove()
    assert read[0][0] == 1
    assert read[0][1] + read[1][1] == max(len(loaded.tokenizer(text)["input_ids"]) for text in texts)


def test_an_answer_ends_where_it_says_its_target(open_chat_editor, monkeypatch):
    loaded = open_chat_editor().loaded
    monkeypatch.setattr("editing.model.answers.settled", lambda answer, target: target == "said")
    texts = ["The owner of the old mill is", "A cat"]
    told = answers(loaded.speaker, texts, 8, targets=["said", "unsaid"])
    assert told == [answers(loaded.speaker, texts[:1], 1)[0], answers(loaded.speaker, texts, 8)[1]]


@pytest.mark.parametrize(
    ("answer", "target", "held"),
    [
        ("The capital is Rome.", "Rome", True),
        ("Rome", "Rome", True),
        ("It is in Romania, not in Rome, they say", "Rome", True),
        ("Romania", "Rome", False),
        ("The price is $1.10", "$1", False),
        ("It costs $1 a month", "$1", True),
        ("version 3.16.1", "3.16", False),
        ("xRome", "Rome", False),
        ("", "Rome", False),
        ("anything", " ", False),
    ],
)
def test_an_answer_holds_a_target_that_stands_in_it_as_words_of_its_own(answer, target, held):
    assert holds(answer, target) is held
    assert not said(answer, target) or held
