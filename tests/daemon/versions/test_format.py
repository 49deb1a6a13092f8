"""The format of a version: byte for byte, refused where a key is wrong, and free of other packages."""

import ast
import json
import sys
from pathlib import Path

import pytest

from daemon.versions import format as rules
from daemon.versions.format import FormatError, Manifest, encode_manifest, parse_manifest

MANIFEST: Manifest = {
    "schema": 1,
    "version": "v000002",
    "parent": "v000001",
    "base_hash": "b",
    "settings_hash": "s",
    "tensors": {"w": {"shape": [2, 3], "dtype": "float32", "base_sha256": "0", "sha256": "1"}},
    "files": {"factors.safetensors": "2", "facts.safetensors": "3"},
    "grown_from": None,
    "snapshot": False,
    "facts_added": [{"id": "f", "subject": "Zoë", "prompt": "{} lives in", "target": "Rome"}],
    "facts_removed": [],
    "verdict": {},
    "measurements": {"drift": 0.5},
    "fence": 7,
    "created": 1000.0,
}
#: written by hand from docs/format.md: keys in order, one space a level, ASCII
BYTES = b"""{
 "base_hash": "b",
 "created": 1000.0,
 "facts_added": [
  {
   "id": "f",
   "prompt": "{} lives in",
   "subject": "Zo\\u00eb",
   "target": "Rome"
  }
 ],
 "facts_removed": [],
 "fence": 7,
 "files": {
  "factors.safetensors": "2",
  "facts.safetensors": "3"
 },
 "grown_from": null,
 "measurements": {
  "drift": 0.5
 },
 "parent": "v000001",
 "schema": 1,
 "settings_hash": "s",
 "snapshot": false,
 "tensors": {
  "w": {
   "base_sha256": "0",
   "dtype": "float32",
   "sha256": "1",
   "shape": [
    2,
    3
   ]
  }
 },
 "verdict": {},
 "version": "v000002"
}"""


def test_a_manifest_is_written_as_these_bytes_and_read_back():
    assert encode_manifest(MANIFEST) == BYTES
    assert parse_manifest(BYTES, "v000002") == MANIFEST


@pytest.mark.parametrize("key", ["parent", "base_hash", "tensors", "files", "snapshot", "facts_added",
                                 "facts_removed", "fence"])  # fmt: skip
@pytest.mark.parametrize("value", [7.5, {"x": 1}, [None], "\ud800" * 9, ...])
def test_a_key_that_is_missing_or_of_another_type_is_refused_by_name(key, value):
    told = {name: kept for name, kept in MANIFEST.items() if name != key or value is not ...}
    if value is not ...:
        told[key] = value
    if key in ("parent", "base_hash") and isinstance(value, str):
        parse_manifest(json.dumps(told).encode(), "v000002")  # any text will do; it is compared elsewhere
        return
    with pytest.raises(FormatError, match=f"malformed: {key}") as refused:
        parse_manifest(json.dumps(told).encode(), "v000002")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 3}, "schema 3; this factd reads 1 and 2"),
        ({"schema": True}, "schema True; this factd reads 1 and 2"),
        ({"version": "v000009"}, "says that it is of 'v000009'"),
        ({"fence": True}, "fence is True"),
        ({"files": {"facts.safetensors": "3"}}, "it must be factors.safetensors"),
        ({"files": MANIFEST["files"] | {"../x": "3"}}, "malformed: files"),
        ({"tensors": {"w": {"sha256": None}}}, "malformed: tensors"),
        ({"facts_added": [{"id": "f"}]}, "id, subject, prompt and target"),
    ],
)
def test_other_faults_are_refused_by_name(changes, message):
    with pytest.raises(FormatError, match=message):
        parse_manifest(json.dumps(dict(MANIFEST) | changes).encode(), "v000002")


def test_only_the_standard_library_and_cryptography_are_imported():
    tree = ast.parse(Path(rules.__file__).read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {each.name for node in ast.walk(tree) if isinstance(node, ast.Import) for each in node.names}
    foreign = {name for name in names if name.split(".")[0] not in {*sys.stdlib_module_names, "cryptography"}}
    assert foreign <= {"daemon.core.publication"}
