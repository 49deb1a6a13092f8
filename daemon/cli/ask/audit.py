"""`factd audit`: are the ledger's record and the versions on disk what was written?"""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from daemon.cli.exits import CommandError, Exit
from daemon.cli.ledger import open_ledger
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import show_json, show_lines
from daemon.core.errors import StoreError
from daemon.core.settings import Settings
from daemon.ledger.audit import audit as verify
from daemon.versions.format import key_id
from daemon.versions.keys import KeyRing, accepted_keys, sign_all
from daemon.versions.manifests import Manifests


def audit(
    state: StateOption = None,
    sign: Annotated[
        bool, typer.Option("--sign", help="First sign every version with this state directory's key.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Verify the chain of all changes of state and the signatures of versions; exit code 1 when broken."""
    with open_ledger(state, as_json) as (settings, ledger):
        if sign:
            _sign(settings)
        found, signed = verify(ledger.database.engine), _signatures(settings)
        valid = found.valid and not signed["refused"]
        view = {"valid": valid, **asdict(found), "signatures": signed}
        if not valid:
            raise CommandError(Exit.FAILED, _what(view), _mend(found.valid), **view)
    if as_json:
        show_json(view)
    else:
        chain = f"valid: {found.rows} transitions, the last is {found.head.seq} {found.head.hash}"
        show_lines(f"{chain}\n{_told(signed)}")


def _sign(settings: Settings) -> None:
    key = KeyRing(settings.keys).private()
    if key is None:
        mend = "run it where the apply worker runs, or set FACTD_KEYS_DIR"
        raise CommandError(Exit.BAD_INPUT, f"there is no key in {settings.keys} to sign with", mend)
    sign_all(Manifests(settings.store_dir), key)


def _signatures(settings: Settings) -> dict[str, Any]:
    """Version → why it is refused, of those on disk; and the keys that are accepted."""
    keys = accepted_keys(settings)
    manifests, refused = Manifests(settings.store_dir, keys), {}
    for version in manifests.ids():
        try:
            manifests.manifest(version)
        except StoreError as error:
            refused[version] = str(error)
    return {"keys": [key_id(key) for key in keys], "versions": len(manifests.ids()), "refused": refused}


def _told(signed: dict[str, Any]) -> str:
    if not signed["keys"]:
        return f"{signed['versions']} versions, not signed: no key was made yet"
    return f"{signed['versions']} versions, all signed by key {' or '.join(signed['keys'])}"


def _mend(chain_valid: bool) -> str:
    if not chain_valid:
        return "keep it as it is and compare it with a backup"
    return "restore these versions from a backup; only if you know who wrote them, run `factd audit --sign`"


def _what(view: dict[str, Any]) -> str:
    lines = []
    if view["broken"] or view["strays"]:
        lines.append("the ledger is not what was written")
    if broken := view["broken"]:
        lines.append(f"transition {broken['seq']} ({broken['kind']} {broken['id']}): {broken['why']}")
    for stray in view["strays"]:
        told = stray["chained"] or "nothing"
        lines.append(f"{stray['kind']} {stray['id']} is {stray['state']}, the chain says {told}")
    lines += [f"{version} is refused: {why}" for version, why in view["signatures"]["refused"].items()]
    return "\n  ".join(lines)
