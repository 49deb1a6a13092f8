"""Dates and times as sentences write them."""

import re

_MONTH = (
    "(?:January|February|March|April|May|June|July|August|September|October|November|December"
    "|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\\.?"
)
_WEEKDAY = "(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)"
_YEAR = r"(?:1[0-9]{3}|20[0-9]{2}|[1-9][0-9]{2})(?: (?:BC|AD|BCE|CE))?"
_DAY = r"(?:the )?(?:[12][0-9]|3[01]|0?[1-9])(?:st|nd|rd|th)?"
_SEASON = (
    "(?:(?:early|mid|late|the|the early|the late) )?"
    "(?:spring|summer|autumn|fall|winter|Spring|Summer|Autumn|Winter)"
)
_PART = (
    "(?:the )?(?:beginning|start|end|middle|turn|first half|second half|first quarter|spring|summer|autumn)"
)
_UNIT = "(?:seconds?|minutes?|hours?|days?|weeks?|months?|quarters?|years?|decades?|seasons?|centur(?:y|ies))"
_COUNT = (
    r"(?:\d+|an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|"
    "several|many|some|a few)"
)
_CLOCK = r"(?:\d{1,2}(?:[:.]\d{2})?(?: ?(?:a\.?m\.?|p\.?m\.?|o'clock))?|noon|midnight)"

_FIXED = (
    rf"(?:{_WEEKDAY}(?: ?,)? )?{_DAY}(?: of)? {_MONTH}(?:(?: ?,)? {_YEAR})?",
    rf"(?:{_WEEKDAY}(?: ?,)? )?{_MONTH} {_DAY}(?:(?: ?,)? {_YEAR})?",
    rf"(?:early |mid-|mid |late )?{_MONTH}(?: of)? {_YEAR}",
    rf"(?:early |mid-|mid |late |the year |the year of |c\. |about |around )?{_YEAR}",
    rf"(?:early |mid-|mid |late )?{_MONTH}",
    r"\d{4}-\d{2}(?:-\d{2})?",
    r"\d{1,2}[./]\d{1,2}[./]\d{2,4}",
    rf"{_SEASON}(?: of)? {_YEAR}",
    rf"{_PART} of (?:{_YEAR}|{_MONTH}(?: {_YEAR})?)",
    r"(?:the )?(?:early |late |mid-)?\d{3}0s",
    r"the \d{1,2}(?:st|nd|rd|th) century(?: BC)?",
    rf"Q[1-4] {_YEAR}",
    rf"the (?:first|second|third|fourth|last) {_WEEKDAY} (?:in|of) {_MONTH}",
)
_LOOSE = (
    rf"(?:(?:last|next|this|on) )?{_WEEKDAY}(?: (?:morning|afternoon|evening|night|last week))?",
    rf"(?:(?:earlier|later) )?(?:last|this|next|past|the last|the past|the coming) {_UNIT}",
    "(?:(?:earlier|later) )?(?:last|this|next) (?:spring|summer|autumn|winter|fall|night|morning|weekend|"
    "term)",
    rf"(?:last|next|this) {_MONTH}",
    rf"{_COUNT} {_UNIT} (?:ago|earlier|later|before)",
    "(?:yesterday|today|tonight|tomorrow)(?: (?:morning|afternoon|evening|night))?",
    "(?:this|that) (?:day|week|month|year)",
    "the (?:same|following|previous) (?:day|week|month|year)",
)
#: Dates that one can look up.
FIXED = "|".join(f"(?:{one})" for one in _FIXED)
_DATE = re.compile(FIXED)
_ANY = "|".join(f"(?:{one})" for one in (*_FIXED, *_LOOSE))
_TIME = re.compile(
    rf"{_CLOCK}(?: (?:to|until|-|–|and) {_CLOCK})?(?:,? .*)?|(?:Monday|weekdays|daily|every).*", re.IGNORECASE
)
_PREPOSITION = (
    "(?:since|as of|as from|from|on|in|at|by|effective|effective from|with effect from|"
    "until|during|before|after|over|starting|beginning|starting from)"
)
#: "on Monday", "since 2021", "last week", "for nine years", as they stand beside a sentence.
WHEN = (
    rf"(?:(?:{_PREPOSITION} (?:{_ANY})|{'|'.join(_LOOSE)})(?: (?:on|onwards?|at {_CLOCK}))?|"
    rf"for (?:the (?:past|last) )?{_COUNT} {_UNIT}"
    rf"|since then|with immediate effect|effective immediately|from now on|as of now|"
    rf"until further notice|{_COUNT} {_UNIT} ago"
    r"|immediately|this time|for now|for good|so far|to date|at the age of \d+|in recent (?:years|months|"
    r"weeks))"
)


def is_date(text: str) -> bool:
    """Whether the text is a date one can look up: a day, a month, a year; not "last week"."""
    return _DATE.fullmatch(text.replace(" , ", ", ")) is not None


def is_time(text: str) -> bool:
    return _TIME.fullmatch(text) is not None
