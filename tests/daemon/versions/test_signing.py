"""Signed versions: who can write one, who refuses which, and how keys are changed."""

import json
import re
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from daemon.cli.main import app
from daemon.core.errors import SettingsError, StoreError
from daemon.core.settings import load_settings
from daemon.plugin.staging import StagingError, admit
from daemon.supervise.doctor import check_key
from daemon.versions.format import (
    SIGNATURE_FILE,
    FormatError,
    check_signature,
    key_id,
    parse_keys,
    public_half,
    sign_manifest,
)
from daemon.versions.keys import KeyRing, accepted_keys, told_keys, writers_key
from daemon.versions.manifests import Manifests
from daemon.versions.store import Store

PAGE = Path(__file__).parents[3] / "docs" / "format.md"
ONE, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
CONTENT = b'{"schema": 1, "version": "v000001"}'


@pytest.fixture
def signed(world):
    """The world with two versions, whose writer signs with ONE."""
    world.store.signer = ONE
    for subject in "AC":
        world.post(subject, "B")
        world.run()
    return world


def admitted(world, *keys):
    return admit(world.settings.store_dir, "v000002", 99, None, set(), [public_half(key) for key in keys])


def test_the_signature_of_the_page_is_the_programs():
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    page = PAGE.read_text()
    assert public_half(key) in page
    line = sign_manifest(b"{}", key).decode().strip()
    assert re.sub(r"\s+", "", line) in re.sub(r"\s+", "", page)


def test_only_the_bytes_that_were_signed_pass():
    line, keys = sign_manifest(CONTENT, ONE), [public_half(ONE)]
    check_signature(CONTENT, line, keys)
    for at in range(len(CONTENT)):
        changed = CONTENT[:at] + bytes([CONTENT[at] ^ 1]) + CONTENT[at + 1 :]
        with pytest.raises(FormatError, match="does not fit"):
            check_signature(changed, line, keys)


@pytest.mark.parametrize(
    ("signatures", "message"),
    [
        (None, "not signed"),
        (b"", "signed by key none"),
        (sign_manifest(CONTENT, OTHER), "signed by key"),
        (sign_manifest(CONTENT + b" ", ONE), "does not fit"),
        (b"ed25519 " + key_id(public_half(ONE)).encode() + b" 00\n", "malformed"),
        (b"\xff\xfe", "malformed"),
        (sign_manifest(CONTENT, ONE).replace(b"ed25519", b"none"), "malformed"),
        # a signature of the bare bytes is one of something else
        (f"ed25519 {key_id(public_half(ONE))} {ONE.sign(CONTENT).hex()}\n".encode(), "does not fit"),
    ],
)
def test_what_is_not_signed_by_an_accepted_key_is_refused(signatures, message):
    with pytest.raises(FormatError, match=message):
        check_signature(CONTENT, signatures, [public_half(ONE)])
    check_signature(CONTENT, signatures, [])  # no key is set


def test_several_keys_and_several_signatures_make_a_rotation():
    both = sign_manifest(CONTENT, OTHER) + sign_manifest(CONTENT, ONE)
    for accepted in ([ONE], [OTHER], [ONE, OTHER]):
        check_signature(CONTENT, both, [public_half(key) for key in accepted])
    check_signature(CONTENT, sign_manifest(CONTENT, ONE), [public_half(OTHER), public_half(ONE)])


@pytest.mark.parametrize("text", ["abc", "g" * 64, public_half(ONE) + "0", f"{public_half(ONE)};x"])
def test_what_is_no_key_is_named(text):
    with pytest.raises(FormatError, match="64 hex digits"):
        parse_keys(text)


def test_keys_are_given_as_text_or_as_a_file(tmp_path):
    one, other = public_half(ONE), public_half(OTHER)
    file = tmp_path / "keys"
    file.write_text(f"# new\n{one.upper()}\n\n{other}  # until May\n{one}\n")
    assert told_keys(f"{one}, {other}") == told_keys(str(file)) == (one, other)
    assert told_keys("") == ()
    with pytest.raises(SettingsError, match="no such file"):
        told_keys(str(tmp_path / "nothing"))
    file.write_text("not a key")
    with pytest.raises(SettingsError, match="keys: 'not'"):
        told_keys(str(file))


# -- versions ---------------------------------------------------------------------------------------


def test_a_replica_takes_versions_of_an_accepted_key_and_no_other(signed):
    assert admitted(signed, ONE)["version"] == "v000002"
    assert admitted(signed, OTHER, ONE)["version"] == "v000002"
    assert admitted(signed)["version"] == "v000002"
    with pytest.raises(StagingError, match="signed by key") as error:
        admitted(signed, OTHER)
    assert error.value.code == "refused"


@pytest.mark.parametrize("version", ["v000002", "v000001"])
@pytest.mark.parametrize("how", ["changed", "unsigned", "another's", "a link"])
def test_a_version_or_an_ancestor_that_was_tampered_with_is_refused(signed, version, how):
    folder = signed.store.path(version)
    manifest, signature = folder / "manifest.json", folder / SIGNATURE_FILE
    if how == "changed":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"created": 0.0}))
    elif how == "another's":
        shutil.copy(
            signed.store.path("v000001" if version == "v000002" else "v000002") / SIGNATURE_FILE, folder
        )
    else:
        signature.unlink()
    if how == "a link":
        signature.symlink_to(signed.root / "nowhere")
    with pytest.raises(StagingError):
        admitted(signed, ONE)
    with pytest.raises(StoreError):
        Store(signed.settings.store_dir, [public_half(ONE)]).manifest(version)


def test_the_applier_itself_restores_nothing_that_is_not_signed(signed):
    (signed.store.path("v000002") / SIGNATURE_FILE).unlink()
    with pytest.raises(StoreError, match="not signed"):
        Store(signed.settings.store_dir, [public_half(ONE)]).load_state("v000002")


def test_nobody_else_can_read_a_version(signed):
    folder = signed.store.path("v000002")
    assert folder.stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}
    assert (folder / SIGNATURE_FILE).exists()


# -- keys -------------------------------------------------------------------------------------------


def test_the_first_start_makes_a_key_and_signs_what_is_there(world):
    world.post("A", "B")
    world.run()
    world.store.path("v000001").chmod(0o755)
    key = writers_key(world.settings)
    ring = KeyRing(world.settings.keys)
    assert ring.public == (public_half(key),) == accepted_keys(world.settings)
    assert (ring.directory / "version.key").stat().st_mode & 0o777 == 0o600
    assert (ring.directory / "version.pub").stat().st_mode & 0o777 == 0o644
    Manifests(world.settings.store_dir, ring.public).manifest("v000001")
    assert world.store.path("v000001").stat().st_mode & 0o777 == 0o750
    again = writers_key(world.settings)
    assert public_half(again) == public_half(key)


def test_a_later_start_signs_nothing_that_somebody_put_there(world):
    writers_key(world.settings)
    world.post("A", "B")
    world.run()  # this world's store has no signer
    writers_key(world.settings)
    with pytest.raises(StoreError, match="not signed"):
        Manifests(world.settings.store_dir, accepted_keys(world.settings)).manifest("v000001")


def test_a_key_that_was_moved_away_is_replaced_and_its_versions_stay_accepted(world):
    world.store.signer = old = writers_key(world.settings)
    world.post("A", "B")
    world.run()
    (world.settings.keys / "version.key").unlink()
    new = writers_key(world.settings)
    assert accepted_keys(world.settings) == (public_half(new), public_half(old))
    manifests = Manifests(world.settings.store_dir, accepted_keys(world.settings))
    manifests.manifest("v000001")
    manifests.sign("v000001", new)
    manifests.sign("v000001", new)
    for key in (old, new):
        Manifests(world.settings.store_dir, [public_half(key)]).manifest("v000001")
    assert len((world.store.path("v000001") / SIGNATURE_FILE).read_text().splitlines()) == 2


def test_signing_leaves_out_what_is_no_signature(world):
    world.post("A", "B")
    world.run()
    (world.store.path("v000001") / SIGNATURE_FILE).write_bytes(b"\xffgarbage\n" + sign_manifest(b"", OTHER))
    world.store.sign("v000001", ONE)
    Manifests(world.settings.store_dir, [public_half(ONE)]).manifest("v000001")
    assert len((world.store.path("v000001") / SIGNATURE_FILE).read_text().splitlines()) == 2


def test_a_damaged_key_is_named_and_not_replaced(world):
    writers_key(world.settings)
    (world.settings.keys / "version.key").write_text("half a ke")
    with pytest.raises(SettingsError, match="holds no private key"):
        writers_key(world.settings)


def test_keys_of_the_setting_are_accepted_too(tmp_path):
    settings = load_settings(state_dir=tmp_path, version_key=public_half(OTHER), keys_dir=tmp_path / "apart")
    own = writers_key(settings)
    assert accepted_keys(settings) == (public_half(own), public_half(OTHER))
    assert (tmp_path / "apart" / "version.key").exists()


def test_the_doctor_tells_the_public_half_and_a_key_that_others_can_read(tmp_path):
    settings = load_settings(state_dir=tmp_path)
    assert check_key(settings.keys).ok
    key = writers_key(settings)
    assert public_half(key) in check_key(settings.keys).found
    (settings.keys / "version.key").chmod(0o644)
    assert not check_key(settings.keys).ok


# -- factd audit ------------------------------------------------------------------------------------


@pytest.fixture
def audited(world, monkeypatch):
    """A function: exit code and JSON of `factd audit` on a world whose writer has a key."""
    monkeypatch.setenv("FACTD_STATE_DIR", str(world.root))
    world.store.signer = writers_key(world.settings)
    world.post("A", "B")
    world.run()

    def audit(*words):
        done = CliRunner().invoke(app, ["audit", "--json", *words])
        return done.exit_code, json.loads(done.stdout)

    return audit


def test_the_audit_passes_what_is_signed(world, audited):
    code, view = audited()
    assert (code, view["valid"], view["signatures"]["refused"]) == (0, True, {})
    assert view["signatures"]["keys"] == [key_id(public_half(world.store.signer))]
    assert "all signed by key" in CliRunner().invoke(app, ["audit"]).stdout


def test_the_audit_names_what_is_not_and_signs_it_when_told(world, audited):
    (world.store.path("v000001") / SIGNATURE_FILE).unlink()
    code, view = audited()
    assert (code, view["valid"]) == (1, False)
    assert "not signed" in view["signatures"]["refused"]["v000001"]
    assert audited("--sign")[0] == 0
    assert audited()[0] == 0


def test_without_a_key_the_audit_says_that_nothing_is_signed(world, monkeypatch):
    monkeypatch.setenv("FACTD_STATE_DIR", str(world.root))
    world.post("A", "B")
    world.run()
    done = CliRunner().invoke(app, ["audit"])
    assert done.exit_code == 0
    assert "1 versions, not signed" in done.stdout
    assert CliRunner().invoke(app, ["audit", "--sign"]).exit_code == 2
