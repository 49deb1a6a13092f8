"""Commands that run something: demo, up, init, worker, serve, api, doctor."""

import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.cli.options import JsonOption, ModelOption, StateOption, settings_of
from daemon.cli.output import (
    EPILOG,
    CommandError,
    Exit,
    console,
    fail,
    progress,
    reported,
    show_json,
    show_table,
)


def register(app: typer.Typer) -> None:
    for command in (demo, up, init, worker, serve, api, doctor):
        app.command(epilog=EPILOG)(command)


def demo(
    state: StateOption = None,
    model: ModelOption = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to this file.")] = None,
) -> None:
    """Show the main job end to end on embedded services; exit 0 only if every step was observed."""
    from daemon.cli.demo.demo import run_demo
    from daemon.supervise.embedded import ProcessError

    _terminate_like_interrupt()
    try:
        ok = run_demo(settings_of(state_dir=state, model=model), json_file)
    except ProcessError as error:
        fail(CommandError(Exit.UNAVAILABLE, str(error), "run `factd doctor`"), False)
    except KeyboardInterrupt:
        raise typer.Exit(int(Exit.FAILED)) from None
    raise typer.Exit(int(Exit.OK if ok else Exit.FAILED))


def up(
    model: ModelOption = None,
    state: StateOption = None,
    ready_file: Annotated[Path | None, typer.Option(help="Written (JSON) when everything answers.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run all services in the foreground until Ctrl-C."""
    from daemon.supervise.embedded import ProcessError
    from daemon.supervise.up import Up

    if ready_file is not None:
        ready_file.unlink(missing_ok=True)
    _terminate_like_interrupt()
    out = console()
    with (
        reported(as_json),
        Up(settings_of(state_dir=state, model=model), lambda text: out.print(f"factd: {text}")) as services,
    ):
        try:
            services.start()
            services.wait_until_ready(ready_file)
            if as_json:
                show_json(services.describe())
            else:
                described = services.describe()
                rows = [
                    (name, described[name]) for name in ("api_url", "vllm_url", "state_dir", "tokens_file")
                ]
                show_table("factd is up; Ctrl-C stops it", ("", ""), rows)
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            out.print("factd: stopping")
        except ProcessError as error:
            raise CommandError(Exit.UNAVAILABLE, str(error), "run `factd doctor`") from None


def _terminate_like_interrupt() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def init(model: ModelOption = None, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Prepare a model: hashes, second moments, anchor. Resumable; done once."""
    from daemon.app import open_editor
    from editing.errors import EditError

    settings = settings_of(state_dir=state, model=model)
    started = time.monotonic()
    with reported(as_json):
        try:
            with progress() as show:
                editor = open_editor(settings, show)
        except EditError as error:
            raise CommandError(Exit.FAILED, str(error), "run `factd doctor`") from None
    view = {
        "model": settings.model,
        "path": str(editor.path),
        "base_hash": editor.base_hash,
        "settings_hash": editor.settings_hash,
        "tensors": list(editor.tensor_names),
        "seconds": time.monotonic() - started,
    }
    if as_json:
        show_json(view)
    else:
        show_table("Prepared", ("", ""), list(view.items()))


def worker(
    queue: Annotated[
        str, typer.Option(help="corrections (intake), apply (the one writer), values (helps it), or all.")
    ] = "all",
    name: Annotated[str | None, typer.Option(help="Worker name; default: the queue's role.")] = None,
    loglevel: Annotated[str, typer.Option(help="Celery's log level.")] = "info",
) -> None:
    """Run one Celery worker in the foreground."""
    from daemon.core.names import Queue
    from daemon.core.settings import load_settings

    queues: dict[str, tuple[list[Queue], str]] = {
        "corrections": (["corrections"], "intake"),
        "apply": (["apply"], "apply"),
        "values": (["values"], "values"),
        "all": (["corrections", "apply"], "all"),
    }
    if queue not in queues:
        fail(
            CommandError(Exit.BAD_INPUT, f"there is no queue {queue!r}", f"one of {', '.join(queues)}"), False
        )
    taken, role = queues[queue]
    names = load_settings().names
    argv = ["-m", "celery", "-A", "daemon.app:celery", "worker", "-P", "solo"]
    argv += ["-Q", ",".join(map(names.queue, taken)), "-n", f"{names.worker(name or role)}@%h"]
    argv += ["-l", loglevel, "--without-gossip", "--without-mingle"]
    os.execv(sys.executable, [sys.executable, *argv])


def serve(
    model: ModelOption = None,
    state: StateOption = None,
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port; default FACTD_SERVING_PORT.")] = None,
    vllm_arguments: Annotated[
        list[str] | None, typer.Argument(help="After --: vLLM's own arguments; they win over factd's.")
    ] = None,
) -> None:
    """Run vLLM with the factd plugin in the foreground."""
    from daemon.supervise.embedded import VllmOptions, vllm_command
    from daemon.supervise.up import settings_for
    from editing.model.checkpoint import checkpoint_path

    settings = settings_for(state, model=model)
    if settings.admin_token is None:
        mend = "set FACTD_ADMIN_TOKEN to the token that the apply worker uses"
        fail(CommandError(Exit.BAD_INPUT, "vLLM with the plugin needs an admin token", mend), False)
    key = settings.serving_api_key
    options = VllmOptions(
        store=settings.store_dir,
        admin_token=settings.admin_token.get_secret_value(),
        served_name=settings.served_model_name or Path(settings.model).name,
        api_key=key.get_secret_value() if key else None,
        host=host,
        extra=tuple(vllm_arguments or ()),
    )
    checkpoint = checkpoint_path(settings.model, settings.statistics)
    argv, env = vllm_command(checkpoint, port or settings.serving_port, options)
    os.execve(argv[0], argv, env)


def api(
    state: StateOption = None,
    host: Annotated[str | None, typer.Option(help="Address to bind; default FACTD_API_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default FACTD_API_PORT.")] = None,
) -> None:
    """Run the HTTP API with /metrics and the status page."""
    import uvicorn

    from daemon.http.api import create_app

    settings = settings_of(state_dir=state)
    uvicorn.run(
        create_app(settings),
        host=host or settings.api_host,
        port=port or settings.api_port,
        log_level="warning",
        access_log=False,
    )


def doctor(state: StateOption = None, as_json: JsonOption = False) -> None:
    """Check the environment and say what to mend."""
    from daemon.supervise.doctor import examine
    from daemon.supervise.running import find_running
    from daemon.supervise.up import settings_for

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


def _newest_entry(settings: Any) -> float:
    """When the ledger's newest change that lies in the future was made; minus infinity if none does."""
    from daemon.ledger.ledger import Ledger

    if settings.database_url is None and not (settings.state_dir / "ledger.sqlite3").exists():
        return -math.inf
    ledger = Ledger.open(settings.ledger_url)
    try:
        return max((change.at for change in ledger.transitions(since=time.time())), default=-math.inf)
    finally:
        ledger.close()
