"""A version on disk: names of its files, and its manifest, read and checked. docs/format.md is the spec.

The store and the plugin inside vLLM read versions by these rules, so both refuse the same manifests. Only the
standard library is imported: whoever reads versions elsewhere can take this file along.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NotRequired, TypedDict, TypeGuard, cast

from daemon.core.publication import BASE_VERSION

#: manifests of another schema are refused
MANIFEST_SCHEMA = 1
VERSION_PATTERN = re.compile(r"v\d{6}")
MANIFEST_FILE = "manifest.json"
#: beside the weights of an exported checkpoint: which version it is, from which base, with which corrections
ABOUT_FILE = "factd.json"
FACTORS_FILE, FACTS_FILE = "factors.safetensors", "facts.safetensors"
ADDED_FILE, WEIGHTS_FILE = "added.safetensors", "weights.safetensors"
#: A manifest names files of its own folder, never paths.
FILES = frozenset({FACTORS_FILE, FACTS_FILE, ADDED_FILE, WEIGHTS_FILE})


class FormatError(ValueError):
    """Raised when a manifest is not what docs/format.md says; the text holds printable characters only."""


class TensorEntry(TypedDict):
    """An edited tensor: its shape and dtype, and the hashes of the base weight and of the resulting one."""

    shape: list[int]
    dtype: str
    base_sha256: str
    sha256: str


class FactEntry(TypedDict):
    """A fact that a version added; `questions` and `paraphrases` are left out where it has none."""

    id: str
    subject: str
    prompt: str
    target: str
    questions: NotRequired[list[str]]
    paraphrases: NotRequired[list[str]]


class Manifest(TypedDict):
    """manifest.json. What is not required here is for the record: no reader depends on it."""

    schema: int
    version: str
    parent: str | None
    base_hash: str
    settings_hash: NotRequired[str]
    tensors: dict[str, TensorEntry]
    files: dict[str, str]
    grown_from: NotRequired[str | None]
    snapshot: bool
    facts_added: list[FactEntry]
    facts_removed: list[str]
    verdict: NotRequired[dict[str, Any]]
    measurements: NotRequired[dict[str, Any]]
    fence: int
    created: NotRequired[float | None]


def is_version(name: str) -> bool:
    """Whether this is the name of a version, as "v000012" is."""
    return VERSION_PATTERN.fullmatch(name) is not None


def parent_of(manifest: Manifest) -> str:
    """The version that this one grew from; the base where none is named."""
    return manifest["parent"] or BASE_VERSION


def base_manifest() -> Manifest:
    """What the base would have, which is no version on disk."""
    return {
        "schema": MANIFEST_SCHEMA,
        "version": BASE_VERSION,
        "parent": None,
        "base_hash": "",
        "tensors": {},
        "files": {},
        "snapshot": True,
        "facts_added": [],
        "facts_removed": [],
        "fence": 0,
    }


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of manifest.json."""
    return json.dumps(manifest, indent=1, sort_keys=True).encode()


def parse_manifest(content: bytes, version: str) -> Manifest:
    """The manifest of a version, with every key that a reader needs, each of its type.

    Hashes are not compared here: they are of files that the caller reads.

    Raises:
        FormatError: it is no JSON, of another schema or version, or a key is missing or of another type.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the manifest is malformed: {error}") from error
    if not _is_object(found):
        raise FormatError("the manifest is malformed: it is not a JSON object")
    if (schema := found.get("schema")) != MANIFEST_SCHEMA:
        raise FormatError(f"the manifest has schema {schema!a:.40}; this factd reads {MANIFEST_SCHEMA}")
    if (said := found.get("version")) != version:
        raise FormatError(f"the manifest of {version} says that it is of {said!a:.40}")
    for key, (right, kind) in _KEYS.items():
        if key not in found or not right(found[key]):
            told = f"is {found[key]!a:.80}" if key in found else "is missing"
            raise FormatError(f"the manifest is malformed: {key} {told}; it must be {kind}")
    return cast(Manifest, found)


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_parent(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_files(value: object) -> bool:
    if not _is_object(value) or FACTORS_FILE not in value or not value.keys() <= FILES:
        return False
    return all(map(_is_text, value.values()))


def _is_tensors(value: object) -> bool:
    # A name that cannot be printed is no tensor's, and would stand in logs and in HTTP answers.
    return _is_object(value) and all(name.isprintable() and _is_tensor(e) for name, e in value.items())


def _is_tensor(entry: object) -> bool:
    return _is_object(entry) and _has_texts(entry, ("sha256",))


def _is_facts(value: object) -> bool:
    texts = ("id", "subject", "prompt", "target")
    return _is_list(value) and all(
        _is_object(fact) and _has_texts(fact, texts) and _has_wordings(fact) for fact in value
    )


def _has_wordings(fact: Mapping[str, Any]) -> bool:
    return all(_is_ids(fact.get(name, [])) for name in ("questions", "paraphrases"))


def _is_ids(value: object) -> bool:
    return _is_list(value) and all(map(_is_text, value))


def _has_texts(entry: Mapping[str, Any], keys: tuple[str, ...]) -> bool:
    return all(isinstance(entry.get(key), str) for key in keys)


#: each key that a reader needs → whether a value will do, and what it must be
_KEYS: dict[str, tuple[Callable[[object], bool], str]] = {
    "parent": (_is_parent, "a version or null"),
    "base_hash": (_is_text, "a text"),
    "tensors": (_is_tensors, "tensors with printable names, each with its sha256"),
    "files": (_is_files, f"{FACTORS_FILE} and others of {', '.join(sorted(FILES))}, each with its sha256"),
    "snapshot": (lambda value: isinstance(value, bool), "true or false"),
    "facts_added": (_is_facts, "a list of facts, each with id, subject, prompt and target"),
    "facts_removed": (_is_ids, "a list of ids"),
    "fence": (_is_number, "a whole number"),
}
