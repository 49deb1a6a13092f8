"""The key that signs versions: made once, its private half for the writer alone. No torch."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daemon.core.errors import SettingsError, StoreError
from daemon.core.settings import Settings
from daemon.versions.durable import sync_directory
from daemon.versions.format import FormatError, parse_keys, public_half
from daemon.versions.manifests import Manifests

log = logging.getLogger("factd")

#: 64 hex digits each. `version.pub` also names older keys, the newest first.
PRIVATE, PUBLIC = "version.key", "version.pub"
#: The public keys that a server accepts, or a file of them.
VARIABLE = "FACTD_VERSION_KEY"


class KeyRing:
    """The keys in a directory: `version.key`, which signs, and `version.pub`, which servers are given."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def public(self) -> tuple[str, ...]:
        """Public keys, the newest first; none where no key was made yet.

        Raises:
            SettingsError: the file holds something else, or cannot be read.
        """
        path = self.directory / PUBLIC
        try:
            return _parsed(path.read_text(), path)
        except FileNotFoundError:
            return ()
        except OSError as error:
            mend = "let this user read it, or set FACTD_KEYS_DIR and FACTD_VERSION_KEY"
            raise SettingsError(f"{path} cannot be read ({error.strerror}); {mend}") from error

    def private(self) -> Ed25519PrivateKey | None:
        """The key that signs; None where no key was made yet.

        Raises:
            SettingsError: the file holds something else.
        """
        path = self.directory / PRIVATE
        if not path.exists():
            return None
        try:
            return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text().strip()))
        except ValueError as error:
            mend = (
                "restore it, or move it away: a new key is then made, and the old public one still accepted"
            )
            raise SettingsError(f"{path} holds no private key ({error}); {mend}") from error

    def keep(self, key: Ed25519PrivateKey) -> None:
        """Stores the key that signs from now on; the public halves of older ones stay accepted."""
        self.directory.mkdir(parents=True, exist_ok=True)
        # The public half first: whoever finds the private one finds both.
        if public_half(key) not in self.public:
            self._write(PUBLIC, "\n".join((public_half(key), *self.public)), 0o644)
        self._write(PRIVATE, key.private_bytes_raw().hex(), 0o600)

    def _write(self, name: str, text: str, mode: int) -> None:
        """Whole or not at all: a crash must leave no half of a key."""
        work = self.directory / f".{name}.{os.getpid()}"
        work.unlink(missing_ok=True)
        with open(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(work, self.directory / name)
        sync_directory(self.directory)


def writers_key(settings: Settings) -> Ed25519PrivateKey:
    """The key that signs versions. It is made at the first start, and where it was moved away.

    The first key also signs the versions that are there already: nothing has vouched for them so far, and
    servers would refuse them from then on.

    Raises:
        SettingsError: the file of the key holds something else.
    """
    ring = KeyRing(settings.keys)
    known = ring.private()
    if known is not None:
        return known
    key = Ed25519PrivateKey.generate()
    if not ring.public:
        sign_all(Manifests(settings.store_dir), key)
    ring.keep(key)
    return key


def sign_all(manifests: Manifests, key: Ed25519PrivateKey) -> list[str]:
    """Signs every version on disk; returns those that it could not sign."""
    left = []
    for version in manifests.ids():
        try:
            manifests.sign(version, key)
        except StoreError as error:  # damaged: no reader takes it, signed or not
            log.warning("%s", error)
            left.append(version)
    return left


def accepted_keys(settings: Settings) -> tuple[str, ...]:
    """The public keys whose versions are accepted: this state directory's own, and FACTD_VERSION_KEY's.

    Raises:
        SettingsError: the variable or a file holds something else.
    """
    return tuple(dict.fromkeys((*KeyRing(settings.keys).public, *told_keys(settings.version_key))))


def told_keys(value: str) -> tuple[str, ...]:
    """Public keys from FACTD_VERSION_KEY: hex digits, or the path of a file that holds them.

    Raises:
        SettingsError: neither.
    """
    path = Path(value.strip()).expanduser()
    if not path.is_absolute():
        return _parsed(value, VARIABLE)
    if not path.is_file():
        raise SettingsError(
            f"{VARIABLE} = {value!r}: no such file; mount it there, or give the keys themselves"
        )
    return _parsed(path.read_text(), path)


def _parsed(text: str, where: object) -> tuple[str, ...]:
    try:
        return parse_keys(text)
    except FormatError as error:
        raise SettingsError(f"{where}: {error}") from error


def as_variable(keys: Sequence[str]) -> str:
    """FACTD_VERSION_KEY for a server that accepts these keys."""
    return ",".join(keys)
