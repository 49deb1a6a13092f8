"""Parts a sentence with two facts into two sentences."""

import re
from collections.abc import Callable, Iterator
from itertools import islice

from daemon.intake.reading.dates import FIXED
from daemon.intake.reading.pattern import CLAUSE_WORDS

_JOINT = re.compile(r" (?:, and|; and|and|;|, while|while|, whereas|whereas|, and also|, but|but|, as|,) ")
#: A sentence is parted at the first so many places; one with more is a list or an article.
MOST_JOINTS = 6
_OWN = re.compile(r"(?<![^ ])(?:its|their|his|her) ")
_IT = re.compile(
    r"^(?:it|they|he|she|It|They|He|She|the company|the club|the university|The company|the bank) (?=[a-z])"
)
_VERB = re.compile(r"^(?P<start>.+? (?:is|are|was|were|has been|became|has become|remains) )")


def parts(text: str, subject_of: Callable[[str], str | None]) -> Iterator[tuple[str, str]]:
    """Two sentences for each place where the text may be parted.

    The second sentence may lack its subject, or its subject and verb: it takes those of the first.
    """
    for joint in islice(_JOINT.finditer(text), MOST_JOINTS):
        first, second = text[: joint.start()] + " ", text[joint.end() :]
        if len(first.split()) < 3 or len(second.split()) < 2:
            continue
        subject = subject_of(first)
        yield first, second
        if subject is None:
            continue
        named = _OWN.sub(f"{subject} 's ", second)
        yield first, _IT.sub(f"{subject} ", named)
        yield first, f"{subject} {second}"
        if beginning := _beginning(first):
            yield first, f"{beginning} {second}"
        if start := _VERB.match(first):
            yield first, start["start"] + second


def _beginning(first: str) -> str | None:
    found = re.match(r"(?P<name>(?:[Tt]he )?(?:[A-Z\d][^ ]* |of |and |the )+?)(?=[a-z])", first)
    return found["name"].strip() if found else None


#: "Port Hadley , the capital of Tarnia , has …"
_ASIDE = re.compile(
    r"(?P<name>[^,]+) , (?P<told>(?:[a-z]|\d\d )(?!ot )[^,]*) , (?P<rest>(?!(?:and|or|but|who|which|"
    r"while|as well|with|in|on|at) )[a-z].+)"
)


def aside(text: str) -> tuple[str, str] | None:
    """The sentence without what is told between two commas, and that as a sentence of its own."""
    found = _ASIDE.fullmatch(text)
    if found is None or set(CLAUSE_WORDS) & set(found["name"].split()):
        return None
    return f"{found['name']} {found['rest']}", f"{found['name']} is {found['told']} "


_MADE = (
    "(?P<head>.+? (?:born|died|founded|established|opened|released|launched|built|created|completed"
    "|published|held|premiered))"
)
_TWICE = (
    re.compile(rf"{_MADE} (?P<one>(?:in|by|at|on) .+?) (?P<two>(?:in|on|from) (?:{FIXED})) "),
    re.compile(rf"{_MADE} (?P<two>(?:in|on|from) (?:{FIXED})) (?P<one>(?:in|by|at) .+?) "),
)


def dated(text: str) -> tuple[str, str] | None:
    """ "was born in Basel on 4 July 1961" as two sentences, of the place and of the day."""
    found = next((one for expression in _TWICE if (one := expression.fullmatch(text))), None)
    return (f"{found['head']} {found['one']} ", f"{found['head']} {found['two']} ") if found else None
