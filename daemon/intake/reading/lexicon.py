"""The relation lexicon: what it holds, how a file of it is read, and what is wrong with one."""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from daemon.core.errors import Problem, SettingsError
from daemon.core.messages import MAX_LIST, problem
from daemon.core.shapes import is_list, is_object
from daemon.core.text import plain
from daemon.intake.reading.kinds import KINDS
from daemon.intake.reading.pattern import Pattern, PatternError, compile_pattern

HERE = Path(__file__).parent
SHIPPED = HERE / "relations.toml"

_Text = Annotated[str, StringConstraints(min_length=1, max_length=600)]
_Texts = Annotated[list[_Text], Field(max_length=200)]


class Relation(BaseModel):
    """One relation of the lexicon; docs/say.md says what each field means."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
    nouns: _Texts = []
    says: _Texts = []
    prompts: Annotated[list[_Text], Field(min_length=1, max_length=MAX_LIST)]
    questions: Annotated[list[_Text], Field(min_length=1, max_length=MAX_LIST)]
    subject: str
    object: str
    office: bool = False
    single: bool = True
    inverse: str | None = None


@dataclass(frozen=True)
class Lexicon:
    """Relations by name, and what they are recognised by."""

    relations: Mapping[str, Relation]
    says: tuple[tuple[str, Pattern], ...]
    nouns: Mapping[tuple[str, ...], str]

    @property
    def longest_noun(self) -> int:
        return max(map(len, self.nouns), default=0)


def load_lexicon(own: Path | None = None) -> Lexicon:
    """The shipped relations, and those of `own`: a relation of the same name replaces the shipped one.

    Raises:
        SettingsError: names each problem of the file.
    """
    if own is None:
        return _shipped()
    found, problems = read_relations(own)
    if problems:
        told = "\n".join(f"  {one}" for one in problems)
        raise SettingsError(f"FACTD_RELATIONS = {str(own)!r}: the file cannot be used\n{told}")
    return _lexicon([*_shipped().relations.values(), *found])


@cache
def _shipped() -> Lexicon:
    found, problems = read_relations(SHIPPED)
    if problems:
        raise SettingsError("\n".join(map(str, problems)))
    return _lexicon(found)


@cache
def shapes() -> tuple[Mapping[str, str], Mapping[str, tuple[Pattern, ...]]]:
    """The named parts of patterns, and the shapes that hold for nouns, by what they are for."""
    read = tomllib.loads((HERE / "shapes.toml").read_text("utf-8"))
    parts: Mapping[str, str] = read["parts"]
    return parts, {
        one["for"]: tuple(compile_pattern(text, parts) for text in one["says"]) for one in read["shape"]
    }


def _lexicon(found: Iterable[Relation]) -> Lexicon:
    relations = {one.name: one for one in found}
    nouns: dict[tuple[str, ...], str] = {}
    for one in relations.values():
        for noun in one.nouns:
            nouns[tuple(noun.lower().split())] = one.name  # a later file wins
    parts, _ = shapes()
    says = tuple((one.name, compile_pattern(text, parts)) for one in relations.values() for text in one.says)
    return Lexicon(relations, says, nouns)


def read_relations(file: Path) -> tuple[list[Relation], list[Problem]]:
    """The relations of a file, and what is wrong with it; the name of the relation begins each field."""
    try:
        read = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        return [], [Problem("", str(file), f"cannot be read: {error.strerror}; give a readable file")]
    except UnicodeDecodeError as error:
        return [], [Problem("", str(file), f"is not UTF-8 (byte {error.start}); save it as UTF-8")]
    except tomllib.TOMLDecodeError as error:
        return [], [Problem("", str(file), f"is not TOML: {error}; mend that place")]
    entries = read.get("relation")
    if not is_list(entries) or not entries or read.keys() != {"relation"}:
        mend = "a file of relations holds [[relation]] tables and nothing else; docs/say.md shows one"
        return [], [Problem("", ", ".join(read) or "''", mend)]
    found, problems = list[Relation](), list[Problem]()
    for number, entry in enumerate(entries, start=1):
        relation, wrong = _relation(entry, number)
        problems += wrong
        if relation is not None:
            found.append(relation)
    return found, [*problems, *_between(found)]


def _relation(entry: object, number: int) -> tuple[Relation | None, list[Problem]]:
    name = entry.get("name") if is_object(entry) else None
    label = name if isinstance(name, str) else f"relation {number}"
    try:
        relation = Relation.model_validate(entry)
    except ValidationError as error:
        found = [problem(item) for item in error.errors()]
        return None, [Problem(f"{label}.{one.field}", one.value, _mend(one)) for one in found]
    return relation, [
        Problem(f"{label}.{field}", repr(value), mend) for field, value, mend in _wrong(relation)
    ]


def _mend(one: Problem) -> str:
    if one.field == "name" and "pattern" in one.mend:
        return "must be small letters, digits and _, a letter first, at most 60"
    return one.mend.replace("of a correction", "of a relation")


def _wrong(relation: Relation) -> Iterator[tuple[str, str, str]]:
    for field in ("subject", "object"):
        kind = getattr(relation, field)
        if kind not in KINDS:
            yield field, kind, f"is no kind of thing; take one of {', '.join(sorted(KINDS))}"
    templates = [("prompts", text) for text in relation.prompts]
    templates += [("questions", text) for text in relation.questions]
    templates += [("inverse", relation.inverse)] if relation.inverse is not None else []
    for field, text in templates:
        yield from ((field, text, mend) for mend in _template(text))
    for text in relation.questions:
        if not text.rstrip().endswith("?"):
            yield "questions", text, "is no question; end it with a question mark"
    for noun in relation.nouns:
        if not noun.strip() or any(sign in noun for sign in "{}[]()<>|"):
            yield "nouns", noun, 'is no plain noun; write words such as "head coach"'
    for text in relation.says:
        yield from (("says", text, mend) for mend in _says(text))
    if not relation.nouns and not relation.says:
        yield "nouns", "[]", "the relation is recognised by nothing; give nouns, or patterns in says"


def _template(text: str) -> Iterator[str]:
    if text.count("{}") != 1:
        yield f"has {text.count('{}')} slots; write exactly one {{}} where the subject belongs"
    try:
        plain(text)
    except ValueError as error:
        yield str(error)


def _says(text: str) -> Iterator[str]:
    try:
        pattern = compile_pattern(text, shapes()[0])
    except PatternError as error:
        yield str(error)
        return
    slots = pattern.slots
    for slot in ("s", "t"):
        if slot not in slots:
            yield f"has no {{{slot}}}; a pattern holds {{s}} for the subject and {{t}} for the target"
    if pattern.weight < 2:
        yield "holds no word beside its slots; write the words that tell the relation"


def _between(found: list[Relation]) -> Iterator[Problem]:
    names, nouns = set[str](), dict[str, str]()
    for one in found:
        if one.name in names:
            yield Problem(f"{one.name}.name", repr(one.name), "stands twice in the file; keep one of the two")
        names.add(one.name)
        for noun in one.nouns:
            first = nouns.setdefault(noun.lower(), one.name)
            if first != one.name:
                mend = f"is a noun of {first} too; a noun tells one relation, so take it out of one of them"
                yield Problem(f"{one.name}.nouns", repr(noun), mend)
