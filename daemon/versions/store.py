"""Versions on disk: immutable directories, written whole or not at all, checked by hash when read."""

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from daemon.core.errors import StoreError
from daemon.core.publication import BASE_VERSION
from editing.errors import DeltaError
from editing.memory.files import MAX_MANIFEST_BYTES, read_regular

if TYPE_CHECKING:  # the store is opened by processes that must not load torch
    from torch import Tensor

    from editing.facts import Fact
    from editing.memory.state import EditState

SCHEMA = 1
VERSION = re.compile(r"v\d{6}")
MANIFEST, FACTORS, FACTS = "manifest.json", "factors.safetensors", "facts.safetensors"
ADDED, WEIGHTS = "added.safetensors", "weights.safetensors"

#: A manifest names files of its own folder, never paths.
File = Literal["factors.safetensors", "facts.safetensors", "added.safetensors", "weights.safetensors"]


@dataclass(frozen=True)
class Draft:
    """What a manifest says beside the hashes of the files.

    Attributes:
        tensors: tensor name → {shape, dtype, base_sha256, sha256 of the resulting float32 weight}.
        weights: tensor name → that weight, for replicas that cannot rebuild it bit for bit from the factors;
            empty: they can, and what is written is proportional to the facts.
    """

    version: str
    parent: str
    base_hash: str
    settings_hash: str
    tensors: Mapping[str, Mapping[str, Any]]
    fence: int
    created: float
    verdict: Mapping[str, Any] = field(default_factory=dict)
    measurements: Mapping[str, Any] = field(default_factory=dict)
    weights: "Mapping[str, Tensor]" = field(default_factory=dict)


class _Fact(BaseModel):
    id: str
    subject: str
    prompt: str
    target: str
    questions: list[str] = []
    paraphrases: list[str] = []


class _Tensor(BaseModel):
    sha256: str


class _Manifest(BaseModel):
    """What is read of a manifest; docs/format.md has all of it."""

    model_config = ConfigDict(strict=True)

    parent: str | None
    base_hash: str
    tensors: dict[str, _Tensor]
    files: dict[File, str]
    snapshot: bool
    facts_added: list[_Fact]
    facts_removed: list[str]
    fence: int


class Store:
    """The directory `root/versions`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.versions = self.root / "versions"

    def path(self, version: str) -> Path:
        """Raises StoreError when `version` is not the name of a version."""
        if not VERSION.fullmatch(version):
            raise StoreError(f"{version!r} is not a version; they are named like v000012")
        return self.versions / version

    def ids(self) -> list[str]:
        if not self.versions.is_dir():
            return []
        return sorted(path.name for path in self.versions.iterdir() if VERSION.fullmatch(path.name))

    def write(
        self, draft: Draft, state: "EditState", before_rename: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """Writes a version to a temporary sibling, forces it to disk, renames it; returns the manifest.

        A directory of the same name is replaced: it can only stem from an attempt that was never
        recorded in the ledger.
        """
        self._check_parent(draft)
        target = self.path(draft.version)
        work = self.versions / f".tmp-{draft.version}-{draft.fence}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        manifest = self._write_files(work, draft, state)
        write_synced(work / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
        sync_directory(work)
        before_rename()
        if target.exists():
            if self.manifest(draft.version)["fence"] > draft.fence:
                raise StoreError(
                    f"version {draft.version} was written by a newer applier; this one must stop"
                )
            shutil.rmtree(target)
        os.rename(work, target)
        sync_directory(self.versions)
        return manifest

    def _check_parent(self, draft: Draft) -> None:
        if draft.parent == BASE_VERSION:
            return
        parent = self.manifest(draft.parent)
        if parent["base_hash"] != draft.base_hash:
            raise StoreError(
                f"version {draft.version} is of base model {draft.base_hash[:12]}…, its parent "
                f"{draft.parent} of {parent['base_hash'][:12]}…; set FACTD_MODEL or another FACTD_STATE_DIR"
            )
        if parent["fence"] > draft.fence:
            raise StoreError(f"version {draft.parent} was written by a newer applier; this one must stop")

    def _write_files(self, work: Path, draft: Draft, state: "EditState") -> dict[str, Any]:
        from editing.memory.delta import added, write_tensors

        parent = self.load_state(draft.parent)
        removed = [id for id in parent.ids if id not in set(state.ids)]
        first = _grown_from(parent.without(removed), state)
        # A solve that rewrote columns of older facts cannot be told as "parent, less, plus": keep all.
        snapshot = first is None
        first = first or 0
        files = {}
        metadata = {"version": draft.version, "schema": str(SCHEMA)}
        factors, grown_from = _flat(state.factors), None
        files[FACTORS] = write_tensors(work / FACTORS, factors, metadata)
        new = added(factors, _flat(parent.factors)) if parent.factors else None
        if new is not None:
            # What a replica reads that holds the parent's. All are there too: no version needs another.
            files[ADDED] = write_tensors(work / ADDED, new, metadata)
            grown_from = self.manifest(draft.parent)["files"][FACTORS]
        width = state.width(first)
        columns = {name: column[:, width:].clone() for name, column in state.columns.items()}
        files[FACTS] = write_tensors(work / FACTS, columns, metadata)
        if draft.weights:
            files[WEIGHTS] = write_tensors(work / WEIGHTS, draft.weights, metadata)
        return {
            "schema": SCHEMA,
            "version": draft.version,
            "parent": draft.parent,
            "base_hash": draft.base_hash,
            "settings_hash": draft.settings_hash,
            "tensors": {name: dict(tensor) for name, tensor in draft.tensors.items()},
            "files": files,
            "grown_from": grown_from,
            "snapshot": snapshot,
            "facts_added": [_fact_json(fact) for fact in state.facts[first:]],
            "facts_removed": [] if snapshot else removed,
            "verdict": dict(draft.verdict),
            "measurements": dict(draft.measurements),
            "fence": draft.fence,
            "created": draft.created,
        }

    def manifest(self, version: str) -> dict[str, Any]:
        """Raises StoreError when the version is missing, unreadable, or of another schema."""
        path = self.path(version) / MANIFEST
        try:
            manifest = json.loads(read_regular(path, MAX_MANIFEST_BYTES))
        except (DeltaError, ValueError, RecursionError) as error:
            raise StoreError(
                f"version {version} has no readable manifest ({error}); restore {path}"
            ) from error
        if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
            raise StoreError(f"version {version} is not of schema {SCHEMA}; use the factd that wrote it")
        if manifest.get("version") != version:
            raise StoreError(f"{path} says it is {manifest.get('version')!r}; restore it from a backup")
        try:
            _Manifest.model_validate(manifest)
        except ValidationError as error:
            first = error.errors()[0]
            field, said = ".".join(map(str, first["loc"])), first["msg"]
            raise StoreError(f"{path}: {field}: {said}; restore it from a backup") from None
        return manifest

    def load_state(self, version: str) -> "EditState":
        """Rebuilds the model state of a version from the chain of its parents.

        Raises:
            StoreError: a file of the chain is missing, damaged or does not fit.
        """
        from editing.memory.state import EditState

        state = EditState()
        for manifest in self._chain(version):
            facts = [_fact(fact) for fact in manifest["facts_added"]]
            columns = self._read(manifest, FACTS)
            if not EditState(tuple(facts), columns=columns).fits:
                raise StoreError(f"version {manifest['version']}: {FACTS} does not fit its list of facts")
            state = EditState() if manifest["snapshot"] else state.without(manifest["facts_removed"])
            state = state.with_columns(facts, columns)
        return EditState(facts=state.facts, factors=self.load_factors(version), columns=state.columns)

    def load_factors(self, version: str) -> "dict[str, tuple[Tensor, Tensor]]":
        """Tensor name → (A [d, n], B [d_in, n]) of a version; none of the base.

        Raises:
            StoreError: the version is missing or damaged.
        """
        if version == BASE_VERSION:
            return {}
        tensors = self._read(self.manifest(version), FACTORS)
        try:
            return {name: (tensors[f"{name}/A"], tensors[f"{name}/B"]) for name in _names(tensors)}
        except KeyError as error:
            raise StoreError(f"version {version}: {FACTORS} lacks {error}; restore it") from error

    def _chain(self, version: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while version != BASE_VERSION:
            found.append(self.manifest(version))
            if found[-1]["snapshot"]:
                break
            parent = found[-1]["parent"] or BASE_VERSION
            if parent >= version:
                raise StoreError(f"version {version} names {parent} as its parent; restore its manifest")
            version = parent
        return found[::-1]

    def _read(self, manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
        from editing.memory.delta import read_tensors

        version = manifest["version"]
        try:
            return read_tensors(self.path(version) / name, manifest["files"][name])
        except (DeltaError, KeyError) as error:
            raise StoreError(f"version {version}: {error}") from error

    def weight_sha256(self, version: str) -> dict[str, str]:
        """Tensor name → sha256 of the weight that the version stands for; empty for the base."""
        if version == BASE_VERSION:
            return {}
        return {name: tensor["sha256"] for name, tensor in self.manifest(version)["tensors"].items()}

    def verify(self, version: str) -> dict[str, Any]:
        """Reads every file of the version and returns its manifest; raises StoreError on damage."""
        manifest = self.manifest(version)
        for name in manifest["files"]:
            self._read(manifest, name)
        return manifest

    def clean(self, keep: Collection[str]) -> list[str]:
        """Removes unfinished writes and versions not in `keep`; returns what was removed."""
        if not self.versions.is_dir():
            return []
        gone = [p for p in self.versions.iterdir() if p.name.startswith(".tmp-")]
        gone += [self.path(id) for id in self.ids() if id not in keep]
        for path in gone:
            shutil.rmtree(path)
        return [path.name for path in gone]


def _grown_from(parent: "EditState", state: "EditState") -> int | None:
    """Number of facts of `parent` when `state` is `parent` plus columns, bit for bit; else None."""
    import torch

    count = len(parent.facts)
    if not count:
        # Nothing to keep; an empty table may have columns of width 0 or none at all.
        return 0
    if parent.facts != state.facts[:count] or parent.columns.keys() != state.columns.keys():
        return None
    width = parent.width(count)
    same = all(torch.equal(column, state.columns[name][:, :width]) for name, column in parent.columns.items())
    return count if same else None


def _flat(factors: "Mapping[str, tuple[Tensor, Tensor]]") -> "dict[str, Tensor]":
    pairs = factors.items()
    return {f"{name}/{side}": factor for name, pair in pairs for side, factor in zip("AB", pair, strict=True)}


def _names(tensors: Mapping[str, Any]) -> list[str]:
    return [name.removesuffix("/A") for name in tensors if name.endswith("/A")]


def _fact_json(fact: "Fact") -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": fact.id,
        "subject": fact.subject,
        "prompt": fact.prompt,
        "target": fact.target,
    }
    # Left out where there are none: the manifest of a fact with one form has not changed.
    wordings = {"questions": list(fact.questions), "paraphrases": list(fact.paraphrases)}
    return told | {name: texts for name, texts in wordings.items() if texts}


def _fact(fields: Mapping[str, Any]) -> "Fact":
    from editing.facts import Fact

    texts = (tuple(fields.get(name, ())) for name in ("questions", "paraphrases"))
    return Fact(fields["subject"], fields["prompt"], fields["target"], fields["id"], *texts)


def write_synced(path: Path, content: bytes) -> None:
    """Writes a file and forces it to disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Forces a directory's entries to disk: after a rename in it, say."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
