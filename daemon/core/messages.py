"""What comes over the wire: the correction, and errors that name field, value and mend."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import GroupedMetadata, MaxLen, MinLen
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from daemon.core.errors import CorrectionError, Problem
from daemon.core.text import composed, plain
from daemon.core.times import Moment, seconds_of

#: Characters, and entries of a list. A fact is a name and a short answer; longer text is a mistake or an
#: attack.
MAX_NAME, MAX_PROMPT, MAX_LIST = 200, 1000, 20
#: Questions of a correction; with as many paraphrases as there may be, no more than a fact can be asked in.
MAX_QUESTIONS = 10
#: characters; an id becomes a label, a part of a URL and a file name in exports
MAX_ID = 200
#: Fields that an older factd did not have.
LATER_FIELDS = frozenset({"questions", "valid_from", "valid_until", "aliases", "parent"})
#: An error shows so many characters of a value.
SHOWN = 80

_strict = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class Words(GroupedMetadata):
    """What holds for each text of a message: composed, of 1 to `most` characters, with nothing hidden."""

    most: int

    def __iter__(self) -> Iterator[object]:
        yield MinLen(1)
        yield MaxLen(self.most)
        # pydantic goes outwards: the text is composed first, then measured, then looked at.
        yield BeforeValidator(self._composed)
        yield AfterValidator(plain)

    def _composed(self, value: object) -> object:
        return composed(value, self.most) if isinstance(value, str) else value


_Text, _Name = Words(MAX_PROMPT), Words(MAX_NAME)


def _one_slot(value: str) -> str:
    """The text itself. Raises ValueError unless it has one slot for the subject."""
    count = value.count("{}")
    if count != 1:
        raise ValueError(f"has {count} slots; write exactly one {{}} where the subject belongs")
    return value


class Neighbour(BaseModel):
    """A statement close to the correction that must stay as it is."""

    model_config = _strict
    prompt: Annotated[str, _Text]
    answer: Annotated[str, _Name]


class Correction(BaseModel):
    """What a user posts. Unknown fields are refused."""

    model_config = _strict

    subject: Annotated[str, _Name]
    prompt: Annotated[str, _Text]
    target: Annotated[str, _Name]
    was: Annotated[str, _Name] | None = None
    paraphrases: Annotated[list[Annotated[str, _Text]], Field(max_length=MAX_LIST)] = []
    questions: Annotated[list[Annotated[str, _Text]], Field(max_length=MAX_QUESTIONS)] = []
    neighbours: Annotated[list[Neighbour], Field(max_length=MAX_LIST)] = []
    key: Annotated[str, _Name] | None = None
    source: Annotated[str, _Name] | None = None
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    aliases: Annotated[list[Annotated[str, _Name]], Field(max_length=MAX_LIST)] = []
    parent: Annotated[str, _Name] | None = None
    #: it goes live no earlier, and leaves by itself then
    valid_from: Moment | None = None
    valid_until: Moment | None = None

    @field_validator("prompt")
    @classmethod
    def _prompt_slot(cls, value: str) -> str:
        return _one_slot(value).rstrip()

    @field_validator("questions")
    @classmethod
    def _question_slots(cls, value: list[str]) -> list[str]:
        return [_one_slot(text).strip() for text in value]

    @field_validator("target", "was")
    @classmethod
    def _no_leading_space(cls, value: str | None) -> str | None:
        return None if value is None else value.strip()

    @field_validator("subject")
    @classmethod
    def _no_slot(cls, value: str) -> str:
        if "{}" in value:
            raise ValueError("holds {}; the slot belongs into the prompt")
        return value.strip()

    @field_validator("valid_until")
    @classmethod
    def _ends_after_start(cls, value: str | None, info: ValidationInfo) -> str | None:
        start: str | None = info.data.get("valid_from")
        if value and start and seconds_of(value) <= seconds_of(start):
            raise ValueError(
                f"is not after valid_from ({start}); give a later time, or leave one of them out"
            )
        return value

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return self.prompt.replace("{}", self.subject)

    @property
    def content_hash(self) -> str:
        """Equal for two posts of the same correction; key, source and priority do not count."""
        body = self.model_dump(exclude={"key", "source", "priority"})
        # Corrections had none of these once; what was posted then must still be known as the same.
        body = {name: value for name, value in body.items() if value or name not in LATER_FIELDS}
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def parse_correction(message: object, line: int | None = None) -> Correction:
    """Checks one decoded message.

    Raises:
        CorrectionError: with every problem found.
    """
    if not isinstance(message, dict):
        raise CorrectionError(
            [Problem("", shortened(message), "send a JSON object with subject, prompt and target", line)]
        )
    try:
        return Correction.model_validate(message)
    except ValidationError as error:
        raise CorrectionError([problem(item, line) for item in error.errors()]) from None


def parse_json(text: str | bytes, line: int | None = None) -> Any:
    """Decodes JSON; a key given twice within one object is an error, not a silent choice.

    Raises:
        CorrectionError: not JSON, or a duplicate key.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_pairs, parse_constant=_no_constant)
    except _DuplicateKeyError as error:
        problem = Problem(error.name, shortened(text), "the key stands twice in one object; keep one", line)
    except (ValueError, RecursionError) as error:
        problem = Problem("", shortened(text), f"not valid JSON ({error}); write one JSON object", line)
    raise CorrectionError([problem])


def parse_lines(text: str) -> list[Correction]:
    """Reads JSON lines; blank lines are skipped. All or nothing.

    Raises:
        CorrectionError: the problems of all lines, with line numbers from 1.
    """
    corrections: list[Correction] = []
    problems: list[Problem] = []
    seen: dict[str, tuple[int, str]] = {}
    for number, line in _numbered(text):
        try:
            correction = parse_correction(parse_json(line, number), number)
        except CorrectionError as error:
            problems.extend(error.problems)
            continue
        first, content = seen.setdefault(correction.key or "", (number, correction.content_hash))
        if correction.key and content != correction.content_hash:
            mend = f"line {first} uses the same key for another content; give each correction its own key"
            problems.append(Problem("key", shortened(correction.key), mend, number))
        corrections.append(correction)
    if not corrections and not problems:
        problems.append(Problem("", "''", "the file holds no correction; write one JSON object a line"))
    if problems:
        raise CorrectionError(problems)
    return corrections


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    # Not splitlines(): that also breaks at U+2028, which is legal inside a JSON string.
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if line.strip():
            yield number, line


class _DuplicateKeyError(Exception):
    def __init__(self, name: str) -> None:
        self.name = shortened(name).strip("'\"")
        super().__init__(name)


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateKeyError(next(name for name in names if names.count(name) > 1))
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def shortened(value: object) -> str:
    """The value as an error shows it."""
    # Cut first: repr would copy and escape a text of 10 MB for a message.
    text = repr(value[: SHOWN + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


#: pydantic error type → mend; `{name}` is filled from the error's context
_MENDS = {
    "missing": "is missing; give it",
    "extra_forbidden": "is not a field of a correction; remove it or correct its spelling",
    "string_type": "must be text, in quotes",
    "string_unicode": "holds half a surrogate pair; write one line of plain text",
    "string_too_short": "is empty; give the words",
    "string_too_long": "is longer than {max_length} characters; shorten it",
    "too_long": "has more than {max_length} entries; keep the most telling",
    "list_type": "must be a list of texts",
    "int_type": "must be a whole number",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    "model_type": "must be an object with prompt and answer",
    "model_attributes_type": "must be an object with prompt and answer",
}


def problem(item: ErrorDetails, line: int | None = None) -> Problem:
    """What pydantic found wrong, in our words: its own may repeat input that is no JSON (NaN, surrogates)."""
    context = item.get("ctx") or {}
    known = _MENDS.get(item["type"])
    mend = known.format(**context) if known else str(context.get("error", item["msg"]))
    value = "(nothing)" if item["type"] == "missing" else shortened(item["input"])
    return Problem(".".join(shortened(part).strip("'\"") for part in item["loc"]), value, mend, line)
