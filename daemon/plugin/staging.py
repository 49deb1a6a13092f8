"""Reads a version from the store and checks it, before any served weight is touched.

Runs inside the vLLM process. A version is named by its id, never by a path; what is read must lie under the
store's root and be no symbolic link.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from daemon.core.publication import BASE_VERSION
from daemon.versions.format import (
    ADDED_FILE,
    FACTORS_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    FormatError,
    Manifest,
    TensorEntry,
    base_manifest,
    check_signature,
    is_version,
    parent_of,
    parse_manifest,
)
from daemon.versions.manifests import read_signatures
from editing.errors import DeltaError
from editing.memory.delta import joined, materialise, read_tensors, tensor_sha256
from editing.memory.files import MAX_MANIFEST_BYTES, read_regular
from editing.model.families import family_at
from editing.quantised import quantisation_of
from editing.typed import opened

#: Number formats whose values are the weights themselves; all others are codes that need a scale.
WEIGHTS = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
SERVE_FLOAT = "serve the float checkpoint, or quantise it with this projection in the list `ignore`"


class StagingError(Exception):
    """Raised when a version must not be served.

    Attributes:
        code: "missing" (no such version), "refused" (damaged, foreign or malformed) or "stale_fence"
            (a newer writer wrote it).
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True)
class Staged:
    """A version ready to be swapped in.

    Attributes:
        version: its id.
        tensors: checkpoint name -> tensor in the served dtype; absolute values.
        sha256: checkpoint name -> hash of the float32 master; empty for the base.
    """

    version: str
    tensors: dict[str, Tensor]
    sha256: dict[str, str]


@dataclass
class Held:
    """The factors of the version that was staged last. Of a version that grew from it, only the added
    factors are read.

    Attributes:
        sha256: of the file that they were read from, or that holds the same.
        factors: "<tensor>/A" and "<tensor>/B".
    """

    sha256: str | None = None
    factors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


class Checkpoint:
    """The base weights on disk: a Hugging Face directory with safetensors, whole or sharded."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.family = directory, family_at(directory)

    def read(self, name: str) -> Tensor:
        """Returns one FFN output projection W [d, d_in], under the name that it has in the model.

        Raises:
            StagingError: the checkpoint has no such tensor, or holds codes in its place.
        """
        tensor = self._stored(name)
        if tensor.dtype not in WEIGHTS:
            raise self._quantised(name, f"it is stored as {str(tensor.dtype).removeprefix('torch.')}")
        return self.family.turned(tensor)

    def _stored(self, name: str) -> Tensor:
        index = self.directory / "model.safetensors.index.json"
        short = name.removeprefix(self.family.prefix)
        try:
            if index.exists():
                files: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
                known = name if name in files else short
                with opened(self.directory / files[known]) as tensors:
                    return tensors.get_tensor(known)
            with opened(self.directory / "model.safetensors") as tensors:
                return tensors.get_tensor(name if name in tensors.keys() else short)  # noqa: SIM118
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            told = quantisation_of(self.directory)
            if told is not None:
                raise self._quantised(name, told) from error
            raise StagingError("refused", f"the served checkpoint has no tensor {name}: {error}") from error

    def _quantised(self, name: str, why: str) -> StagingError:
        return StagingError("refused", f"{name} is quantised in the served checkpoint ({why}); {SERVE_FLOAT}")


def version_directory(store: Path, version: str) -> Path:
    """Resolves a version id under the store's root.

    Raises:
        StagingError: the id is malformed, absent, or leads out of the store.
    """
    if not is_version(version):
        raise StagingError("refused", f"{version[:20]!r} is not a version id such as v000012")
    directory = store / "versions" / version
    if directory.is_symlink():
        raise StagingError("refused", f"{version} is a symbolic link")
    if not directory.is_dir():
        raise StagingError("missing", f"there is no {version} in the store; write the version first")
    return directory


def read_manifest(directory: Path, base_hash: str | None, keys: Collection[str] = ()) -> Manifest:
    """Reads and checks manifest.json.

    Args:
        keys: public keys of which one must have signed it; none: signatures are not looked at.

    Raises:
        StagingError: it breaks the rules of `daemon.versions.format`, none of the keys has signed it, or it
            is of another base model.
    """
    version = directory.name
    try:
        content = read_regular(directory / MANIFEST_FILE, MAX_MANIFEST_BYTES)
        if keys:
            check_signature(content, read_signatures(directory), keys)
        manifest = parse_manifest(content, version)
    except (DeltaError, FormatError) as error:
        raise StagingError("refused", str(error)) from error
    if base_hash and manifest["base_hash"] != base_hash:
        made_for = manifest["base_hash"][:12]
        raise StagingError(
            "refused", f"{version} was made for base {made_for!a}…, served is {base_hash[:12]}…"
        )
    return manifest


def admit(
    store: Path,
    version: str,
    fence: int,
    base_hash: str | None,
    sound: set[str],
    keys: Collection[str] = (),
) -> Manifest:
    """The manifest of a version that the writer with this fence may publish.

    Every ancestor must be in the store, older than its child, made for the same base, and written under a
    fence that is not newer. So a writer that lost its lease cannot build on versions of the newer writer.

    Args:
        base_hash: of the served model, if known.
        sound: versions whose ancestry was checked before; those checked now are added. A version never
            changes, so each is read once.
        keys: as of `read_manifest`.

    Raises:
        StagingError: the version must not be served.
    """
    if version == BASE_VERSION:
        return base_manifest()
    asked = manifest = read_manifest(version_directory(store, version), base_hash, keys)
    if manifest["fence"] > fence:
        raise StagingError(
            "stale_fence", f"{version} was written under fence {manifest['fence']}, this writer has {fence}"
        )
    met = [version]
    while manifest["version"] not in sound and parent_of(manifest) != BASE_VERSION:
        manifest = _parent(store, manifest, keys)
        met.append(manifest["version"])
    sound.update(met)
    return asked


def _parent(store: Path, manifest: Manifest, keys: Collection[str]) -> Manifest:
    version, parent = manifest["version"], parent_of(manifest)
    if not BASE_VERSION < parent < version:
        raise StagingError("refused", f"{version} names {parent[:20]!r} as its parent, which is not older")
    try:
        found = read_manifest(version_directory(store, parent), manifest["base_hash"], keys)
    except StagingError as error:
        raise StagingError("refused", f"the parent of {version} cannot be used: {error}") from error
    if found["fence"] > manifest["fence"]:
        raise StagingError(
            "refused",
            f"{version} was written under fence {manifest['fence']}, its parent {parent} under the newer "
            f"{found['fence']}: its writer had lost the lease",
        )
    return found


def _factors(directory: Path, manifest: Manifest, held: Held) -> dict[str, Tensor]:
    files, parent = manifest["files"], manifest.get("grown_from")
    grown = ADDED_FILE in files and parent is not None and parent == held.sha256
    name = ADDED_FILE if grown else FACTORS_FILE
    read = read_tensors(directory / name, files[name])
    return joined(held.factors, read) if grown else read


def _master(
    name: str,
    entry: TensorEntry,
    factors: dict[str, Tensor],
    whole: dict[str, Tensor],
    checkpoint: Checkpoint,
) -> Tensor:
    """The float32 weight: as it was sent where it was sent whole, else from the base and the factors."""
    base = checkpoint.read(name)
    if list(base.shape) != list(entry["shape"]):
        raise StagingError(
            "refused", f"{name} has shape {list(base.shape)} here, {entry['shape']} in the manifest"
        )
    if tensor_sha256(base.float()) != entry["base_sha256"]:
        raise StagingError("refused", f"{name}: the version was made from other base weights")
    if f"{name}/A" not in factors or f"{name}/B" not in factors:
        raise StagingError("refused", f"{name}: a factor is missing from {FACTORS_FILE}")
    a, b = factors[f"{name}/A"], factors[f"{name}/B"]
    master = whole[name] if name in whole else materialise(base, a, b)
    if tensor_sha256(master) != entry["sha256"]:
        raise StagingError(
            "refused",
            f"{name}: the resulting weight has another hash than the manifest; if this processor sums in "
            "another order than the apply worker's, set FACTD_FULL_TENSORS=true there",
        )
    return master


def to_served(name: str, master: Tensor, dtype: torch.dtype) -> Tensor:
    """Casts to the served dtype; refuses what would become infinite there."""
    served = master.to(dtype)
    if not torch.isfinite(served).all():
        raise StagingError("refused", f"{name} is not finite as {dtype}")
    return served


def stage_version(
    store: Path, manifest: Manifest, checkpoint: Checkpoint, dtype: torch.dtype, held: Held | None = None
) -> Staged:
    """Materialises every tensor of an admitted version and checks every hash.

    The base version needs no directory and has no tensors of its own.

    Args:
        held: what the caller keeps from one version to the next; nothing is trusted that it did not verify.

    Raises:
        StagingError: the version must not be served; nothing was changed.
    """
    version = manifest["version"]
    if version == BASE_VERSION:
        return Staged(version, {}, {})
    directory = version_directory(store, version)
    held = held or Held()
    tensors: dict[str, Tensor] = {}
    whole: dict[str, Tensor] = {}
    try:
        factors = _factors(directory, manifest, held)
        if WEIGHTS_FILE in manifest["files"]:
            whole = read_tensors(directory / WEIGHTS_FILE, manifest["files"][WEIGHTS_FILE])
        for name, entry in manifest["tensors"].items():
            tensors[name] = to_served(name, _master(name, entry, factors, whole, checkpoint), dtype)
        extra = ({key.rpartition("/")[0] for key in factors} | set(whole)) - set(tensors)
        if extra:
            raise StagingError("refused", f"{version} holds tensors that its manifest does not name: {extra}")
    except DeltaError as error:
        raise StagingError("refused", str(error)) from error
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise StagingError("refused", f"the manifest of {version} is malformed: {error!r}") from error
    held.sha256, held.factors = manifest["files"][FACTORS_FILE], factors
    return Staged(version, tensors, {name: manifest["tensors"][name]["sha256"] for name in tensors})
