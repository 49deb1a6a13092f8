"""The small language of the lexicon's sentence patterns, and what it becomes: a regular expression.

A pattern is matched against a sentence whose words and signs are separated by one space each ("Norway 's
minister"), with a space at the end. `{s}` subject, `{t}` target, `{w}` old target, `{n}` a noun of a relation,
`{x}` somebody, `{rest}` the rest; `(a|b)` one of them, `[a]` may be left out, `<name>` a named part.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SLOTS = frozenset({"s", "t", "w", "n", "x", "rest"})
#: A noun of a relation, as it stands in the sentence.
NOUN = "\u27e6noun\u27e7"
#: Words of a name at most. The longest titles of works have some twenty; a clause has more.
MOST_WORDS = 16
#: Words that no name holds in small letters: they begin a clause, or carry it.
CLAUSE_WORDS = """
is are was were be been being am has have had having will would shall should can could may might must do does did
who which that whose whom where when while because although though if unless after before until since than as by
he she it they we you i him them us this these those not but or his its their her our your my said says there here
became becomes become got gets went goes moved moves resigned retired named appointed elected from into whether
""".split()
_TOKEN = re.compile(r"\{[^}]*\}|<[^>]*>|[()\[\]|]|'s|[,;:]|[^\s(){}<>\[\]|,;:]+?(?='s)|[^\s(){}<>\[\]|,;:]+")
_WORD = rf"(?!(?:{'|'.join(sorted(CLAUSE_WORDS))}|{NOUN}|;|:) )[^ ]+ "


class PatternError(ValueError):
    """Raised for a pattern that cannot be read; the text says what to write instead."""


@dataclass(frozen=True)
class Pattern:
    """One shape of a sentence.

    Attributes:
        weight: letters that it asks for; the more, the more it is worth.
    """

    text: str
    expressions: tuple[re.Pattern[str], re.Pattern[str]]
    weight: int
    needed: frozenset[str]

    def matches(self, sentence: str) -> Iterator[re.Match[str]]:
        """With the shortest names from the left, then with the longest: the caller judges which are names."""
        first = self.expressions[0].fullmatch(sentence)
        if first is None:
            return
        yield first
        second = self.expressions[1].fullmatch(sentence)
        if second is not None and second.groupdict() != first.groupdict():
            yield second


def compile_pattern(text: str, parts: Mapping[str, str]) -> Pattern:
    """Reads one pattern.

    Raises:
        PatternError: says what is wrong and what to write.
    """
    tokens = _TOKEN.findall(text)
    parser = _Parser(tokens, parts)
    lazy, weight = parser.alternatives()
    if parser.at < len(tokens):
        raise PatternError(f"a {tokens[parser.at]!r} closes nothing; write each ( and [ with its end")
    slots = re.findall(r"\(\?P<(\w+)>", lazy)
    if len(set(slots)) < len(slots):
        raise PatternError("holds a slot twice; each of {s}, {t} and {w} stands once")
    greedy = lazy.replace(")*?)", ")*)")
    return Pattern(text, (re.compile(lazy), re.compile(greedy)), weight, parser.needed)


class _Parser:
    def __init__(self, tokens: list[str], parts: Mapping[str, str]) -> None:
        self.tokens, self.parts, self.at = tokens, parts, 0
        self.depth, self.needed = 0, frozenset[str]()

    def alternatives(self) -> tuple[str, int]:
        """The expression of `a|b|c`, and the weight of the lightest."""
        found = [self._sequence()]
        while self.at < len(self.tokens) and self.tokens[self.at] == "|":
            self.at += 1
            found.append(self._sequence())
        return "|".join(expression for expression, _ in found), min(weight for _, weight in found)

    def _sequence(self) -> tuple[str, int]:
        expression, weight = "", 0
        while self.at < len(self.tokens) and self.tokens[self.at] not in ")]|":
            more, heavier = self._element(self.tokens[self.at])
            expression, weight = expression + more, weight + heavier
        return expression, weight

    def _element(self, token: str) -> tuple[str, int]:
        self.at += 1
        if token in "([":
            return self._group(token)
        if token.startswith("{"):
            return _slot(token[1:-1]), 0
        if token.startswith("<"):
            return self._part(token[1:-1])
        if self.depth == 0:
            self.needed |= {token.lower()}
        return f"(?i:{re.escape(token)}) ", len(token)

    def _group(self, opening: str) -> tuple[str, int]:
        self.depth += 1
        expression, weight = self.alternatives()
        self.depth -= 1
        closing = ")" if opening == "(" else "]"
        if self.at >= len(self.tokens) or self.tokens[self.at] != closing:
            raise PatternError(f"a {opening!r} has no {closing!r}; write it")
        self.at += 1
        return (f"(?:{expression})", weight) if opening == "(" else (f"(?:{expression})?", 0)

    def _part(self, name: str) -> tuple[str, int]:
        if name not in self.parts:
            raise PatternError(f"<{name}> is no part; take one of {', '.join(sorted(self.parts))}")
        inner = _Parser(_TOKEN.findall(self.parts[name]), self.parts)
        expression, weight = inner.alternatives()
        return f"(?:{expression})", weight


def _slot(name: str) -> str:
    if name not in SLOTS:
        raise PatternError(f"{{{name}}} is no slot; take one of {{s}}, {{t}}, {{w}}, {{n}}, {{x}}, {{rest}}")
    if name == "n":
        return f"{NOUN} "
    if name == "rest":
        return "(?P<rest>[a-z].+)"
    return f"(?P<{name}>{_WORD}(?:{_WORD})*?)"
