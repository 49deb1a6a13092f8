"""`factd blame`: from an answer to the corrections behind it, and from a text to corrections and versions."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from daemon.cli.exits import CommandError, Exit
from daemon.cli.ledger import open_ledger
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import show_json, show_table
from daemon.core.publication import BASE_VERSION, UNPUBLISHED
from daemon.core.shapes import is_list
from daemon.http.views import correction_view
from daemon.ledger.ledger import Ledger
from daemon.ledger.rows import CorrectionRow, VersionRow

VERSION = re.compile(r"v\d{6}|default")


def blame(
    what: Annotated[str, typer.Argument(help="A version (the header X-Factd-Version), or any text.")],
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the corrections behind a version, or the corrections and versions behind a text."""
    with open_ledger(state, as_json) as (_, ledger):
        if VERSION.fullmatch(what):
            view = blame_version(ledger, BASE_VERSION if what == UNPUBLISHED else what)
            names = ("id", "prompt", "target", "since")
        else:
            view = blame_text(ledger, what)
            names = ("id", "prompt", "target", "state", "reason", "versions")
            if not view["corrections"]:
                mend = "give a subject, a target or an answer; `factd facts` lists what is live"
                raise CommandError(Exit.NOT_FOUND, f"no correction is about {what!r}", mend)
    if as_json:
        show_json(view)
        return
    rows = [[_cell(row[name]) for name in names] for row in view["corrections"]]
    title = f"{view['version']} ({view['state']}) holds" if "version" in view else f"About {what!r}"
    show_table(title, names, rows)


def blame_version(ledger: Ledger, id: str) -> dict[str, Any]:
    """The facts that a version holds, each with the version that wrote it, the newest first.

    Raises:
        UnknownIdError: there is no such version.
    """
    version = ledger.questions.version(id)
    since = {fact: row.id for row in ledger.questions.ancestry(id) for fact in row.added}
    rows = [ledger.questions.get(fact) for fact in reversed(ledger.questions.fact_ids(id))]
    return {
        "version": id,
        "parent": version.parent,
        "state": str(version.state),
        "reason": version.reason,
        "live_at": version.live_at,
        "added": list(version.added),
        "removed": list(version.removed),
        "corrections": [_view(row) | {"since": since[row.id]} for row in rows],
    }


def blame_text(ledger: Ledger, text: str) -> dict[str, Any]:
    """Corrections that a text is about, best match first, each with the versions that were live with it.

    A correction matches when the text holds its subject or its target, or when its prompt or its target
    holds the text. Only whole words count, in upper or lower case. A correction that matches with subject
    and target comes first.
    """
    versions = [row for row in ledger.questions.versions() if row.live_at is not None]
    found = [(matched, row) for row in ledger.questions.corrections() if (matched := _matches(row, text))]
    found.sort(key=lambda pair: len(pair[0]), reverse=True)
    return {
        "text": text,
        "corrections": [
            _view(row) | {"matched": matched, "versions": _held(versions, row.id)} for matched, row in found
        ],
    }


def _matches(row: CorrectionRow, text: str) -> list[str]:
    parts = {"subject": row.subject, "target": row.target}
    found = [name for name, part in parts.items() if _within(part, text)]
    return found or [name for name, part in {"prompt": row.text, "target": row.target}.items()
                     if _within(text, part)]  # fmt: skip


def _within(part: str, whole: str) -> bool:
    # Not \b, because a name may begin or end with a character that is no letter.
    return bool(part.strip()) and bool(
        re.search(rf"(?<!\w){re.escape(part.strip())}(?!\w)", whole, re.IGNORECASE)
    )


def _held(versions: Sequence[VersionRow], correction: str) -> list[str]:
    """Versions that were live with the correction, oldest first.

    A version holds what its parent holds, less `removed`, plus `added`.
    """
    holding: dict[str, bool] = {}
    for row in versions:  # a parent is older than its child
        inherited = holding.get(row.parent or "", False) and correction not in row.removed
        holding[row.id] = inherited or correction in row.added
    return [id for id, held in holding.items() if held]


def _view(row: CorrectionRow) -> dict[str, Any]:
    names = ("id", "subject", "prompt", "target", "state", "reason", "before", "after", "live_at")
    view = correction_view(row)
    return {name: view[name] for name in names} | {"source": row.source}


def _cell(value: object) -> object:
    return ", ".join(value) if is_list(value) else value
