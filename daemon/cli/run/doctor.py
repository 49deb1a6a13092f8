"""`factd doctor`: checks the environment."""

import math
import time
from contextlib import closing

import typer
from sqlalchemy.exc import DBAPIError

from daemon.cli.exits import Exit
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import show_json, show_table
from daemon.cli.reporting import reported
from daemon.core.errors import DaemonError
from daemon.core.settings import Settings
from daemon.http.status_page import truth_of
from daemon.ledger.ledger import Ledger
from daemon.publish.reports import open_reports
from daemon.supervise.doctor import (
    SERVED,
    WORKER,
    Check,
    check_drafter,
    check_guard,
    check_ledger,
    check_ledger_clock,
    check_served,
    examine,
)
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
        ledger = _ledger_checks(settings)
        checks = list(examine(settings.model, settings.state_dir, broker, urls, ledger, settings.keys))
        checks.append(check_guard(settings))
        for i, url in enumerate(settings.replicas):
            checks += check_drafter(f"vLLM {i}", url)
        if all(check.ok for check in ledger):
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


def _ledger_checks(settings: Settings) -> list[Check]:
    """Opens the ledger, where there is one, as every other command does."""
    where = "FACTD_DATABASE_URL" if settings.database_url else str(settings.ledger_file)
    if settings.database_url is None and not settings.ledger_file.exists():
        return [check_ledger(where, "not made yet"), check_ledger_clock(-math.inf, time.time())]
    try:
        with closing(Ledger.open(settings.ledger_url)) as ledger:
            ahead = ledger.questions.transitions(since=time.time())
    except (DBAPIError, DaemonError) as error:
        fault = str(error.orig if isinstance(error, DBAPIError) else error)
        return [check_ledger(where, fault, ok=False)]
    newest = max((change.at for change in ahead), default=-math.inf)
    return [check_ledger(where, "opens"), check_ledger_clock(newest, time.time())]
