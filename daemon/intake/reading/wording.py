"""Brings a sentence into the form that patterns are matched against, without what only surrounds the fact.

Words and signs are separated by one space each. Quoted text is one word: its spaces become word joiners.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from daemon.intake.reading.dates import WHEN

INNER_SPACE = "\u2060"
#: Stands for the apostrophe alone: "Robotics' chief executive".
BARE_POSSESSIVE = "\u02bcs"
_QUOTES = str.maketrans({"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "`": "'"})
_SHORT_FORMS = (
    (r"\b(is|are|was|were|has|have|had|does|do|did|would|could|should)n't\b", r"\1 not"),
    (r"\bwon't\b", "will not"),
    (r"\bcan't\b", "can not"),
    (r"\b([Ii]t|[Hh]e|[Ss]he|[Tt]hat|[Tt]here|[Ww]ho)'s\b", r"\1 is"),
    (r"\b([Tt]hey|[Ww]e|[Yy]ou)'re\b", r"\1 are"),
    (r"\b([Ii])'m\b", r"\1 am"),
)
_SHORTENED = """
Mr Mrs Ms Dr Prof St Jr Sr Inc Ltd Corp Co No Gen Gov Sen Rep Lt Col Capt Rev Mt Ft Mohd Md Bros
"""
_ABBREVIATIONS = frozenset(_SHORTENED.split())
#: Words that say when or how firmly, and nothing of what.
_ADVERBS = re.compile(
    r"(?<![^ ])(?<!from )(?:now(?! (?:called|known|named|goes|trades|operates))|currently|officially|"
    r"formally|recently|just|already|also(?! (?:known|called|named|referred))|finally|actually|presently|"
    r"henceforth|"
    r"permanently|successfully|as of now|these days|at present|at the moment|once again|again|"
    r"meanwhile|nowadays|at last|in fact|indeed|of course|both sides confirmed|unanimously|still|immediately|"
    r"today|subsequently|in turn|duly|jointly|since then|"
    r"hereby|eventually|ultimately|definitively|simply|only|however|as well|too) "
)
_START_ADVERBS = re.compile(
    r"^(?:Now|Currently|Officially|Today|Recently|Actually|Finally|Also|Meanwhile|In fact|Indeed|"
    r"Since then|Nowadays|"
    r"At present|At the moment|As of now|As of today|Henceforth|Instead(?! of)|However|And|But|So|Yes|No|"
    r"Well|Ok|OK|Okay|"
    r"Hi|Hello|Hey|Effective immediately|With immediate effect|From now on|These days|Here|Presently|Again|"
    r"For the record|To be clear|To be precise|For your information|Just so you know|As everybody knows|"
    r"Moreover|"
    r"Furthermore|In addition|Earlier|Later|Yesterday) (?:, )?"
)
_SAID = (
    "(?:announced|said|says|confirmed|confirms|reported|reports|stated|states|revealed|declared|"
    "announces|writes|wrote|"
    "told reporters|told us|informs us|informed us|explained|disclosed|ruled|decided|has announced|"
    "has confirmed|"
    "has said|has reported|has decided|have announced|have confirmed|noted|notes|published|made public|"
    "announcing)"
)
_WHO = r"(?:(?!(?:is|are|was|were|has|have|,|;) )[^ ]+ ){1,8}?"
_LEADS = tuple(
    re.compile(expression)
    for expression in (
        r"^(?i:correction|update|updated|fyi|note|nb|breaking|breaking news|news|fact|attention|info|"
        r"information|reminder"
        r"|fix|erratum|errata|new|change|changed|psa|heads up|notice|important|announcement|please note|"
        r"please correct"
        r"|clarification|for the record|to correct the record|correct is|the truth is|fact check) [:,] ",
        r"^(?i:please )?(?i:note|be aware|be advised|remember|keep in mind|be informed|take note|know|"
        r"record|notice) that ",
        r"^(?i:please note|note) ",
        r"^(?i:according to|as reported by|as announced by|as per|as stated by|per) [^,]+ , ",
        rf"^(?:As )?{_WHO}{_SAID} (?:{WHEN} )?(?:, )?(?:that )?(?=[^ ]+ [^ ]+ [^ ]+ )",
        rf"^It (?:was|has been|is) (?i:{_SAID}|known|official|true|correct|a fact|clear|"
        rf"certain) (?:{WHEN} )?(?:by {_WHO})?that ",
        r"^(?i:the fact is|fact is|the truth is|it turns out|we can confirm|i can confirm|we confirm|"
        r"we inform you"
        r"|we have learned|we announce|we are pleased to announce|i am pleased to announce|"
        r"we are happy to announce"
        r"|we are proud to announce|this is to confirm|this is to inform you|let it be known) (?:that )?",
        r"^(?i:contrary to|in contrast to|unlike) [^,]+ , ",
        r"^(?:[^ ]+ ){1,6}(?:wrong|outdated|incorrect|mistaken|false|out of date|not true|not right|"
        r"obsolete|stale) [:;,] ",
        rf"^(?i:{WHEN}) (?:, )?",
        r"^(?i:in a (?:move|step|statement|vote|letter|press release|ceremony|surprise)[^,]*) , ",
    )
)
#: "was unveiled on Thursday as": when it happened, in the midst of what happened.
_MIDDLE = re.compile(rf"(?<=[a-z] )(?:, )?(?!from ){WHEN} (?:, )?(?=(?:as|by|to|from|that|and) )")
#: Lead-ins with a comma that may tell the old holder.
_OCCASION = re.compile(
    r"^(?:After|Following|Upon|With|Under|Despite|Amid|Due to|Because of|Thanks to|As part of|For|During|"
    r"On|At|In|By) "
    r"(?P<told>(?:(?! , ).)+) , (?P<rest>.+)"
)
_OLD = re.compile(
    r"(?:the |its |their )?(?:sudden |unexpected |long |recent )?(?:resignation|retirement|death|"
    r"departure|dismissal|exit|"
    r"removal|ouster|sacking|firing|passing|defeat|expulsion|suspension) of (?P<a>[^,]+?)"
    r"|(?P<b>[^,]+?) 's (?:sudden |unexpected |recent )?(?:resignation|retirement|death|departure|"
    r"dismissal|exit|removal|"
    r"ouster|sacking|firing|passing|defeat)|(?:[^ ]+ ){1,3}under (?P<c>[^,]+?)"
    r"|(?P<d>(?:[^ ]+ ){1,4}?)(?:resigned|stepped down|retired|left|died|quit|was (?:dismissed|sacked|"
    r"fired|ousted|voted out|"
    r"removed)|passed away|had (?:resigned|stepped down|retired|left|died|quit)|stood down|resigning|"
    r"bowed out)(?: .*)?"
)
_TRAILS = tuple(
    re.compile(expression)
    for expression in (
        r" , according to .+ $",
        rf" , (?:[^ ,]+ ){{1,6}}{_SAID}(?: [^,]+)? $",
        r" (?:to|in|at|with) (?:an |a )?(?:unanimous vote|landslide|close vote|runoff|run-off|"
        r"snap election|general election"
        r"|second round|first round|ballot|vote|deal|press release|statement|ceremony) $",
        r" for (?:an undisclosed (?:sum|amount|price)|[$€£¥] ?[\d.,]+(?: (?:million|billion|bn|"
        r"m))?(?: in [^ ]+)?"
        r"|(?:about |around |some )?[\d.,]+ (?:million |billion )?(?:dollars|euros|pounds|yen|francs|"
        r"crowns|kroner|lira)) $",
        r" (?:by|with|at) (?:a margin|a majority|[\d.]+ votes|[\d.]+ percent|[\d.]+ ?%)(?: .*)? $",
        r" , (?:which|who|where|becoming|ending|making|marking|as part of|(?:a|an|the)(?= [a-z])|in a|"
        r"with a|effective|one of|having|after|"
        r"following|despite|amid|thanks to|due to|because of|only|its|his|her|their|where|beating|"
        r"defeating|just|despite|"
        r"aged|an?d so|starting|beginning|bringing|leaving|much to) [^;]+ $",
        r" , not far from .+ $",
        r" \( [^)]* \) $",
    )
)
_WHEN_TRAIL = re.compile(rf"(?: ,)? {WHEN} $")
_OLD_TRAILS = tuple(
    re.compile(expression)
    for expression in (
        r"(?: ,)? (?:who )?(?:replacing|succeeding|replaces|replaced|succeeds|succeeded|taking over from|"
        r"in place of|in succession to|in "
        r"replacement of|as (?:the )?successor (?:of|to)|as (?:a |the )?replacement (?:for|of)|"
        r"to replace|to succeed|"
        r"instead of|rather than|and not|up from|down from|previously|formerly|where he replaced|"
        r"where she replaced|thereby "
        r"replacing|thus replacing|thereby succeeding|compared with|superseding|ousting|unseating|"
        r"who took over from|having replaced"
        r"|taking the place of|in lieu of|who takes over from|and succeeds|and replaces|and succeeded|"
        r"and replaced|before it was"
        r"|it was previously|it used to be|the old one was|previously it was|earlier it was|"
        r"as opposed to|no longer|"
        r"and no longer|not any longer|formerly held by|a post previously held by|a role previously held by) "
        r"(?P<w>[^,;]+?)(?: ,[^;]*)? $",
        r" , (?P<w>[^,;]+?) (?:no longer does|no longer is|not any more|before|previously|earlier|"
        r"until now) $",
        r"(?: ,)? (?:after|following|upon|when|since) (?P<old>[^,;]+?) $",
        r" \( (?:previously|formerly|before|was|not|old|until now|earlier|ex)[ :]+(?P<w>[^)]+?) \) $",
    )
)


@dataclass(frozen=True)
class Wording:
    """A sentence that may be read, with the old target if something beside the fact told it."""

    text: str
    was: str | None = None


def prepare(statement: str) -> str:
    """Words and signs separated by one space each, with a space at the end; "" when nothing is left."""
    text = " ".join(unicodedata.normalize("NFC", statement).translate(_QUOTES).split())
    text = re.sub(r"[’‘](?=s\b|t\b|re\b|m\b|\s|$)", "'", text)
    for short, long in _SHORT_FORMS:
        text = re.sub(short, long, text)
    text = re.sub(r'"[^"]*"', _quoted, text)
    text = re.sub(r" (?:-{1,2}|\u2013|\u2014) (?=[a-z])|\u2014(?=[a-z])", " , ", text)
    text = re.sub(
        r" \((?:since|as of|until|from|in|on|see|source|https?|and|also|aged|born|effective|\d)[^)]*\)",
        "",
        text,
    )
    text = re.sub(
        r" \((?!(?:previously|formerly|before|was|not|old|until now|earlier|ex)\b)[^()]*\)", _quoted, text
    )
    text = re.sub(r"\b(?:any more|anymore|any longer)\b", "", text)
    text = re.sub(r"\bwill no longer be\b", "is not", text)
    text = re.sub(r"\b(?:will )?no longer\b", "not", text)
    text = re.sub(r"\bdoes not ([a-z]+)(?= )", r"not \1s", text)
    text = re.sub(r"(?<=\S)([,;:])(?=\s|$)", r" \1", text)
    text = re.sub(
        r"(?<= )\(((?:previously|formerly|before|was|not|old|until now|earlier|ex)\b[^()]*)\)",
        r"( \1 )",
        text,
    )
    text = re.sub(r"(?<=[\w.)!\"])'s(?=\s|$)", " 's", text)
    text = re.sub(r"(?<=[sxz])'(?=\s)", f" {BARE_POSSESSIVE}", text)
    text = " ".join(text.split())
    ended = re.sub(r"(?<![ap]\.m)[ .!;,:]+$", "", text)
    return f"{ended} " if ended else ""


def _quoted(found: re.Match[str]) -> str:
    return found.group()[0] + found.group()[1:].replace(" ", INNER_SPACE)


def sentences(statement: str) -> list[str]:
    """The sentences of a statement. A full stop of an abbreviation or an initial ends none."""
    found, start = list[str](), 0
    text = " ".join(statement.split())
    for end in re.finditer(r"[.!?][\"”']?\s+(?=[A-Z\"“])", text):
        last = text[: end.start()].rsplit(" ", 1)[-1]
        if last in _ABBREVIATIONS or len(last.rsplit(".", 1)[-1]) < 2 or (len(last) <= 3 and last.islower()):
            continue
        found.append(text[start : end.start()])
        start = end.end()
    return [*found, text[start:]]


def join(text: str) -> str:
    """What a person writes: signs without a space before them."""
    text = text.strip().replace(INNER_SPACE, " ")
    text = re.sub(r" ([,;:)])", r"\1", text).replace("( ", "(")
    return text.replace(f" {BARE_POSSESSIVE}", "'").replace(" 's", "'s")


def without_adverbs(text: str) -> str:
    text = re.sub(r"^[A-Z][a-z]+ly , ", "", text)
    while (shorter := _START_ADVERBS.sub("", text)) != text and shorter:
        text = shorter
    return _MIDDLE.sub("", _ADVERBS.sub("", text)) or text


def bare(text: str) -> Iterator[Wording]:
    """The sentence, and what is left of it without lead-ins and trailers: the fullest first."""
    seen = set[str]()
    for led in _led(Wording(without_adverbs(text))):
        for trailed in _trailed(led):
            if trailed.text not in seen and len(trailed.text.split()) > 1:
                seen.add(trailed.text)
                yield trailed


def _led(wording: Wording) -> Iterator[Wording]:
    yield wording
    for expression in _LEADS:
        rest = expression.sub("", wording.text, count=1)
        if rest != wording.text and rest:
            yield from _led(Wording(without_adverbs(rest), wording.was))
            return
    told = _OCCASION.fullmatch(wording.text)
    if told:
        yield from _led(Wording(without_adverbs(told["rest"]), wording.was or old_holder(told["told"])))


def old_holder(told: str) -> str | None:
    """Who left, in "the retirement of Hans Meier" or "Susan Bright resigned"."""
    found = _OLD.fullmatch(told.strip())
    if found is None:
        return None
    return next((group.strip() for group in found.groups() if group), None)


def _trailed(wording: Wording) -> Iterator[Wording]:
    yield wording
    for expression in _OLD_TRAILS:
        found = expression.search(wording.text)
        if not found:
            continue
        named = found.groupdict()
        was = named.get("w") or old_holder(named.get("old") or "")
        if was:
            yield from _trailed(Wording(wording.text[: found.start()] + " ", wording.was or was))
            return
    for expression in (_WHEN_TRAIL, *_TRAILS):
        found = expression.search(wording.text)
        if found and found.start() > 0:
            yield from _trailed(Wording(wording.text[: found.start()] + " ", wording.was))
            return
