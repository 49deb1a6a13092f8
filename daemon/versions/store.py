"""Versions on disk: immutable directories, written whole or not at all, checked by hash when read."""

import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daemon.core.errors import StoreError
from daemon.core.publication import BASE_VERSION
from daemon.versions.durable import sync_directory, write_synced
from daemon.versions.format import (
    ADDED_FILE,
    FACTORS_FILE,
    FACTS_FILE,
    MANIFEST_FILE,
    MANIFEST_SCHEMA,
    WEIGHTS_FILE,
    FactEntry,
    Manifest,
    TensorEntry,
    encode_manifest,
)
from daemon.versions.manifests import Manifests
from editing.errors import DeltaError, FactError
from editing.facts import Fact
from editing.memory.delta import added, read_tensors, write_tensors
from editing.memory.state import EditState


@dataclass(frozen=True)
class Draft:
    """What a manifest says, except for the hashes of the files.

    Attributes:
        tensors: tensor name → its entry in the manifest.
        weights: tensor name → the resulting float32 weight, for replicas that cannot rebuild it bit for bit
            from the factors. Empty when they can: then what is written grows with the new facts only.
    """

    version: str
    parent: str
    base_hash: str
    settings_hash: str
    tensors: Mapping[str, TensorEntry]
    fence: int
    created: float
    verdict: Mapping[str, Any] = field(default_factory=dict[str, Any])
    measurements: Mapping[str, Any] = field(default_factory=dict[str, Any])
    weights: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


class Store(Manifests):
    """The directory `root/versions`: writes versions, and reads their tensors."""

    def write(
        self, draft: Draft, state: EditState, before_rename: Callable[[], None] = lambda: None
    ) -> Manifest:
        """Writes a version to a temporary sibling, forces it to disk, renames it; returns the manifest.

        A directory of the same name is replaced: it is what an attempt left that the ledger never recorded.

        Args:
            before_rename: called when the files are complete under the temporary name.

        Raises:
            StoreError: the parent is damaged or of another base, or a newer applier wrote in its place.
        """
        self._check_parent(draft)
        target = self.path(draft.version)
        work = self.versions / f".tmp-{draft.version}-{draft.fence}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        manifest = self._write_files(work, draft, state)
        write_synced(work / MANIFEST_FILE, encode_manifest(manifest))
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

    def _write_files(self, work: Path, draft: Draft, state: EditState) -> Manifest:
        parent = self.load_state(draft.parent)
        removed = [id for id in parent.ids if id not in set(state.ids)]
        first = _grown_from(parent.without(removed), state)
        # A solve that rewrote the columns of older facts: the parent's are of no use, so all are written.
        snapshot = first is None
        first = first or 0
        files = {}
        metadata = {"version": draft.version, "schema": str(MANIFEST_SCHEMA)}
        factors, grown_from = _flat(state.factors), None
        files[FACTORS_FILE] = write_tensors(work / FACTORS_FILE, factors, metadata)
        new = added(factors, _flat(parent.factors)) if parent.factors else None
        if new is not None:
            # A replica that holds the parent's factors reads only these. A version is still whole without.
            files[ADDED_FILE] = write_tensors(work / ADDED_FILE, new, metadata)
            grown_from = self.manifest(draft.parent)["files"][FACTORS_FILE]
        width = state.width(first)
        columns = {name: column[:, width:].clone() for name, column in state.columns.items()}
        files[FACTS_FILE] = write_tensors(work / FACTS_FILE, columns, metadata)
        if draft.weights:
            files[WEIGHTS_FILE] = write_tensors(work / WEIGHTS_FILE, draft.weights, metadata)
        return {
            "schema": MANIFEST_SCHEMA,
            "version": draft.version,
            "parent": draft.parent,
            "base_hash": draft.base_hash,
            "settings_hash": draft.settings_hash,
            "tensors": {name: tensor.copy() for name, tensor in draft.tensors.items()},
            "files": files,
            "grown_from": grown_from,
            "snapshot": snapshot,
            "facts_added": [_entry(fact) for fact in state.facts[first:]],
            "facts_removed": [] if snapshot else removed,
            "verdict": dict(draft.verdict),
            "measurements": dict(draft.measurements),
            "fence": draft.fence,
            "created": draft.created,
        }

    def load_state(self, version: str) -> EditState:
        """Rebuilds the model state of a version from its ancestry.

        Raises:
            StoreError: a file of one of them is missing, damaged or does not fit.
        """
        state = EditState()
        for manifest in self.ancestry(version):
            facts = _facts(manifest)
            columns = self._read(manifest, FACTS_FILE)
            if not EditState(tuple(facts), columns=columns).fits:
                raise StoreError(
                    f"version {manifest['version']}: {FACTS_FILE} does not fit its list of facts"
                )
            state = EditState() if manifest["snapshot"] else state.without(manifest["facts_removed"])
            state = state.with_columns(facts, columns)
        return EditState(facts=state.facts, factors=self.load_factors(version), columns=state.columns)

    def load_factors(self, version: str) -> dict[str, tuple[Tensor, Tensor]]:
        """Tensor name → (A [d, n], B [d_in, n]) of a version; none of the base.

        Raises:
            StoreError: the version is missing or damaged.
        """
        if version == BASE_VERSION:
            return {}
        tensors = self._read(self.manifest(version), FACTORS_FILE)
        try:
            return {name: (tensors[f"{name}/A"], tensors[f"{name}/B"]) for name in _names(tensors)}
        except KeyError as error:
            raise StoreError(f"version {version}: {FACTORS_FILE} lacks {error}; restore it") from error

    def _read(self, manifest: Manifest, name: str) -> dict[str, Tensor]:
        version = manifest["version"]
        try:
            return read_tensors(self.path(version) / name, manifest["files"][name])
        except (DeltaError, KeyError) as error:
            raise StoreError(f"version {version}: {error}") from error

    def verify(self, version: str) -> Manifest:
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


def _grown_from(parent: EditState, state: EditState) -> int | None:
    """Number of facts of `parent` when `state` is `parent` plus columns, bit for bit; else None."""
    count = len(parent.facts)
    if not count:
        # Nothing to keep; an empty table may have columns of width 0 or none at all.
        return 0
    if parent.facts != state.facts[:count] or parent.columns.keys() != state.columns.keys():
        return None
    width = parent.width(count)
    same = all(torch.equal(column, state.columns[name][:, :width]) for name, column in parent.columns.items())
    return count if same else None


def _flat(factors: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    pairs = factors.items()
    return {f"{name}/{side}": factor for name, pair in pairs for side, factor in zip("AB", pair, strict=True)}


def _names(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name.removesuffix("/A") for name in tensors if name.endswith("/A")]


def _entry(fact: Fact) -> FactEntry:
    entry = FactEntry(id=fact.id, subject=fact.subject, prompt=fact.prompt, target=fact.target)
    # Left out where there are none: the manifest of a fact with one form has not changed.
    if fact.questions:
        entry["questions"] = list(fact.questions)
    if fact.paraphrases:
        entry["paraphrases"] = list(fact.paraphrases)
    return entry


def _facts(manifest: Manifest) -> list[Fact]:
    try:
        return [_fact(entry) for entry in manifest["facts_added"]]
    except FactError as error:
        raise StoreError(f"version {manifest['version']}: its manifest is damaged: {error}") from error


def _fact(fields: FactEntry) -> Fact:
    questions, paraphrases = tuple(fields.get("questions", ())), tuple(fields.get("paraphrases", ()))
    return Fact(fields["subject"], fields["prompt"], fields["target"], fields["id"], questions, paraphrases)
