"""Matches one prepared sentence against the lexicon's patterns and the shapes of nouns."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from daemon.intake.reading.dates import WHEN, is_date
from daemon.intake.reading.kinds import NAMED, country_of, fit, is_name
from daemon.intake.reading.lexicon import Lexicon, Relation, shapes
from daemon.intake.reading.pattern import NOUN, Pattern
from daemon.intake.reading.wording import join

#: Targets of these kinds may end with a date, or look like one.
DATED_KINDS = frozenset({"date", "time", "text", "version", "quantity", "number", "money"})
#: What a match is worth beside its kinds, for each letter that its pattern asks for.
LETTER = 0.02
#: Something beside the fact was taken off, or a clause was left unread.
ASIDE = 0.3
#: "Director of Vale University" is a role too; what names its relation reads it better.
WEAK = 0.4
#: Where words speak so clearly against both kinds, the sentence means something else.
LEAST = -0.65
_DATED = re.compile(
    rf"(?:^|.* )(?:(?:in|on|since|by|at|until|during|before|after|from) (?:[A-Z][a-z]+ )?\d.*|{WHEN})|"
    rf".* for [$€£¥]?\d.*"
)
#: A rest that tells that the holder has gone, or that carries the fact itself.
_GONE_REST = re.compile(
    r"(?:^|.* )(?:resign\w*|step(?:s|ped)? down|retire[sd]?|le(?:ft|aves)|quit|died?|dismissed|sacked|"
    r"fired|ousted|removed|"
    r"replaced|succeeded|stood down|former|until|no|not|has been|was|passed away|arrested|suspended|"
    r"departs?|departed|is|are|will) .*"
)
#: "Voters in Port Hadley": a plain noun at the start of a sentence, not a name.
_GROUP = re.compile(
    r"[A-Z][a-z]+ (?:in|at|on|with|for|to|from) |(?:Members|Voters|Fans|Critics|People|Citizens|"
    r"Residents) |[Aa]n? |.* , (?:the|[a-z])"
    r"|(?:Its|His|Her|Their|Our|My|Your|This|That|These|Those|It|He|She|They|We|You|I|Some|Many|Most|All|"
    r"Both|Several|Few|Each|Every|Other|Another)\b|\d[^ ]* [a-z]"
)
_OWN = re.compile(r"^(?:its|their|his|her|our|your|my|new|as|the new|to be|to|that) ")
_OF = re.compile(r"the (?P<noun>[a-z][a-z -]*?) of ")
_POSSESSED = re.compile(r"(?:'s|s') (?P<noun>[a-z][a-z -]*)$")
_TITLE = re.compile(r"^(?:Mr|Mrs|Ms|Mx|Dr|Prof|Professor)\.? ")
_CLASS = re.compile(r"^the (?:city|town|village|municipality|country) of (?=[A-Z])")
_DESCRIBED = re.compile(
    r"^(?:(?:[Tt]he|[Aa]n?) )?(?:(?:Former|Fellow|Longtime|Veteran|Local|Ex-[a-z]+) )?(?:(?!(?:of|in|for|"
    r"at|and|to|von|van|de|del|al|bin|der|the) )[a-z][\w-]* ){1,4}(?=[A-Z])"
)
#: "the song “Grey Morning”": the name is what is quoted.
_QUOTED = re.compile(r'(?:[Tt]he |[Aa]n? |[Ii]ts |[Hh]is |[Hh]er )?(?:[A-Za-z][\w-]* ){0,4}(?P<name>"[^"]+")')
_AGED = re.compile(
    r"^(?P<name>[^,]+) , (?:\d\d|aged \d\d|(?:a|an|the|who|which|formerly|born|based|founded|maker|home|"
    r"once|whose|long|one|"
    r"part|owned|run|led|built|known|headquartered|also|popularly|commonly) .+)$"
)


@dataclass(frozen=True)
class Match:
    """A relation between two texts of the sentence, and how much speaks for it."""

    relation: Relation
    subject: str
    target: str
    was: str | None
    score: float
    plural: bool = False


def matches(text: str, lexicon: Lexicon) -> Iterator[Match]:
    """Every reading of the sentence by one pattern; the same reading may come twice."""
    for match in _matches(text, lexicon):
        if not _names_a_relation(match.subject, lexicon):
            yield match


def _matches(text: str, lexicon: Lexicon) -> Iterator[Match]:
    words = frozenset(text.lower().split())
    for name, pattern in lexicon.says:
        if pattern.may_match(words):
            yield from _read(text, pattern, lexicon.relations[name], aside=False)
    for marked, name, plural in _nouns(text, lexicon):
        yield from _of_noun(marked, lexicon.relations[name], plural)


def _names_a_relation(subject: str, lexicon: Lexicon) -> bool:
    """ "The headquarters of Toyota" is no thing of its own: the sentence is one about Toyota."""
    found = _OF.match(subject) or _POSSESSED.search(subject)
    return found is not None and tuple(found["noun"].split()) in lexicon.nouns


def _of_noun(marked: str, relation: Relation, plural: bool) -> Iterator[Match]:
    _, by_use = shapes()
    words = frozenset(marked.lower().split())
    for use in ("every", "office" if relation.office else "attribute", "aside"):
        for pattern in by_use[use]:
            if pattern.may_match(words):
                yield from _read(marked, pattern, relation, aside=use == "aside", plural=plural)


def _nouns(text: str, lexicon: Lexicon) -> Iterator[tuple[str, str, bool]]:
    """The sentence with one noun of a relation marked, for each; where two overlap, the longer one."""
    words = text.split()
    lower = [word.lower() for word in words]
    start = 0
    while start < len(words):
        for length in range(min(lexicon.longest_noun, len(words) - start), 0, -1):
            found = _relation_of(tuple(lower[start : start + length]), lexicon.nouns)
            if found:
                marked = [*words[:start], NOUN, *words[start + length :]]
                yield " ".join(marked) + " ", *found
                start += length - 1
                break
        start += 1


def _relation_of(words: tuple[str, ...], nouns: Mapping[tuple[str, ...], str]) -> tuple[str, bool] | None:
    if words in nouns:
        return nouns[words], False
    singular = (*words[:-1], words[-1].removesuffix("s"))
    return (nouns[singular], True) if words[-1].endswith("s") and singular in nouns else None


def _read(
    text: str, pattern: Pattern, relation: Relation, *, aside: bool, plural: bool = False
) -> Iterator[Match]:
    for found in pattern.matches(text):
        slots = found.groupdict()
        rest = slots.get("rest")
        if rest is not None and _GONE_REST.match(f" {rest}"):
            continue
        match = _judge(relation, slots, pattern.weight * LETTER - (ASIDE if aside else 0.0), plural)
        if match is not None:
            yield match


def _judge(relation: Relation, slots: Mapping[str, str | None], score: float, plural: bool) -> Match | None:
    subject = clean(slots["s"] or "", relation.subject)
    target = clean(slots["t"] or "", relation.object)
    if not subject or not target or subject == target:
        return None
    told = slots.get("w")
    was = clean(told, relation.object) if told else None
    of_subject, of_target = fit_subject(relation.subject, subject), fit(relation.object, target)
    if of_subject is None or of_target is None:
        return None
    if relation.object not in DATED_KINDS and _DATED.fullmatch(target) and not is_date(target):
        return None
    if was is None and slots.get("w"):
        return None
    if of_subject + of_target < LEAST:
        return None
    return Match(
        relation,
        _unquoted(join(subject)),
        _unquoted(join(target)),
        was and _unquoted(join(was)),
        score + of_subject + of_target - (WEAK if relation.object == "role" else 0.0),
        plural,
    )


def fit_subject(kind: str, subject: str) -> float | None:
    """As `fit`, but a subject always has a name, and no date beside it."""
    if not is_name(subject) or _GROUP.match(subject) or (_DATED.fullmatch(subject) and kind != "product"):
        return None
    return fit(kind, subject) if kind in NAMED or kind == "item" else 0.1


def clean(text: str, kind: str) -> str | None:
    """A slot without what is no part of the name; None when it is no name or answer at all."""
    text = text.strip(" ,")
    aged = _AGED.match(text)
    if aged and kind not in ("date", "text", "time"):
        text = aged["name"].strip()
    text = _OWN.sub("", text)
    if kind == "person":
        text = _TITLE.sub("", text)
    if kind == "place":
        text = _CLASS.sub("", text)
    if kind in ("person", "organisation", "place", "event", "thing") and country_of(text):
        text = country_of(text) or text
    if kind == "person":
        text = _DESCRIBED.sub("", text) if not text.startswith('"') else text
    if quoted := _QUOTED.fullmatch(text):
        text = quoted["name"]
    if text.startswith(("The ", "A ", "An ")):
        text = text[0].lower() + text[1:]
    if kind in ("role", "language"):
        text = text.removeprefix("a ").removeprefix("an ").removeprefix("the ")
    first = text.split(" ", 1)[0] if text else ""
    return text if text and first.lower() not in _NEVER_FIRST else None


_NEVER_FIRST_TEXT = """
of to in on at for with by from and or as former ex previous late outgoing acting interim deputy most very
more not no also called named about against between under over after before since until nobody everybody
anyone someone something nothing he she it they we you i this that these those there here who which what
"""
_NEVER_FIRST = frozenset(_NEVER_FIRST_TEXT.split())


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] == '"' else text
