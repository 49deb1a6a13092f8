"""Plain sentences to readings: what a correction would say, and how it would be asked."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from daemon.core.messages import Correction, parse_correction
from daemon.intake.reading.grammar import Match, matches
from daemon.intake.reading.kinds import is_name
from daemon.intake.reading.lexicon import Lexicon
from daemon.intake.reading.negation import affirmed, is_negative
from daemon.intake.reading.parting import aside, dated, parts
from daemon.intake.reading.refusing import Refusal, no_fact, refused
from daemon.intake.reading.wording import Wording, bare, join, prepare, sentences

#: A second reading that is worth this much less is given up.
MARGIN = 0.15
#: Confidence of a reading for which nothing but its pattern speaks, and of the surest.
LEAST, MOST = 0.6, 0.99
#: Characters and words of a statement; longer text is an article, not a fact.
MAX_STATEMENT, MAX_WORDS = 600, 60


@dataclass(frozen=True)
class Reading:
    """One correction that a statement was read into; `confidence` is the reader's own, from 0 to 1."""

    subject: str
    prompt: str
    target: str
    was: str | None
    questions: tuple[str, ...]
    relation: str
    confidence: float

    def correction(self) -> Correction:
        """As it is posted.

        Raises:
            CorrectionError: a text of it is too long, or holds what no correction may.
        """
        fields = {"subject": self.subject, "prompt": self.prompt, "target": self.target, "was": self.was}
        return parse_correction(fields | {"questions": list(self.questions)})

    def told(self) -> str:
        """ "The director of *Vale University* is → *Amara Singh*; was …", as people are asked to "
        "confirm it."""
        text = f"{self.prompt.replace('{}', f'*{self.subject}*')} → *{self.target}*"
        if self.was:
            text += f"; was *{self.was}*"
        asked = " / ".join(question.replace("{}", self.subject) for question in self.questions)
        return f"{text}; asked in chat as: {asked}" if asked else text


@dataclass(frozen=True)
class Read:
    """What became of a statement: `readings` are all posted, unless it is `refused`.

    Attributes:
        reader: who has read it: the lexicon's patterns, or the served model.
    """

    statement: str
    readings: tuple[Reading, ...] = ()
    refused: Refusal | None = None
    reader: Literal["lexicon", "served"] = "lexicon"

    def corrections(self) -> list[Correction]:
        """What is posted when somebody confirms it: nothing of a statement that is refused."""
        return [] if self.refused else [reading.correction() for reading in self.readings]

    def view(self) -> dict[str, Any]:
        """As `factd say --json` and `POST /v1/statements` show it; `reader` where the model has read it."""
        readings = [asdict(one) | {"questions": list(one.questions)} for one in self.readings]
        shown = {
            "statement": self.statement,
            "readings": readings,
            "refused": asdict(self.refused) if self.refused else None,
        }
        return shown if self.reader == "lexicon" else shown | {"reader": self.reader}


class Reader(Protocol):
    """Whatever reads statements."""

    def read(self, statement: str) -> Read: ...


class LexiconReader:
    """Reads by the lexicon's patterns alone: the same sentence has the same reading on every machine."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon

    def read(self, statement: str) -> Read:
        """The readings of one statement, or the reason why it is refused. Never both, unless it is "
        "ambiguous."""
        if len(statement) > MAX_STATEMENT or len(statement.split()) > MAX_WORDS:
            why = f"It is longer than {MAX_STATEMENT} characters or {MAX_WORDS} words. State one fact."
            return Read(statement, refused=Refusal("no_fact", why))
        whole = refused(statement)
        if whole is not None:
            return Read(statement, refused=whole)
        return self._several(statement, sentences(statement))

    def _several(self, statement: str, found: Sequence[str]) -> Read:
        one = self._clause("; ".join(prepare(text) for text in found))
        return Read(statement, one) if isinstance(one, tuple) else Read(statement, one.readings, one.refused)

    def _clause(self, text: str) -> "tuple[Reading, ...] | Read":
        twice = dated(text)
        if twice and (one := self._best(twice[0])) and (two := self._best(twice[1])):
            return self._joined(one, two)
        told = aside(text)
        main = self._best(told[0]) if told else []
        best = main or self._best(text)
        if best:
            beside = self._best(told[1]) if told and main else []
            return self._joined(best, beside) if beside else self._decided(best)
        for first, second in parts(text, self._subject_of):
            one, two = self._best(first), self._best(second)
            if one and two:
                return self._joined(one, two)
        return Read("", refused=self._why_not(text))

    def _joined(self, one: list[Match], two: list[Match]) -> "tuple[Reading, ...] | Read":
        first, second = self._decided(one), self._decided(two)
        if isinstance(first, Read):
            return first
        if isinstance(second, Read):
            return second
        slots = {(reading.relation, reading.subject) for reading in (*first, *second)}
        same = len(slots) == 1 and self.lexicon.relations[first[0].relation].single
        return Read("", refused=_two()) if same else tuple(dict.fromkeys((*first, *second)))

    def _decided(self, found: list[Match]) -> "tuple[Reading, ...] | Read":
        if found[0].plural and found[0].relation.single and " and " in found[0].target:
            return Read("", refused=_two())
        readings = tuple(_reading(match) for match in found)
        if len(readings) == 1:
            return readings
        told = "; or: ".join(reading.told().split("; asked")[0] for reading in readings)
        why = f"It can be read in {len(readings)} ways: {told}. Say which one with the relation's own noun."
        return Read("", readings, Refusal("ambiguous", why))

    def _subject_of(self, text: str) -> str | None:
        best = self._best(text)
        return best[0].subject if best else None

    def _best(self, text: str) -> list[Match]:
        """The best matches, those that are nearly as good included; of the fullest wording that has any."""
        for wording in _wordings(text):
            found = [_with_was(match, wording) for match in matches(wording.text, self.lexicon)]
            if found:
                return _strongest(found)
        return []

    def _why_not(self, text: str) -> Refusal:
        plain = join(text)
        if is_negative(text):
            why = "It says what is not so, and not what is. Add what is so now: who or what it is instead."
            return Refusal("no_fact", why)
        if re.search(r" (?:or|either|respectively) | and .* (?:are|were|have) ", text):
            return _two()
        named = [word for word in text.split()[1:] if word[:1].isupper() or word[:1].isdigit()]
        subject = no_fact(text)
        if "pronoun" in subject.why or not named or len(text.split()) < 3:
            return subject
        if re.search(r" (?:and|;) ", text) and self._half(text):
            return _two()
        if re.search(r"(?<![^ ])(?:former|ex|previous|used to) ", text):
            return Refusal("no_fact", "It tells of the past. Say what is so now.")
        return _unknown(plain, text)

    def _half(self, text: str) -> bool:
        """Whether one side of an "and" states a fact that is known."""
        return any(self._best(first) or self._best(second) for first, second in parts(text, lambda _: None))


def _wordings(text: str) -> Iterator[Wording]:
    """The wordings of a sentence, the fullest first; none that still denies something."""
    for wording in bare(text):
        for plain in affirmed(wording):
            if not is_negative(plain.text):
                yield plain


def _with_was(match: Match, wording: Wording) -> Match:
    if match.was or not wording.was:
        return match
    was = join(wording.was)
    if not is_name(was) and match.relation.object in ("person", "place", "organisation"):
        return match
    return Match(match.relation, match.subject, match.target, was, match.score, match.plural)


def _strongest(found: list[Match]) -> list[Match]:
    ranked = sorted(found, key=lambda match: -match.score)
    kept = dict[tuple[str, str, str], Match]()
    for match in ranked:
        key = (match.relation.name, match.subject, match.target)
        if match.score >= ranked[0].score - MARGIN:
            known = kept.setdefault(key, match)
            if known.was is None and match.was is not None:
                kept[key] = match
    return list(kept.values())


def _reading(match: Match) -> Reading:
    relation = match.relation
    confidence = min(MOST, LEAST + 0.15 * max(0.0, match.score))
    return Reading(
        match.subject, relation.prompts[0], match.target, match.was, tuple(relation.questions), relation.name,
        round(confidence, 2),
    )  # fmt: skip


def _two() -> Refusal:
    return Refusal(
        "two_facts", "It says two things in one breath that cannot be parted. State one fact a sentence."
    )


def _unknown(plain: str, text: str) -> Refusal:
    noun = re.match(
        r"(?:[Tt]he|[Ii]ts|[A-Z][^ ]*(?: [A-Z][^ ]*)* 's) (?P<noun>(?:[a-z][\w-]* ){1,4}?)(?:of|for|in|"
        r"at|is|are) ",
        text,
    )
    what = (
        f"The lexicon has no relation \u201c{noun['noun'].strip()}\u201d"
        if noun
        else "The lexicon knows no relation in it"
    )
    mend = (
        "Reword it (`factd relations list` shows what is known), add the relation to a file of your own "
        "(FACTD_RELATIONS), or give subject, prompt and target with `factd post`"
    )
    return Refusal("unknown_relation", f"{what}. {mend}.")
