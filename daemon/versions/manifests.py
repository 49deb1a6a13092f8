"""What the versions on disk say of themselves. No torch: the HTTP API reads this too."""

from pathlib import Path

from daemon.core.errors import StoreError
from daemon.core.publication import BASE_VERSION
from daemon.versions.format import (
    MANIFEST_FILE,
    FormatError,
    Manifest,
    is_version,
    parent_of,
    parse_manifest,
)
from editing.errors import DeltaError
from editing.memory.files import MAX_MANIFEST_BYTES, read_regular


class Manifests:
    """The manifests in the directory `root/versions`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
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
        """Raises StoreError when the version is missing, unreadable, or of another schema."""
        path = self.path(version) / MANIFEST_FILE
        try:
            return parse_manifest(read_regular(path, MAX_MANIFEST_BYTES), version)
        except (DeltaError, FormatError) as error:
            raise StoreError(
                f"version {version} cannot be read: {error}; restore {path} from a backup, or use the factd "
                "that wrote it"
            ) from error

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
