"""CloudEvents 1.0: one correction an event, alone, in a batch, or with its attributes in HTTP headers.

`id` and `source` together are the idempotency key, as the specification has it: a second event with both is
the same event. `time` is when the fact begins to hold; what lies behind us holds at once.

Source: https://github.com/cloudevents/spec (v1.0.2): spec.md, formats/json-format.md,
bindings/http-protocol-binding.md.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from daemon.core.errors import CorrectionError, Problem
from daemon.core.messages import MAX_NAME, parse_json, shortened
from daemon.core.shapes import is_list, is_object
from daemon.core.text import plain
from daemon.core.times import moment
from daemon.intake.feeds.files import objects
from daemon.intake.feeds.records import Advance, Entry, Told, digest, told, wrong

REQUIRED = ("specversion", "id", "source", "type")
OPTIONAL = ("subject", "time", "datacontenttype", "dataschema")
VERSION = "1.0"
#: characters of an attribute; the specification asks for no more than 64 KiB of a whole event
MOST = 2000
#: Headers of the binary form begin so.
PREFIX = "ce-"
ONE, MANY = "application/cloudevents+json", "application/cloudevents-batch+json"
_NAME = re.compile(r"[a-z0-9]+")


def read(file: Path, advance: Advance) -> Iterator[Entry]:
    """One event a line, or a batch: a list of events."""
    for number, item in objects(file, advance):
        yield item if isinstance(item, CorrectionError) else entry(item, number)


def entry(event: object, number: int | None = None) -> Entry:
    """The record of one event in the JSON format."""
    if not is_object(event):
        return wrong(
            "", event, "is no event; send a JSON object with specversion, id, source and type", number
        )
    problems = [Problem(name, value, mend, number) for name, value, mend in _problems(event)]
    if problems:
        return CorrectionError(problems)
    try:
        data = _data(event, number)
    except CorrectionError as error:
        return error
    if "key" in data:
        mend = "is not taken from an event: its id and source are the key; leave it out"
        return wrong("data.key", data["key"], mend, number)
    fields = {"source": _source(event["source"]), "valid_from": event.get("time"), **data}
    found = told({name: value for name, value in fields.items() if value is not None}, number)
    if isinstance(found, Told):
        return found.keyed(key_of(event["source"], event["id"]))
    return CorrectionError([_of_event(one, event, data) for one in found.problems])


def key_of(source: str, id: str) -> str:
    """The idempotency key of an event: both names where they are short, so that a person knows them again."""
    key = f"cloudevent:{json.dumps([source, id], ensure_ascii=False)}"
    return key if len(key) <= MAX_NAME else f"cloudevent:{digest(source, id)}"


def events(content_type: str, headers: Mapping[str, str], body: bytes) -> list[Entry]:
    """What an HTTP request says, in any of the three content modes.

    Args:
        headers: with names in small letters.

    Raises:
        CorrectionError: the request holds no event.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("application/cloudevents") and kind not in (ONE, MANY):
        raise wrong("Content-Type", content_type, f"is a format that is not taken; send {ONE} or {MANY}")
    if kind not in (ONE, MANY) and any(name.startswith(PREFIX) for name in headers):
        return [entry(_binary(headers, kind, body))]
    content = parse_json(body)
    if kind == MANY or (kind != ONE and is_list(content)):
        if not is_list(content):
            raise wrong("", content, "is no batch; send a list of events, or one as " + ONE)
        return [entry(item, number) for number, item in enumerate(content, start=1)]
    return [entry(content)]


def _binary(headers: Mapping[str, str], kind: str, body: bytes) -> dict[str, Any]:
    """The event in the JSON format. Values of headers are percent-encoded."""
    found: dict[str, Any] = {
        name.removeprefix(PREFIX): unquote(value)
        for name, value in headers.items()
        if name.startswith(PREFIX)
    }
    if kind not in ("", "application/json") and not kind.endswith("+json"):
        raise wrong("Content-Type", kind, "is not JSON; a correction is sent as application/json")
    return found | {"data": parse_json(body) if body else None}


def _problems(event: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name in REQUIRED:
        if name not in event:
            yield name, "(nothing)", "is missing; CloudEvents 1.0 asks for it"
    for name, value in event.items():
        if name in ("data", "data_base64"):
            continue
        if not _NAME.fullmatch(name):
            yield (
                shortened(name).strip("'\""),
                shortened(value),
                "is no attribute: small letters and digits only",
            )
        elif name in (*REQUIRED, *OPTIONAL) and value is not None:
            yield from _wrong_text(name, value)
    if event.get("specversion", VERSION) != VERSION:
        yield "specversion", shortened(event["specversion"]), f"is not taken; send {VERSION}"


def _wrong_text(name: str, value: object) -> Iterator[tuple[str, str, str]]:
    if not isinstance(value, str) or not 1 <= len(value) <= MOST:
        yield name, shortened(value), f"must be text of 1 to {MOST} characters"
        return
    try:
        plain(value)
        if name == "time":
            moment(value)
    except ValueError as error:
        yield name, shortened(value), str(error)


def _data(event: Mapping[str, Any], number: int | None) -> dict[str, Any]:
    """Raises CorrectionError."""
    data, raw = event.get("data"), event.get("data_base64")
    if raw is not None:
        if data is not None or not isinstance(raw, str):
            raise wrong("data_base64", raw, "must be base64, in place of data", number)
        try:
            data = parse_json(base64.b64decode(raw, validate=True), number)
        except (binascii.Error, ValueError):
            raise wrong("data_base64", raw, "is no base64", number) from None
    if not is_object(data):
        raise wrong("data", data, "must be a correction: an object with subject, prompt and target", number)
    return data


def _source(source: str) -> str | None:
    """The event's source as that of the correction, unless it is longer than one may be."""
    return source if len(source) <= MAX_NAME else None


def _of_event(one: Problem, event: Mapping[str, Any], data: Mapping[str, Any]) -> Problem:
    """The problem with the field as it is called in an event."""
    top = one.field.partition(".")[0]
    taken = {"valid_from": "time", "source": "source"}
    if top in taken and top not in data and taken[top] in event:
        return Problem(taken[top], one.value, one.mend, one.line)
    return Problem(f"data.{one.field}" if one.field else "data", one.value, one.mend, one.line)
