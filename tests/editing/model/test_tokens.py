"""Where the subject ends and the target begins."""

import itertools
import random
from collections import Counter

import pytest
import torch

from editing.errors import FactError
from editing.facts import Fact
from editing.model.tokens import encode, pad
from tests.tiny_models import (
    byte_tokenizer,
    merging_tokenizer,
    metaspace_tokenizer,
    word_piece_tokenizer,
)

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


# --- adversarial facts × tokenizers, against positions counted in bytes -------------------------------

PARTS = [
    "Rome", "the old mill", "mill", "Zoë", "Zoe\u0308", "東京", "京", "😀", "👩‍👩‍👧", "O'Neil & Sons", "x.y",
    "a", "(R)", "Rome, Rome", "mill mill",
    "  Rome", "Rome  ", "Rome\u00a0", "\tmill", "ﬁ", "Ὀδυσσεύς", "наука",
    "مدينة", "{x}", "\u200bRome", "A\u0301", "...", "1,000", "the",
]  # fmt: skip
FRAMES = [
    "{} is", "{}", "{}, they say,", "We met {}", "({}) means", "the{} of", "Of {}'s mill", "Rome, {}, Rome",
    "The mill of {}  ", "In  {}  there", "“{}” ist", "東京の{}は", "The home of {} is", "mill {} mill",
    "a{}a",
]  # fmt: skip
TARGETS = ["A", "Rome", "très bon", " the mill", "東京", ", no", "’s own", "😀"]


def adversarial_facts(count: int = 200) -> list[tuple[Fact, str]]:
    chosen = random.Random(0)
    facts = []
    while len(facts) < count:
        subject = "".join(chosen.choices(PARTS, k=chosen.choice((1, 1, 2))))
        fact = Fact(subject, chosen.choice(FRAMES), chosen.choice(TARGETS))
        facts.append((fact, chosen.choice(["", "", "The mill, Rome. ", "東京 "])))
    return facts


def byte_values(token: str, alphabet: dict[str, int]) -> bytes:
    """The UTF-8 bytes that a token of a byte-level or byte-fallback vocabulary stands for."""
    if token in ("<s>", "<pad>"):
        return b""
    if alphabet:
        return bytes(alphabet[letter] for letter in token)
    if token.startswith("<0x"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


def byte_alphabet() -> dict[str, int]:
    """Letter of the byte-level alphabet → byte: printable bytes stand for themselves, the rest follow."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [i for i in range(256) if i not in own]
    return {chr(i): i for i in own} | {chr(256 + n): i for n, i in enumerate(rest)}


def counted(tokenizer, fact: Fact, context: str, alphabet: dict[str, int], put_before: int):
    """Where the subject ends and the target begins, from the tokens' bytes alone.

    Returns:
        The index, whether that token holds other text too, and the target's bytes.
    """
    before, after = fact.prompt.split("{}")
    head = context + before
    text = (head + fact.subject + after).rstrip()
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(f"{text} {fact.target.strip()}")["input_ids"])
    values = [byte_values(token, alphabet) for token in tokens]
    ends = list(itertools.accumulate(len(value) for value in values))
    final = put_before + len((head + fact.subject.rstrip()).encode())
    last = max(i for i, end in enumerate(ends) if end - len(values[i]) < final and values[i])
    lead = put_before + len(head.encode())
    outside = values[last][: max(0, lead - ends[last] + len(values[last]))]
    outside += values[last][len(values[last]) - max(0, ends[last] - final) :]
    return last, bool(outside.strip()), values


BYTES = byte_alphabet()
TOKENIZERS = {
    "bytes": (byte_tokenizer(), BYTES, 0),
    "bytes with BOS": (byte_tokenizer(bos=True), BYTES, 0),
    "merges": (merging_tokenizer(across_words=False), BYTES, 0),
    "merges across words": (merging_tokenizer(across_words=True), BYTES, 0),
    "metaspace with BOS": (metaspace_tokenizer(), {}, 1),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_positions_are_those_counted_in_bytes(name):
    tokenizer, alphabet, put_before = TOKENIZERS[name]
    refused: Counter[str] = Counter()
    for fact, context in adversarial_facts():
        last, joined, values = counted(tokenizer, fact, context, alphabet, put_before)
        prompt = encoded(tokenizer, fact, context)
        if isinstance(prompt, FactError):
            refused[prompt.field] += 1
            assert prompt.field == "target" or joined or last == 0, (fact, context)
            continue
        assert prompt.subject_last == last, (fact, context)
        assert not joined
        target = b"".join(values[prompt.target_start :])
        assert target.strip() == fact.target.strip().encode(), (fact, context)
        assert prompt.ids == tuple(tokenizer(context_text(fact, context))["input_ids"])
    assert sum(refused.values()) < (80 if "across" in name else 20), refused
    assert not refused["subject"]
    assert ("across" in name) == bool(refused["target"])


def encoded(tokenizer, fact: Fact, context: str):
    """What `encode` gives or the error that it raises."""
    try:
        return encode(tokenizer, fact, context)
    except FactError as error:
        return error


def context_text(fact: Fact, context: str) -> str:
    return f"{(context + fact.text).rstrip()} {fact.target.strip()}"


def test_pieces_of_words_and_a_token_behind_the_text():
    """BERT's way loses case and accents; there the text up to the subject's end is tokenised alone."""
    tokenizer = word_piece_tokenizer()
    written = 0
    for fact, context in adversarial_facts():
        before, after = fact.prompt.split("{}")
        prompt = encoded(tokenizer, fact, context)
        if isinstance(prompt, FactError):
            # Letters that are not in the vocabulary, or a word that goes on behind the subject.
            assert prompt.field in ("subject", "prompt"), (fact, context)
            continue
        written += 1
        whole = tokenizer(context_text(fact, context))["input_ids"]
        until_subject = tokenizer(context + before + fact.subject)["input_ids"][:-1]
        until_target = tokenizer(context + before + fact.subject + after)["input_ids"][:-1]
        assert prompt.ids == tuple(whole[:-1])
        assert (prompt.subject_last, prompt.target_start) == (len(until_subject) - 1, len(until_target))
    assert written > 80


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if "across" not in name])
def test_special_token_as_subject_is_refused(name):
    with pytest.raises(FactError) as refused:
        encode(TOKENIZERS[name][0], Fact("<pad>", "We met {} there", "A"))
    assert refused.value.field == "subject"


def test_subject_joined_with_its_neighbours_is_refused_with_a_mend():
    with pytest.raises(FactError, match="put a space there") as refused:
        encode(TOKENIZERS["merges across words"][0], Fact("the mill", "We say {}, yes", "A"))
    assert refused.value.field == "prompt"
