"""Text from outside: one spelling, nothing hidden, nothing that moves a terminal."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.errors import CorrectionError
from daemon.core.messages import Correction, Neighbour, parse_correction
from daemon.core.text import composed, escaped, hidden, plain, spellings

GOOD = {"subject": "France", "prompt": "The capital of {} is", "target": "Lyon"}
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
#: What a text may not hold, each kind once.
REFUSED = {
    "c1": "a\x9b31mb",
    "right-to-left override": "a\u202eb",
    "isolate": "a\u2066b",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    "soft hyphen": "a\u00adb",
    "zero width space": "a\u200bb",
    "mark of direction": "a\u200fb",
    "byte order mark": "a\ufeffb",
    "joiner behind Latin": "a\u200db",
    "two joiners": "\u0645\u200c\u200c\u0645",
    "tag": "a\U000e0041b",
    "two variation selectors": "a\ufe0f\ufe0fb",
    "filler": "a\u3164b",
    "control": "a\x1bb",
}
TAKEN = ["می\u200cخواهم", "क\u094d\u200dष", FAMILY, "❤\ufe0f", "\u06dd", "Zürich", "日本", "it\u2019s"]


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_hides_or_moves_is_refused_in_every_text_and_shown_as_a_code(text):
    for name, field in Correction.model_fields.items():
        if name == "priority":
            continue
        if "list" not in str(field.annotation):
            message = GOOD | {name: f"{GOOD.get(name, name)} {text}"}
        elif name == "neighbours":
            message = GOOD | {name: [{"prompt": text, "answer": text}]}
        else:
            message = GOOD | {name: [f"{text} {{}}"]}
        with pytest.raises(CorrectionError, match=r"U\+[0-9A-F]{4}") as caught:
            parse_correction(message)
        assert caught.value.problems[0].field.startswith(name)
    assert hidden(escaped(text)) is None
    assert json.loads(f'"{escaped(text)}"') == text


@pytest.mark.parametrize("text", TAKEN)
def test_what_a_script_needs_is_taken_and_shown_as_it_is(text):
    assert plain(text) == text == escaped(text)
    assert parse_correction(GOOD | {"subject": text}).subject == composed(text)


def test_both_spellings_are_one_correction_in_every_text():
    name = "Zürich"
    decomposed = unicodedata.normalize("NFD", name)
    message = {
        **{field: f"{decomposed} {{}}" for field in ("prompt",)},
        **dict.fromkeys(("subject", "target", "was", "key", "source"), decomposed),
        "paraphrases": [decomposed],
        "neighbours": [{"prompt": decomposed, "answer": decomposed}],
    }
    taken = parse_correction(message)
    same = parse_correction(json.loads(unicodedata.normalize("NFC", json.dumps(message, ensure_ascii=False))))
    assert taken == same
    assert taken.content_hash == same.content_hash
    assert taken.neighbours == [Neighbour(prompt=name, answer=name)]
    assert spellings(name) == sorted({name, decomposed})


def test_the_hash_of_a_correction_in_todays_ledgers_stays():
    # Written by factd before it composed texts.
    body = GOOD | {"subject": "Zürich", "was": "Paris", "paraphrases": ["Ask: {}"]}
    assert parse_correction(body).content_hash == HASH


HASH = "8647475afeb5a9184274fab2db7d86f9fe60691a584cce7c5619c66aad376a53"


@given(st.text(st.characters(codec=None), max_size=30))
def test_escaped_text_is_json_and_has_nothing_hidden(text):
    assert hidden(escaped(text)) is None
    quoted = json.dumps(text, ensure_ascii=False)
    assert json.loads(escaped(quoted)) == text


def test_a_long_row_of_accents_costs_no_time():
    # Composing sorts accents: with 10 MB of them it would take hours.
    with pytest.raises(CorrectionError, match="longer than 200"):
        parse_correction(GOOD | {"subject": "a" + "\u0301\u0323" * 5_000_000})
