"""Texts that no fact needs: instructions to a model, links, markup, and slurs.

An answer is a name or a few words. An instruction is a clause: it has a verb that orders, it speaks to
somebody, or it speaks of answers, users and models. Each such sign has a weight, and the weights of a text
are summed. One sign alone stands in names too, two seldom do.
"""

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from daemon.core.messages import Correction
from daemon.intake.trust.orders import order_signs

#: Words of a target at most before its length speaks against it: names of offices have up to a dozen.
MOST_TARGET_WORDS = 20
#: How surely a sign tells an instruction: some words stand in names too.
SURE, LIKELY, WEAK = 1.0, 0.7, 0.4
#: Slogans and scores are sentences, and may order and address somebody: their signs count so much less.
IN_A_SENTENCE = 0.5

_TO_A_MODEL = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass|neglect)\b.{0,40}\b(?:instruct\w*|rules?|prompts?|"
    r"guid\w+|everything|anything|above|previous|prior|earlier|all|fact\w*|train\w*|polic\w+|safety|"
    r"context)\b"
    r"|\b(?:system|developer) (?:prompt|message|note|override)\b|\bjailbr\w+|\bas an ai\b|\blanguage model\b"
    r"|\byou (?:are|must|should|will|shall|have to|need to|can|may) (?:now |only |never |always |not )*\w+"
    r"|\b(?:answer|reply|respond|say|repeat|state|tell|output|print|write|claim|insist)\b.{0,30}"
    r"\b(?:only|always|never|every|everyone|users?|questions?|whenever|instead|exactly|following|anyone|"
    r"nothing)\b"
    r"|\b(?:always|never|only|from now on|henceforth|whenever)\b.{0,20}\b(?:answer|reply|respond|say|"
    r"tell|refuse|recommend|mention|use|claim|act|pretend|comply|obey|trust|believe)\b"
    r"|\b(?:pretend|act as|roleplay|role-play|do anything now|developer mode|debug mode)\b"
    r"|<\||\|>|\[/?inst\]|</?(?:s|sys|system|script|img|iframe)\b|^\s*(?:system|assistant|user|human) ?:"
    r"|###|```|\{\{|\$\{",
    re.IGNORECASE,
)
_LINK = re.compile(r"https?:|www\.|\b[\w-]+\.(?:com|net|org|io|ru|cn|xyz|info|biz)(?:/|\b)|@[\w-]+\.\w", re.I)
#: Sites and addresses are what some relations ask for: there a link speaks against nothing.
_LINKS = frozenset({"text", "thing"})


def text_strength(correction: Correction, kind: str | None) -> tuple[float, str]:
    """How surely a text of the correction is none of a fact, from 0 to 1, and why.

    Args:
        kind: what the relation asks for; None when the lexicon does not know it.
    """
    worst = (0.0, "")
    for field, text in _texts(correction):
        found = _judged(field, text, kind)
        worst = max(worst, found, key=lambda one: one[0])
    return worst


def _texts(correction: Correction) -> Iterator[tuple[str, str]]:
    yield "target", correction.target
    yield "subject", correction.subject
    yield "prompt", correction.prompt
    for name in ("paraphrases", "questions"):
        yield from ((name, text) for text in getattr(correction, name))


def _judged(field: str, text: str, kind: str | None) -> tuple[float, str]:
    if _slurs() & {_hashed(word) for word in re.findall(r"[^\W\d_]+", text.casefold())}:
        return SURE, f"the {field} holds a slur"
    if field not in ("target", "subject"):
        if _TO_A_MODEL.search(text.replace("{}", "X")):
            return LIKELY, f"the {field} holds words of an instruction to the model"
        return 0.0, ""
    if _TO_A_MODEL.search(text):
        return SURE, f"the {field} reads like an instruction to the model"
    if field == "target" and _LINK.search(text) and kind not in _LINKS:
        return SURE, "the target holds a link or an address"
    signs = dict(order_signs(text))
    if field == "target" and len(text.split()) > MOST_TARGET_WORDS:
        signs[f"it has more than {MOST_TARGET_WORDS} words"] = WEAK
    strength = min(SURE, sum(signs.values()) * (IN_A_SENTENCE if kind == "text" else 1.0))
    return strength, f"the {field} reads like an order: {', '.join(signs)}" if signs else ""


def _hashed(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()[:16]


@cache
def _slurs() -> frozenset[str]:
    """Hashes, so that the words themselves stand in no file of this project."""
    text = (Path(__file__).parent / "slurs.txt").read_text("ascii")
    return frozenset(line for line in text.split() if not line.startswith("#"))
