"""What kind of thing a text can stand for: a person, a place, a date, an amount of money …

`fit` never asks a model. It answers None when the text cannot be of the kind. Otherwise it answers a
number: above 0 when words speak for it, below 0 when they speak for another kind.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from daemon.intake.reading.dates import is_date, is_time

#: Kinds whose names have a capital letter somewhere.
NAMED = frozenset({"person", "place", "organisation", "club", "work", "product", "event"})
KINDS = NAMED | {
    "date", "language", "money", "number", "percentage", "quantity", "role", "text", "thing", "time",
    "version", "word", "named", "item", "job",
}  # fmt: skip
#: Words of an answer that is no name at most: "a constitutional monarchy with two chambers".
MOST_WORDS_OF_A_THING = 8
SURE, LIKELY, UNLIKELY = 1.0, 0.5, -0.6

_NUMBER = (
    "(?:about |around |some |over |almost |nearly |roughly |more than |fewer than |less than "
    "|approximately )?"
    r"-?(?:\d[\d,.'\u202f ]*\d|\d)(?: ?(?:hundred|thousand|million|billion|trillion|m|bn|k))?"
)
_SPELT = (
    "(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|forty|fifty|"
    "sixty"
    "|seventy|eighty|ninety|hundred|a hundred|thousand|a thousand|million|a million|dozen|a dozen)"
)
_ANY_NUMBER = rf"(?:{_NUMBER}|{_SPELT}(?:[- ]{_SPELT})*)"
_CURRENCIES = (
    "dollars?|euros?|pounds?|pence|cents?|yen|yuan|rupees?|francs?|kroner|kronor|krone|krona|lira|pesos?|"
    "rubles?"
    "|roubles?|won|zloty|rand|dirhams?|shillings?|USD|EUR|GBP|JPY|CHF|SEK|NOK|DKK|INR|CNY|AUD|CAD"
)
_PER = r"(?: (?:a|an|per|each|every|/)[ ]?[a-z]+(?: [a-z]+)?| (?:monthly|yearly|annually|hourly|each))?"
_MONEY = re.compile(
    rf"(?:free|free of charge|nothing|(?:[$€£¥₹]|US\$|{_CURRENCIES}) ?{_NUMBER}{_PER}|{_ANY_NUMBER} ?"
    rf"(?:[$€£¥₹]|(?:US |Canadian |Australian |Swiss |British )?(?:{_CURRENCIES})){_PER})",
    re.IGNORECASE,
)
_PATTERNS = {
    "money": _MONEY,
    "number": re.compile(rf"{_ANY_NUMBER}(?: people| years)?", re.IGNORECASE),
    "percentage": re.compile(rf"{_ANY_NUMBER} ?(?:%|percent|per cent|percentage points|basis points)", re.I),
    "quantity": re.compile(
        rf"{_ANY_NUMBER} ?[^\W\d][\w/²³°%]*(?: [^\W\d][\w/²³°]*){{0,3}}(?: {_NUMBER} [^\W\d]+)?|"
        rf"{_ANY_NUMBER} ?°[CF]?"
        rf"|unlimited|{_ANY_NUMBER} (?:to|-) {_ANY_NUMBER} .*",
        re.IGNORECASE,
    ),
    "version": re.compile(
        r"(?:version |release )?v?\d+(?:\.\d+)*(?:[-.+ ]?(?:[a-z]+\.?\d*|LTS))?", re.IGNORECASE
    ),
}
_LANGUAGE = re.compile(r"[A-Z][\w-]+(?: [A-Z][\w-]+)?(?: language| Sign Language)?")


@cache
def _words() -> Mapping[str, frozenset[str]]:
    read = tomllib.loads((Path(__file__).parent / "words.toml").read_text("utf-8"))
    words = {name: frozenset(text.split()) for name, text in (read["cues"] | read["names"]).items()}
    countries: Mapping[str, str] = read["countries"]
    plain = frozenset(name.removeprefix("the ") for name in countries.values())
    return words | {"countries": plain, "demonyms": frozenset(countries)}


@cache
def _countries() -> Mapping[str, str]:
    read = tomllib.loads((Path(__file__).parent / "words.toml").read_text("utf-8"))
    return read["countries"]


def country_of(demonym: str) -> str | None:
    """ "French" → "France"; None for what is no demonym."""
    return _countries().get(demonym)


def fit(kind: str, text: str) -> float | None:
    """How well the text fits the kind; None: not at all."""
    if kind in _PATTERNS:
        return SURE if _PATTERNS[kind].fullmatch(text) else None
    return _JUDGES[kind](text)


def _date(text: str) -> float | None:
    return SURE if is_date(text) else None


def _time(text: str) -> float | None:
    return SURE if is_time(text) or is_date(text) else None


def _language(text: str) -> float | None:
    return LIKELY if _LANGUAGE.fullmatch(text) else None


def _text(text: str) -> float | None:
    return SURE if text.startswith('"') or re.search(r"[.@/+]|\d", text) else 0.0


def _thing(text: str) -> float | None:
    if _is_name(text):
        return 0.1
    plain = len(text.split()) <= MOST_WORDS_OF_A_THING and not re.search(
        r",|^[a-z-]+(?:ed|ing|ly)$| (?:and|or) [a-z]", text
    )
    return 0.0 if plain else None


def _role(text: str) -> float | None:
    return (
        0.0 if len(text.split()) <= MOST_WORDS_OF_A_THING + 4 and not re.search(r"\d{3}|[,;]", text) else None
    )


def _word(text: str) -> float | None:
    return (
        0.0
        if len(text.split()) <= 3 and not re.search(r" (?:of|in|at|for|on) |[,;]|\d", f" {text} ")
        else None
    )


def _person(text: str) -> float | None:
    words = text.split()
    if not _is_name(text) or words[0].lower() in ("the", "a", "an") or _is_place(text):
        return None
    if any(word.islower() and word not in _words()["particles"] for word in words):
        return None
    if any(word[0].isdigit() for word in words) or not any(
        char.isupper() or not char.islower() for char in words[-1]
    ):
        return None
    if _cue("organisation", text) or " and " in text or "," in text:
        return None
    if words[0] in _words()["nobility"] or words[0] in _words()["first"]:
        return SURE
    if _cue("event", text) or _cue("place", text):
        return UNLIKELY
    return LIKELY if 2 <= len(words) <= 4 else 0.1


def _is_place(text: str) -> bool:
    bare = text.removeprefix("the ").removeprefix("The ")
    return bare in _words()["countries"] or bare.split(" , ")[0].split(",")[0] in _words()["places"]


def _cue(kind: str, text: str) -> bool:
    """Whether the name says its kind: by its last word, by one before "of", or by its first."""
    if kind == "organisation" and text.isupper() and 2 <= len(text) <= 5:
        return True
    words = [word.strip('",').lower() for word in text.split(" of ")[0].split()]
    words = words[1:] if words[:1] in (["the"], ["a"], ["an"]) else words
    return (len(words) > 1 and bool({words[0], words[-1]} & _words()[kind])) or (
        len(words) == 1 and " of " in text and words[0] in _words()[kind]
    )


def _named(kind: str) -> Callable[[str], float | None]:
    others = ("organisation", "place", "event", "work", "product")

    def judge(text: str) -> float | None:
        if text.startswith('"'):
            return SURE if kind == "work" else UNLIKELY
        if not _is_name(text) or text.startswith(("a ", "an ")):
            return None
        if kind == "place" and (_is_place(text) or _cue("place", text)):
            return SURE
        if kind == "club":
            return SURE if _cue("club", text) else 0.0 if len(text.split()) == 1 else UNLIKELY / 2
        if kind == "organisation" and _cue("club", text):
            return LIKELY
        if _cue(kind, text):
            return SURE
        if is_date(text):
            return None
        first = text.split()[0]
        if first in _words()["first"] or _is_place(text) or any(_cue(other, text) for other in others):
            return UNLIKELY
        return 0.1

    return judge


#: A name in small letters at its end: "the Orion phone", "the Danish national football team".
_TAIL = re.compile(r"^(?!.*(?:ly|ed)$)[a-z][a-z-]*$")
_NO_LEAD_TEXT = """
in on at for with to and or numbers number majority most many some all both several few part parts rest
percent members
"""
_NO_LEAD = frozenset(_NO_LEAD_TEXT.split())
_NO_TAIL_TEXT = """
and or of in on at to for with the a an its no so too very more most less
"""
_NO_TAIL = frozenset(_NO_TAIL_TEXT.split())
MOST_TAIL_WORDS = 3


def _is_name(text: str) -> bool:
    """Whether the text reads as a proper name: with a capital or a digit, and nothing of a clause in it."""
    words = [word for word in text.strip('"').split() if not word.startswith("(")]
    article = bool(words) and words[0].lower() in ("the", "a", "an")
    words = words[article:]
    if not words or len(words) > MOST_WORDS_OF_A_THING + 4:
        return False
    capital = [any(char.isupper() for char in word) or word[0].isdigit() for word in words]
    if not any(capital):
        # Scripts without capital letters.
        return any(word[0].isalpha() and not word[0].islower() for word in words)
    if re.search(r"\b(?:and|or) [a-z]", text) or re.search(r", (?!the )[a-z]", text):
        return False
    first, last = capital.index(True), len(capital) - capital[::-1].index(True)
    if any(re.search("(?:ed|ing|ly)$", word) for word in words[first:last] if word.islower()):
        return False
    return _may_lead(words[:first], article) and _may_trail(words[last:])


def _may_lead(words: list[str], article: bool) -> bool:
    """ "the village of Elmsby", "van der Berg", but neither "charge of Elmsby" nor "the men in Elmsby"."""
    if all(word in _words()["particles"] for word in words):
        return True
    return article and len(words) <= MOST_TAIL_WORDS and not _NO_LEAD & set(words)


def _may_trail(words: list[str]) -> bool:
    return len(words) <= MOST_TAIL_WORDS and all(_TAIL.match(word) and word not in _NO_TAIL for word in words)


def is_name(text: str) -> bool:
    """Whether the text reads as a proper name."""
    return _is_name(text)


_JUDGES: Mapping[str, Callable[[str], float | None]] = {
    "date": _date,
    "time": _time,
    "language": _language,
    "text": _text,
    "thing": _thing,
    "role": _role,
    "job": lambda text: (
        LIKELY if len(text.split()) <= 4 and text.split()[-1].lower() in _words()["jobs"] else None
    ),
    "item": lambda text: 0.1 if _is_name(text) and fit("person", text) != SURE else None,
    "named": lambda text: 0.1 if _is_name(text) and not text.startswith(("a ", "an ")) else None,
    "word": _word,
    "person": _person,
    **{kind: _named(kind) for kind in sorted(NAMED - {"person"})},
}
