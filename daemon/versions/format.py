"""A version on disk: names of its files, and its manifest, read and checked. docs/format.md is the spec.

The store and the plugin inside vLLM read versions by these rules, so both refuse the same manifests. Only the
standard library and `cryptography` are imported: whoever reads versions elsewhere can take this file along.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NotRequired, TypedDict, TypeGuard, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from daemon.core.publication import BASE_VERSION

#: manifests of another schema are refused
MANIFEST_SCHEMA = 1
#: of a version whose table tells the forms of its columns: a fact may have several
FORMS_SCHEMA = 2
SCHEMAS = (MANIFEST_SCHEMA, FORMS_SCHEMA)
VERSION_PATTERN = re.compile(r"v\d{6}")
MANIFEST_FILE = "manifest.json"
#: beside the manifest, whose bytes it signs: a line for each key
SIGNATURE_FILE = "manifest.sig"
#: far more lines than a rotation of keys needs, bytes
MAX_SIGNATURE_BYTES = 64 << 10
#: what is signed begins with this, so that a signature of something else is none of a version
SIGNED = b"factd version manifest 1\0"
#: a public key as it is written: 32 bytes in hex
KEY_PATTERN = re.compile(r"[0-9a-f]{64}")
_LINE = re.compile(r"ed25519 ([0-9a-f]{16}) ([0-9a-f]{128})")
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
    schema = found.get("schema")
    if not _is_number(schema) or schema not in SCHEMAS:
        known = " and ".join(map(str, SCHEMAS))
        raise FormatError(f"the manifest has schema {schema!a:.40}; this factd reads {known}")
    if (said := found.get("version")) != version:
        raise FormatError(f"the manifest of {version} says that it is of {said!a:.40}")
    for key, (right, kind) in _KEYS.items():
        if key not in found or not right(found[key]):
            told = f"is {found[key]!a:.80}" if key in found else "is missing"
            raise FormatError(f"the manifest is malformed: {key} {told}; it must be {kind}")
    return cast(Manifest, found)


# -- signatures -------------------------------------------------------------------------------------


def parse_keys(text: str) -> tuple[str, ...]:
    """Public keys from text: each 64 hex digits, between commas, spaces or lines; `#` begins a comment.

    Raises:
        FormatError: something else stands there.
    """
    lines = (line.partition("#")[0] for line in text.splitlines())
    found = [word.lower() for line in lines for word in line.replace(",", " ").split()]
    for word in found:
        if KEY_PATTERN.fullmatch(word) is None:
            raise FormatError(f"{word[:20]!a} is no public key; write 64 hex digits, as `factd doctor` does")
    return tuple(dict.fromkeys(found))


def key_id(public: str) -> str:
    """Short name of a public key: the beginning of the SHA-256 of its bytes."""
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()[:16]


def public_half(private: Ed25519PrivateKey) -> str:
    """The public key of a private one, as it is written."""
    return private.public_key().public_bytes_raw().hex()


def sign_manifest(content: bytes, private: Ed25519PrivateKey) -> bytes:
    """A line of manifest.sig for a manifest of these bytes."""
    signature = private.sign(SIGNED + content).hex()
    return f"ed25519 {key_id(public_half(private))} {signature}\n".encode()


def well_formed(signatures: bytes) -> list[bytes]:
    """The lines of a manifest.sig that are of the right form, whoever wrote them."""
    lines = signatures.splitlines()
    return [line + b"\n" for line in lines if _LINE.fullmatch(line.decode("ascii", "replace"))]


def check_signature(content: bytes, signatures: bytes | None, keys: Collection[str]) -> None:
    """Raises FormatError unless one of the keys has signed these bytes of a manifest.

    Args:
        signatures: the bytes of manifest.sig; None where there is none.
        keys: public keys that are accepted; where there are none, every manifest passes.
    """
    if not keys:
        return
    if signatures is None:
        raise FormatError(f"the version is not signed ({SIGNATURE_FILE} is missing); see docs/security.md")
    ours = {key_id(key): key for key in keys}
    signers = []
    for line in signatures.decode("ascii", "replace").splitlines():
        told = _LINE.fullmatch(line)
        if told is None:
            raise FormatError(f"{SIGNATURE_FILE} is malformed: {line[:40]!a}")
        signers.append(told[1])
        if told[1] in ours and _fits(content, bytes.fromhex(told[2]), ours[told[1]]):
            return
    known = sorted(set(signers) & ours.keys())
    if known:
        raise FormatError(f"the signature by key {known[0]} does not fit: the manifest was changed")
    raise FormatError(
        f"the version is signed by key {', '.join(signers) or 'none'}, accepted are {', '.join(ours)}; "
        "see docs/security.md"
    )


def _fits(content: bytes, signature: bytes, key: str) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, SIGNED + content)
    except InvalidSignature:
        return False
    return True


# -- checks of a manifest's keys --------------------------------------------------------------------


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
