"""What the versions on disk say of themselves. No torch: the HTTP API reads this too."""

import os
from collections.abc import Collection
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daemon.core.errors import StoreError
from daemon.core.publication import BASE_VERSION
from daemon.versions.durable import sync_directory, write_synced
from daemon.versions.format import (
    MANIFEST_FILE,
    MAX_SIGNATURE_BYTES,
    SIGNATURE_FILE,
    FormatError,
    Manifest,
    check_signature,
    is_version,
    parent_of,
    parse_manifest,
    sign_manifest,
    well_formed,
)
from editing.errors import DeltaError
from editing.memory.files import MAX_MANIFEST_BYTES, read_regular

#: The writer reads and writes, servers of its group read, nobody else does: edited subjects can be read back
#: from the factors (arXiv 2602.10134).
FILE_MODE, FOLDER_MODE = 0o640, 0o750


def close_to_others(folder: Path) -> None:
    """Lets only the owner and the group read a version or an adapter."""
    for path in folder.iterdir():
        path.chmod(FILE_MODE)
    folder.chmod(FOLDER_MODE)


def read_signatures(folder: Path) -> bytes | None:
    """The bytes of a version's manifest.sig; None where there is none.

    Raises:
        DeltaError: it is no plain file, or too large.
    """
    path = folder / SIGNATURE_FILE
    # A link counts as there, also one that leads nowhere: it is refused where it is read.
    return read_regular(path, MAX_SIGNATURE_BYTES) if os.path.lexists(path) else None


class Manifests:
    """The manifests in the directory `root/versions`.

    Args:
        keys: public keys of which one must have signed a manifest; none: every manifest is taken.
    """

    def __init__(self, root: Path, keys: Collection[str] = ()) -> None:
        self.root, self.keys = Path(root), tuple(keys)
        self.versions = self.root / "versions"

    def path(self, version: str) -> Path:
        """Raises StoreError when `version` is not the name of a version."""
        if not is_version(version):
            raise StoreError(f"{version!r} is not a version; they are named like v000012")
        return self.versions / version

    def ids(self) -> list[str]:
        """All versions on disk, oldest first."""
        if not self.versions.is_dir():
            return []
        return sorted(path.name for path in self.versions.iterdir() if is_version(path.name))

    def manifest(self, version: str) -> Manifest:
        """Raises StoreError when the version is missing, unreadable, unsigned, or of another schema."""
        path = self.path(version) / MANIFEST_FILE
        try:
            content = read_regular(path, MAX_MANIFEST_BYTES)
            if self.keys:
                check_signature(content, read_signatures(self.path(version)), self.keys)
            return parse_manifest(content, version)
        except (DeltaError, FormatError) as error:
            raise StoreError(
                f"version {version} cannot be read: {error}; restore {path} from a backup, or use the factd "
                "that wrote it"
            ) from error

    def sign(self, version: str, private: Ed25519PrivateKey) -> None:
        """Signs a version that is there, beside what others have signed, and closes its files to others.

        Raises:
            StoreError: it is missing or malformed.
        """
        path = self.path(version)
        try:
            content = read_regular(path / MANIFEST_FILE, MAX_MANIFEST_BYTES)
            parse_manifest(content, version)
            known, line = well_formed(read_signatures(path) or b""), sign_manifest(content, private)
        except (DeltaError, FormatError) as error:
            raise StoreError(f"version {version} cannot be signed: {error}") from error
        if line not in known:
            work = path / f".{SIGNATURE_FILE}"
            write_synced(work, b"".join([line, *known]))
            os.replace(work, path / SIGNATURE_FILE)
            sync_directory(path)
        close_to_others(path)

    def ancestry(self, version: str) -> list[Manifest]:
        """Manifests from the newest snapshot, or the first version, to this one: all that its facts need.

        Raises:
            StoreError: one of them is missing, unreadable, or names a parent that is not older.
        """
        found: list[Manifest] = []
        while version != BASE_VERSION:
            found.append(self.manifest(version))
            if found[-1]["snapshot"]:
                break
            parent = parent_of(found[-1])
            if parent >= version:
                raise StoreError(f"version {version} names {parent} as its parent; restore its manifest")
            version = parent
        return found[::-1]

    def weight_sha256(self, version: str) -> dict[str, str]:
        """Tensor name → sha256 of the weight that the version stands for; empty for the base."""
        if version == BASE_VERSION:
            return {}
        return {name: tensor["sha256"] for name, tensor in self.manifest(version)["tensors"].items()}
