"""The small language of the lexicon's sentence patterns, and what it becomes: a regular expression.

A pattern is matched against a sentence whose words and signs are separated by one space each, with a space at
the end: "Norway 's minister ". `{s}` subject, `{t}` target, `{w}` old target, `{n}` a noun of a relation,
`{x}` somebody, `{rest}` the rest; `(a|b)` one of them, `[a]` may be left out, `<name>` a named part.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from daemon.intake.reading.wording import BARE_POSSESSIVE

SLOTS = frozenset({"s", "t", "w", "n", "x", "rest"})
#: A noun of a relation, as it stands in the sentence.
NOUN = "\u27e6noun\u27e7"
#: Words of a name at most, beside its first: without a bound, matching a list of names would take minutes.
MOST_WORDS = 15
#: Words that no name holds in small letters: they begin a clause, or carry it.
_CLAUSE_TEXT = """
is are was were be been being am has have had having will would shall should can could may might must do
does did who which that whose whom where when while because although though if unless after before until
since than as by he she it they we you i him them us this these those not but or his its their her our
your my said says there here became becomes become got gets went goes moved moves resigned retired named
appointed elected from into whether instead rather formerly previously called named known
"""
CLAUSE_WORDS = _CLAUSE_TEXT.split()
#: A club, a team and "the Jazz Days" take the plural: patterns are written in the singular.
_PLURALS = {
    "is": ("is", "are"),
    "was": ("was", "were"),
    "has": ("has", "have"),
    "its": ("its", "their", "his", "her"),
}
_NO_NAME_STARTS = "(?!(?:of|to|in|on|at|for|with|and|or|version|under|between|about) )"
_TOKEN = re.compile(r"\{[^}]*\}|<[^>]*>|[()\[\]|]|'s|[,;:]|[^\s(){}<>\[\]|,;:]+?(?='s)|[^\s(){}<>\[\]|,;:]+")
_WORD = rf"(?!(?:{'|'.join(sorted(CLAUSE_WORDS))}|{NOUN}|;|:) )[^ ]+ "


class PatternError(ValueError):
    """Raised for a pattern that cannot be read; the text says what to write instead."""


@dataclass(frozen=True)
class Pattern:
    """One shape of a sentence. Its expressions are compiled when a sentence has the words that it needs.

    Attributes:
        weight: letters that it asks for; the more, the more it is worth.
        needs: the sentence holds a word of each of these sets, or does not match.
    """

    text: str
    expression: str
    weight: int
    needs: tuple[frozenset[str], ...]

    @property
    def slots(self) -> frozenset[str]:
        return frozenset(re.findall(r"\(\?P<(\w+)>", self.expression))

    @cached_property
    def _compiled(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        return re.compile(self.expression), re.compile(
            self.expression.replace(f"{{0,{MOST_WORDS}}}?)", f"{{0,{MOST_WORDS}}})")
        )

    def may_match(self, words: frozenset[str]) -> bool:
        """Whether the words of a sentence, in small letters, are such that it may match."""
        return not any(need.isdisjoint(words) for need in self.needs)

    def matches(self, sentence: str) -> Iterator[re.Match[str]]:
        """With the shortest names from the left, then with the longest: the caller judges which are names."""
        first = self._compiled[0].fullmatch(sentence)
        if first is None:
            return
        yield first
        second = self._compiled[1].fullmatch(sentence)
        if second is not None and second.groupdict() != first.groupdict():
            yield second


def compile_pattern(text: str, parts: Mapping[str, str]) -> Pattern:
    """Reads one pattern.

    Raises:
        PatternError: says what is wrong and what to write.
    """
    tokens = _TOKEN.findall(text)
    parser = _Parser(tokens, parts)
    whole = parser.alternatives()
    if parser.at < len(tokens):
        raise PatternError(f"a {tokens[parser.at]!r} closes nothing; write each ( and [ with its end")
    slots = re.findall(r"\(\?P<(\w+)>", whole.expression)
    if len(set(slots)) < len(slots):
        raise PatternError("holds a slot twice; each of {s}, {t} and {w} stands once")
    return Pattern(text, whole.expression, whole.weight, whole.needs)


@dataclass(frozen=True)
class _Piece:
    expression: str = ""
    weight: int = 0
    needs: tuple[frozenset[str], ...] = ()

    def __add__(self, other: "_Piece") -> "_Piece":
        return _Piece(
            self.expression + other.expression, self.weight + other.weight, self.needs + other.needs
        )


def _one_of(pieces: list[_Piece]) -> _Piece:
    """The piece that matches any; the sentence needs a word of one of them."""
    needs: tuple[frozenset[str], ...] = ()
    if all(piece.needs for piece in pieces):
        needs = (
            pieces[0].needs
            if len(pieces) == 1
            else (frozenset[str]().union(*(piece.needs[0] for piece in pieces)),)
        )
    # The longest first: "runs on" before "runs", or "on" would begin the name.
    expression = "|".join(piece.expression for piece in sorted(pieces, key=lambda piece: -piece.weight))
    return _Piece(expression, min(piece.weight for piece in pieces), needs)


class _Parser:
    def __init__(self, tokens: list[str], parts: Mapping[str, str]) -> None:
        self.tokens, self.parts, self.at = tokens, parts, 0

    def alternatives(self) -> _Piece:
        """What `a|b|c` matches; as heavy as the lightest."""
        found = [self._sequence()]
        while self.at < len(self.tokens) and self.tokens[self.at] == "|":
            self.at += 1
            found.append(self._sequence())
        return _one_of(found)

    def _sequence(self) -> _Piece:
        piece = _Piece()
        while self.at < len(self.tokens) and self.tokens[self.at] not in ")]|":
            piece += self._element(self.tokens[self.at])
        return piece

    def _element(self, token: str) -> _Piece:
        self.at += 1
        if token in "([":
            return self._group(token)
        if token.startswith("{"):
            return _Piece(_slot(token[1:-1]))
        if token.startswith("<"):
            return self._part(token[1:-1])
        if token == "'s":
            return _Piece(f"(?:'s|{BARE_POSSESSIVE}) ", 2, (frozenset({"'s", BARE_POSSESSIVE}),))
        forms = _PLURALS.get(token, (token,))
        expression = "|".join(re.escape(form) for form in forms)
        return _Piece(f"(?i:{expression}) ", len(token), (frozenset(form.lower() for form in forms),))

    def _group(self, opening: str) -> _Piece:
        piece = self.alternatives()
        closing = ")" if opening == "(" else "]"
        if self.at >= len(self.tokens) or self.tokens[self.at] != closing:
            raise PatternError(f"a {opening!r} has no {closing!r}; write it")
        self.at += 1
        if opening == "[":
            return _Piece(f"(?:{piece.expression})?")
        return replace(piece, expression=f"(?:{piece.expression})")

    def _part(self, name: str) -> _Piece:
        if name not in self.parts:
            raise PatternError(f"<{name}> is no part; take one of {', '.join(sorted(self.parts))}")
        piece = _Parser(_TOKEN.findall(self.parts[name]), self.parts).alternatives()
        return replace(piece, expression=f"(?:{piece.expression})")


def _slot(name: str) -> str:
    if name not in SLOTS:
        raise PatternError(f"{{{name}}} is no slot; take one of {{s}}, {{t}}, {{w}}, {{n}}, {{x}}, {{rest}}")
    if name == "n":
        return f"{NOUN} "
    if name == "rest":
        return "(?P<rest>[a-z].+)"
    return f"(?P<{name}>{_NO_NAME_STARTS}{_WORD}(?:{_WORD}){{0,{MOST_WORDS}}}?)"
