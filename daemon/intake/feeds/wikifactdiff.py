"""WikiFactDiff: how facts of Wikidata changed between two dates.

Two forms are read. One is the data set as its authors publish it, as JSON lines: `subject`, `objects` with a
decision each (learn, forget or keep: new, obsolete or static), and `update_prompt` with a blank for the
object. The other is the form in which editing benchmarks hold it: `subject`, `src`, `rephrase`, `alt`, `old`.

Source: Ammar Khodja et al., "WikiFactDiff", LREC-COLING 2024, section 3.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from daemon.core.errors import CorrectionError
from daemon.core.shapes import is_list, is_object
from daemon.intake.feeds.files import objects
from daemon.intake.feeds.records import Advance, Change, Entry, told, wrong

#: What stands for the object in a prompt of the data set.
BLANK = "____"
#: Decision about an object → what it means.
DECISIONS = {
    "learn": Change.NEW,
    "new": Change.NEW,
    "forget": Change.OBSOLETE,
    "obsolete": Change.OBSOLETE,
    "keep": Change.UNCHANGED,
    "static": Change.UNCHANGED,
    "unchanged": Change.UNCHANGED,
}


def read(file: Path, advance: Advance) -> Iterator[Entry]:
    for number, item in objects(file, advance):
        if isinstance(item, CorrectionError):
            yield item
        else:
            yield _entry(item, number)


def _entry(item: object, number: int) -> Entry:
    if is_object(item) and is_object(item.get("en")):
        item = item["en"]  # the benchmarks' form has one object a language
    if not is_object(item):
        return wrong("", item, "is no record of WikiFactDiff; write one JSON object a line", number)
    try:
        fields = _published(item, number) if "objects" in item else _benchmark(item, number)
    except CorrectionError as error:
        return error
    return told(fields, number)


def _benchmark(item: Mapping[str, Any], number: int) -> dict[str, Any]:
    """`alt` is so now, `old` was so; without an `alt` the old fact is obsolete."""
    subject = _text(item, "subject", number)
    fields: dict[str, Any] = {
        "subject": subject,
        "prompt": _slot(_text(item, "src", number), subject, number),
    }
    if isinstance(item.get("rephrase"), str) and item["rephrase"].strip():
        fields["paraphrases"] = [_templated(item["rephrase"], subject)]
    new, old = item.get("alt") or None, item.get("old") or None
    if new is None:
        return fields | {"change": Change.OBSOLETE, "was": old}
    if new == old:
        return fields | {"change": Change.UNCHANGED, "target": new}
    return fields | {"target": new} | ({"was": old} if old is not None else {})


def _published(item: Mapping[str, Any], number: int) -> dict[str, Any]:
    subject = _label(item, number)
    prompt = _slot(_before_blank(_text(item, "update_prompt", number), number), subject, number)
    fields: dict[str, Any] = {"subject": subject, "prompt": prompt}
    given = item.get("generalization_prompts")
    again = [text for text in given if isinstance(text, str)] if is_list(given) else []
    words = [_templated(text.split(BLANK)[0].rstrip(), subject) for text in again if _blank_ends(text)]
    if words:
        fields["paraphrases"] = words
    return fields | _decided(item, number)


def _decided(item: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Which of the objects holds now. A fact holds one value: several that hold side by side are refused."""
    found: dict[Change, list[str]] = {change: [] for change in Change}
    given = item["objects"]
    for one in given if is_list(given) else []:
        if (
            not is_object(one)
            or one.get("decision") not in DECISIONS
            or not isinstance(one.get("label"), str)
        ):
            mend = f"needs a label and a decision ({', '.join(DECISIONS)})"
            raise wrong("objects", one, mend, number)
        found[DECISIONS[one["decision"]]].append(one["label"])
    new, kept, old = found[Change.NEW], found[Change.UNCHANGED], found[Change.OBSOLETE]
    if len(new) > 1 or (new and kept):
        both = ", ".join([*new, *kept])
        mend = "holds several values side by side; a fact holds one, so post the one that shall be said"
        raise wrong("objects", both, mend, number)
    if new:
        return {"target": new[0]} | ({"was": old[0]} if old else {})
    if kept:
        # What is obsolete beside a value that stays: the answer that is left is the one that stays.
        if not old:
            return {"change": Change.UNCHANGED, "target": kept[0]}
        if len(kept) == 1:
            return {"target": kept[0], "was": old[0]}
        raise wrong(
            "objects", ", ".join(kept), "keeps several values; post the one that shall be said", number
        )
    if not old:
        raise wrong("objects", given, "holds no object; there is nothing to say", number)
    return {"change": Change.OBSOLETE, "was": old[0]}


def _text(item: Mapping[str, Any], name: str, number: int) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value.strip():
        raise wrong(name, value, "must be text, in quotes", number)
    return value


def _label(item: Mapping[str, Any], number: int) -> str:
    subject = item.get("subject")
    return _text(subject, "label", number) if is_object(subject) else _text(item, "subject", number)


def _blank_ends(text: str) -> bool:
    return text.rstrip(" .").endswith(BLANK) and text.count(BLANK) == 1


def _before_blank(prompt: str, number: int) -> str:
    if BLANK in prompt and not _blank_ends(prompt):
        mend = f"needs its blank {BLANK} at the end: the model goes on from there"
        raise wrong("update_prompt", prompt, mend, number)
    return prompt.split(BLANK)[0].rstrip()


def _templated(text: str, subject: str) -> str:
    """With {} in the subject's place where that is plain: only then the fact can be written for it too."""
    return text.replace(subject, "{}") if text.count(subject) == 1 else text


def _slot(prompt: str, subject: str, number: int) -> str:
    """The prompt with {} in the subject's place."""
    count = prompt.count(subject)
    if count != 1:
        mend = f"holds the subject {count} times; it must stand there once, as {subject!r}"
        raise wrong("prompt", prompt, mend, number)
    return prompt.replace(subject, "{}")
