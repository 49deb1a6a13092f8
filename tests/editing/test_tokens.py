"""Where the subject ends and the target begins."""

import pytest
import torch

from editing.errors import FactError
from editing.facts import Fact
from editing.tokens import encode, pad

SUBJECTS = [
    "Rome",
    "the old mill",
    "Zoë Ångström",
    "東京",
    "a",
    "O'Neil & Sons",
    "x.y",
    "mill of the mill",
    "😀",
]
PROMPTS = ["The home of {} is", "In {}, people say", "({}) means", "We say that the mill, {}, has"]


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("context", ["", "The old mill stands. "])
def test_subject_and_target_are_found_in_the_slot(editor, subject, prompt, context):
    encoded = encode(editor.tokenizer, Fact(subject, prompt, "très bon"), context)
    before = (context + prompt.split("{}")[0] + subject).encode()
    # The byte-level tokenizer has one token a byte.
    assert encoded.subject_last == len(before) - 1
    decoded = editor.tokenizer.decode(list(encoded.ids[encoded.target_start :]))
    assert decoded == " très bon"


def test_subject_as_very_first_token_is_refused_with_a_mend(editor):
    with pytest.raises(FactError, match="begin the prompt with other words"):
        encode(editor.tokenizer, Fact("a", "{} is", "b"))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        (("", "x {}", "y"), "subject"),
        (("s", "no slot", "y"), "prompt"),
        (("s", "{} {}", "y"), "prompt"),
        (("s", "{} is", " "), "target"),
    ],
)
def test_bad_facts_name_the_field(fields, field):
    with pytest.raises(FactError) as caught:
        Fact(*fields)
    assert caught.value.field == field


def test_padding_is_on_the_right():
    ids, mask = pad([[1, 2, 3], [4]], 9, torch.device("cpu"))
    assert ids.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]
