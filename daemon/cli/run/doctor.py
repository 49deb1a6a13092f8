"""`factd doctor`: checks the environment."""

import math
import time

import typer

from daemon.cli.exits import Exit
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import show_json, show_table
from daemon.cli.reporting import reported
from daemon.core.settings import Settings
from daemon.http.status_page import truth_of
from daemon.ledger.ledger import Ledger
from daemon.publish.reports import open_reports
from daemon.supervise.doctor import SERVED, WORKER, Check, check_served, examine
from daemon.supervise.running import find_running, settings_for


def doctor(state: StateOption = None, as_json: JsonOption = False) -> None:
    """Check the environment and say what to mend."""
    with reported(as_json):
        settings = settings_for(state)
        running = find_running(settings.state_dir)
        known = running is not None or "redis_url" in settings.model_fields_set
        urls = {f"vLLM {i}": f"{url}/health" for i, url in enumerate(settings.replicas)}
        if running is not None:
            urls["API"] = f"{running.api_url}/readyz"
        broker = settings.redis_url if known else None
        newest, keys = _newest_entry(settings), settings.keys
        checks = list(examine(settings.model, settings.state_dir, broker, urls, newest, keys))
        checks += _served(settings)
    ok = all(check.ok or not check.needed for check in checks)
    if as_json:
        show_json({"ok": ok, "checks": [check.__dict__ for check in checks]})
    else:
        marks = {(True, True): "ok", (True, False): "ok", (False, True): "MEND", (False, False): "note"}
        rows = [(marks[c.ok, c.needed], c.name, c.found, "" if c.ok else c.mend) for c in checks]
        show_table("Environment", ("", "check", "found", "what to do"), rows)
    if not ok:
        broken = {check.name for check in checks if check.needed and not check.ok}
        raise typer.Exit(int(_exit(broken, {"broker", "API", "vLLM", *urls})))


def _exit(broken: set[str], services: set[str]) -> Exit:
    told = {name for name in broken if name.startswith((SERVED, WORKER))}
    if broken == told:
        return Exit.OUT_OF_SYNC
    return Exit.UNAVAILABLE if broken - told <= services else Exit.FAILED


def _served(settings: Settings) -> list[Check]:
    """What each replica serves beside what is live, and whether workers live; nothing without a ledger."""
    if not _has_ledger(settings):
        return []
    ledger = Ledger.open(settings.ledger_url)
    try:
        truth = truth_of(ledger, open_reports(settings), ledger.questions.status())
    finally:
        ledger.close()
    return list(check_served(truth))


def _has_ledger(settings: Settings) -> bool:
    return settings.database_url is not None or (settings.state_dir / "ledger.sqlite3").exists()


def _newest_entry(settings: Settings) -> float:
    """Time of the ledger's newest change, if it lies in the future; otherwise minus infinity."""
    if not _has_ledger(settings):
        return -math.inf
    ledger = Ledger.open(settings.ledger_url)
    try:
        return max(
            (change.at for change in ledger.questions.transitions(since=time.time())), default=-math.inf
        )
    finally:
        ledger.close()
