"""Sentences that say what is no longer so beside what is: turned into the plain sentence and the old "
"target."""

import re
from collections.abc import Iterator

from daemon.intake.reading.wording import Wording

_PREPOSITIONS = frozenset(["in", "at", "on", "to", "of", "from", "by", "for", "under", "with", "into", "as"])
_BE = "(?:is|are|was|were|has been|have been)"
_DO = "(?:is|are|does|do|has|have)"

_NOT_BUT = re.compile(
    r"(?P<head>.*?)(?: ?(?:does|do|did))? ?not (?P<old>.+?)(?: ,)? (?:but|and instead|, instead) (?P<new>.+)"
)
_NOT_AFTER = re.compile(r"(?P<head>.+?)(?: ,)? (?:and )?not (?P<old>[^,]+?)(?: , (?P<tail>.+)| )")
_NOT_FIRST = re.compile(r"Not (?P<old>.+?)(?: ,)? but (?P<rest>.+)")
_INSTEAD = re.compile(r"(?i:instead of|rather than|in place of) (?P<old>[^,]+?) , (?P<rest>.+)")
_ASIDE = re.compile(r"(?P<new>.+?) , (?:and )?(?:not|rather than|instead of) (?P<old>[^,]+?) , (?P<rest>.+)")
_CLEFT = re.compile(
    rf"It {_BE} (?P<new>.+?)(?: , (?:and )?not (?P<old>[^,]+?) ,| ,)? (?:who|that|which) (?P<rest>.+)"
)
_CLEFT_NOT = re.compile(
    rf"It {_BE} not (?P<old>.+?)(?: ,)? but (?P<new>.+?)(?: ,)? (?:who|that|which) (?P<rest>.+)"
)
_STEP = (
    r"(?:is|are|was|does|do|has|holds (?:it|the .+)|took over|has taken over|takes over|"
    r"has replaced (?:him|her|them|it)"
    r"|replaced (?:him|her|them|it)|replaces (?:him|her|them|it)|has succeeded (?:him|her)|"
    r"succeeded (?:him|her)"
    r"|has (?:the|that|this) (?:job|post|role|title|office)|is the new one|is it)"
)
_NO_MORE = re.compile(
    rf"(?P<old>.+?) {_BE} not (?P<rest>.+?)(?: [;,])?(?: and| but| , but)? (?P<new>[^;,]+?) {_STEP} "
)
_THEN_IT = re.compile(
    rf"(?P<head>.+?) (?P<be>{_BE})(?P<no> not) (?P<old>.+?) [;,] (?:but |instead )?(?:it|he|she|"
    rf"they) {_BE} (?P<new>.+)"
)
_WAS_THEN_IT = re.compile(
    r"(?P<head>.+?) (?P<be>is|are|has been) not (?P<old>.+?) [;,] (?:but |instead )?(?:it|he|she|they) "
    r"(?P<verb>[a-z]+(?: [a-z]+)?) (?P<new>.+)"
)


def affirmed(wording: Wording) -> Iterator[Wording]:
    """The sentence as it is, and every way to say it without its negation."""
    yield wording
    text = wording.text
    for old, new in (*_first(text), *_inside(text)):
        yield Wording(" ".join(new.split()) + " ", wording.was or _bare(old))


def is_negative(text: str) -> bool:
    return re.search(r"(?:^|(?<= ))(?:not|never|neither|nor|nobody|without|cannot)(?= )", text) is not None


def _bare(old: str) -> str:
    words = old.split()
    return " ".join(words[1:] if words and words[0] in _PREPOSITIONS else words)


def _first(text: str) -> Iterator[tuple[str, str]]:
    for expression in (_NOT_FIRST, _INSTEAD):
        if found := expression.fullmatch(text):
            yield found["old"], found["rest"]
    if found := _CLEFT_NOT.fullmatch(text):
        yield found["old"], f"{found['new']} {found['rest']}"
    elif found := _CLEFT.fullmatch(text):
        yield found["old"] or "", f"{found['new']} {found['rest']}"
    if found := _ASIDE.fullmatch(text):
        yield found["old"], f"{found['new']} {found['rest']}"


def _inside(text: str) -> Iterator[tuple[str, str]]:
    if found := _NO_MORE.fullmatch(text):
        yield found["old"], f"{found['new']} is {found['rest']}"
    if found := _NOT_BUT.fullmatch(text):
        yield _parted(found["head"], found["old"], found["new"])
    if found := _THEN_IT.fullmatch(text):
        yield _resumed(f"{found['head']} {found['be']}", found["old"], found["new"])
    if (found := _NOT_AFTER.fullmatch(text)) and not found["head"].endswith((" is", " are", " was", " has")):
        yield found["old"], f"{found['head']} {found['tail'] or ''}"


def _parted(head: str, old: str, new: str) -> tuple[str, str]:
    """ "belongs to Nordmed" and "to Helix Group": the words before the shared preposition belong to the "
    "plain sentence."""
    first, *_ = new.split()
    if first in _PREPOSITIONS and f" {first} " in f" {old} ":
        before, _, after = f" {old} ".rpartition(f" {first} ")
        return after, f"{head} {before} {new}"
    return old, f"{head} {new}"


def _resumed(head: str, old: str, new: str) -> tuple[str, str]:
    """ "based in Zurich" and "in Vienna", or "written in C++" and "written in Rust"."""
    was, now = old.split(), new.split()
    shared = 0
    while shared < min(len(was), len(now)) - 1 and was[shared] == now[shared]:
        shared += 1
    if shared:
        return " ".join(was[shared:]), f"{head} {new}"
    return _parted(head, old, new)
