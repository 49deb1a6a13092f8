"""The file of sources (FACTD_SOURCES_FILE): a policy each, and the weights and levels of the rules."""

import hashlib
import hmac
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from daemon.core.errors import Problem, SettingsError
from daemon.core.messages import problem
from daemon.core.trust import Rule

#: Names of the two tokens that are no source's.
RESERVED = ("admin", "submit")
_strict = ConfigDict(extra="forbid", frozen=True, strict=True)
_Pattern = Annotated[str, StringConstraints(min_length=1, max_length=200)]
#: A name stands in the audit chain behind the way in, and as the label of a rate.
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,59}$")]
Consequence = Literal["aliases", "inverse", "ended"]


class Policy(BaseModel):
    """What a source may do. A list of patterns that is None allows everything; `*` stands for any text."""

    model_config = _strict
    policy: Literal["accept", "review", "refuse"] = "accept"
    most_a_day: Annotated[int, Field(ge=0)] | None = None
    relations: Annotated[list[_Pattern], Field(max_length=500)] | None = None
    subjects: Annotated[list[_Pattern], Field(max_length=500)] | None = None
    consequences: list[Consequence] = []
    #: what the old holder is said to be after it ended, such as "former director"; nothing when None
    ended_says: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None

    def allows_subject(self, subject: str) -> bool:
        return self.subjects is None or _matches(subject, self.subjects)

    def allows_relation(self, names: Sequence[str]) -> bool:
        """Whether the policy names the relation: by its name in the lexicon, or by the prompt itself."""
        return self.relations is None or any(_matches(name, self.relations) for name in names)


class Source(Policy):
    """A policy with a name. With a token, nobody else can post under the name."""

    name: _Name
    token_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    #: may approve and reject what others posted
    reviews: bool = False


class Weights(BaseModel):
    """What each rule counts; 0 switches it off. The level at which a correction is held is `hold_at`."""

    model_config = _strict
    untrusted: Annotated[float, Field(ge=0, le=100)] = 1.0
    contradiction: Annotated[float, Field(ge=0, le=100)] = 1.0
    flip_flop: Annotated[float, Field(ge=0, le=100)] = 1.0
    wrong_kind: Annotated[float, Field(ge=0, le=100)] = 1.0
    text: Annotated[float, Field(ge=0, le=100)] = 1.0
    sure: Annotated[float, Field(ge=0, le=100)] = 1.0

    def of(self, rule: Rule) -> float:
        return getattr(self, rule.value)


class Rules(BaseModel):
    """Levels of the rules."""

    model_config = _strict
    #: a correction with this score or more is held
    hold_at: Annotated[float, Field(gt=0, le=100)] = 1.0
    #: so many changes of one slot within so many days are a flip-flop
    flip_flop_changes: Annotated[int, Field(ge=2, le=100)] = 3
    flip_flop_days: Annotated[float, Field(gt=0, le=3650)] = 7.0
    #: the model is sure of the old answer from this probability on
    sure_from: Annotated[float, Field(gt=0, le=1)] = 0.5
    #: at most so many corrections may wait for a review; more are refused
    most_held: Annotated[int, Field(ge=1)] = 10_000
    weights: Weights = Weights()


class _File(BaseModel):
    model_config = _strict
    default: Policy = Policy()
    rules: Rules = Rules()
    source: list[Source] = []


@dataclass(frozen=True)
class Sources:
    """The policies as they are in force."""

    default: Policy
    rules: Rules
    by_name: dict[str, Source]

    def of_token(self, token: bytes) -> Source | None:
        """The source whose token it is."""
        digest = hashlib.sha256(token).hexdigest()
        found = None
        for source in self.by_name.values():
            # All are compared, each in constant time: the time of an answer tells nothing of the tokens.
            if hmac.compare_digest(digest, source.token_sha256 or ""):
                found = source
        return found


def load_sources(file: Path | None) -> Sources | None:
    """The sources of a file; None without one: then everything is accepted, and nothing is judged.

    Raises:
        SettingsError: names each problem with field, value and mend.
    """
    if file is None:
        return None
    read, problems = _read(file)
    if read is not None:
        problems += _between(read.source)
    if problems or read is None:
        told = "\n".join(f"  {one}" for one in problems)
        raise SettingsError(f"FACTD_SOURCES_FILE = {str(file)!r}: the file cannot be used\n{told}")
    return Sources(read.default, read.rules, {one.name: one for one in read.source})


def _read(file: Path) -> tuple[_File | None, list[Problem]]:
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        return None, [Problem("", str(file), f"cannot be read: {error.strerror}; give a readable file")]
    except UnicodeDecodeError as error:
        return None, [Problem("", str(file), f"is not UTF-8 (byte {error.start}); save it as UTF-8")]
    except tomllib.TOMLDecodeError as error:
        return None, [Problem("", str(file), f"is not TOML: {error}; mend that place")]
    try:
        return _File.model_validate(content), []
    except ValidationError as error:
        return None, [_told(problem(item)) for item in error.errors()]


def _told(found: Problem) -> Problem:
    mend = found.mend.replace("a field of a correction", "a setting of this table")
    mend = mend.replace("Input should be", "must be").replace("prompt and answer", "the settings of a source")
    if found.field.endswith("token_sha256"):
        mend = "must be 64 hexadecimal digits; `printf %s TOKEN | sha256sum` prints them"
        return Problem(found.field, "(not shown)", mend)
    if found.field.endswith(".name") and "pattern" in mend:
        mend = "must be small letters, digits, '.', '_' and '-', a letter or digit first, at most 60"
    return Problem(found.field, found.value, mend)


def _between(found: Sequence[Source]) -> Iterator[Problem]:
    names, tokens = set[str](), dict[str, str]()
    for number, one in enumerate(found):
        if one.name in names:
            yield Problem(f"source.{number}.name", repr(one.name), "stands twice; keep one of the two")
        if one.name in RESERVED:
            yield Problem(f"source.{number}.name", repr(one.name), "is a token's name; take another name")
        names.add(one.name)
        if one.token_sha256 is not None and tokens.setdefault(one.token_sha256, one.name) != one.name:
            mend = f"is the token of {tokens[one.token_sha256]} too; give each source its own token"
            yield Problem(f"source.{number}.token_sha256", "(not shown)", mend)
        if one.reviews and one.token_sha256 is None:
            mend = "needs a token_sha256: a reviewer is known by a token"
            yield Problem(f"source.{number}.reviews", "True", mend)


def _matches(text: str, patterns: Sequence[str]) -> bool:
    folded = text.casefold()
    return any(fnmatchcase(folded, pattern.casefold()) for pattern in patterns)
