"""`factd doctor`: checks the environment."""

import math
import time

import typer

from daemon.cli.exits import Exit
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import show_json, show_table
from daemon.cli.reporting import reported
from daemon.core.settings import Settings
from daemon.ledger.ledger import Ledger
from daemon.supervise.doctor import examine
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
        checks = list(examine(settings.model, settings.state_dir, broker, urls, _newest_entry(settings)))
    ok = all(check.ok or not check.needed for check in checks)
    if as_json:
        show_json({"ok": ok, "checks": [check.__dict__ for check in checks]})
    else:
        marks = {(True, True): "ok", (True, False): "ok", (False, True): "MEND", (False, False): "note"}
        rows = [(marks[c.ok, c.needed], c.name, c.found, "" if c.ok else c.mend) for c in checks]
        show_table("Environment", ("", "check", "found", "what to do"), rows)
    if not ok:
        broken = {check.name for check in checks if check.needed and not check.ok}
        away = broken <= {"broker", "API", "vLLM", *urls}
        raise typer.Exit(int(Exit.UNAVAILABLE if away else Exit.FAILED))


def _newest_entry(settings: Settings) -> float:
    """Time of the ledger's newest change, if it lies in the future; otherwise minus infinity."""
    if settings.database_url is None and not (settings.state_dir / "ledger.sqlite3").exists():
        return -math.inf
    ledger = Ledger.open(settings.ledger_url)
    try:
        return max(
            (change.at for change in ledger.questions.transitions(since=time.time())), default=-math.inf
        )
    finally:
        ledger.close()
