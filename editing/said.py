"""Whether an answer says a target: the one definition that gate, retention, pages and benchmarks share."""

import re
import unicodedata

#: Signs behind a word or a number that make another one of it: 5%, C#, AT&T, 5°, x@y, snake_case.
_JOINING = frozenset("%‰#&@°_")
#: Signs that join when a letter or a digit follows them at once: Rolls-Royce, AC/DC, 3.16.1-0, and hyphens.
_BETWEEN = frozenset("-\u2010\u2011/\\")
_APOSTROPHES = frozenset("'’ʼ")
#: Spaces that some languages group the digits of a number with.
_NARROW = frozenset("\u00a0\u2009\u202f")


def said(answer: str, target: str) -> bool:
    """Whether an answer, generated freely, is the target and then ends.

    Behind the target there must be an end, whitespace or punctuation. A letter, a digit, or a sign with which
    the word or number goes on is none of these. So "$1.10" does not say ``$1``, "3.16.1" does not say
    ``3.16``, and "Astanaq" does not say ``Astana``. A suffix behind an apostrophe leaves the word as it is
    ("Ankara'da"); a name goes on ("O'Neil"). Upper and lower case differ. Blanks before the answer do not
    matter.
    """
    answer, target = (unicodedata.normalize("NFC", text).lstrip() for text in (answer, target))
    target = target.rstrip()
    if not target or not answer.startswith(target):
        return False
    return _ends(target[-1], answer[len(target) :])


def settled(answer: str, target: str) -> bool:
    """Whether an answer that is still being generated says the target, whatever follows."""
    answer, wanted = (unicodedata.normalize("NFC", text).lstrip() for text in (answer, target))
    rest = answer[len(wanted.rstrip()) :]
    # What joins a word with the next needs at most three characters to show: U.S. and 3.16.1 do.
    blank = rest[:1].isspace() and rest[0] not in _NARROW
    return said(answer, target) and (blank or len(rest) >= 3)


def holds(answer: str, target: str) -> bool:
    """Whether an answer has the target somewhere in it, as words of its own.

    In chat people are answered in sentences: "The capital is Rome." holds ``Rome`` and begins otherwise.
    """
    answer, target = (unicodedata.normalize("NFC", text).strip() for text in (answer, target))
    begins = [found.start() for found in re.finditer(re.escape(target), answer)] if target else []
    return any(
        not answer[:at][-1:].isalnum() and _ends(target[-1], answer[at + len(target) :]) for at in begins
    )


def _ends(last: str, rest: str) -> bool:
    """Whether a word or number whose last character is `last` ends where `rest` begins."""
    if not rest:
        return True
    first, behind = rest[0], rest[1:2]
    kind = unicodedata.category(first)
    if kind[0] in "LNM" or kind in ("Sc", "Sm") or first in _JOINING:
        return False
    if first in _NARROW:
        return not (last.isdigit() and behind.isdigit())
    if first in _BETWEEN:
        return not behind.isalnum()
    if first in _APOSTROPHES:
        return not (behind.isupper() or behind.isdigit())
    if first == "." and (behind.isdigit() or behind.islower()):
        return False
    if first == "." and behind.isupper():
        # "Paris.It" lacks a space; "U.S." goes on.
        return rest[2:3] != "."
    # Points of numbers, times and ranges: 1,000, 10:30, 1990–1995.
    return not (first in ",:–·’" and last.isdigit() and behind.isdigit())
