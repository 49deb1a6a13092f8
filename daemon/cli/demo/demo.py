"""`factd demo`: the main job end to end, on services of its own."""

import json
import shutil
import time
from pathlib import Path

from daemon.cli.demo.client import LiveServer
from daemon.cli.demo.observed import Demo
from daemon.cli.demo.steps import carry_out
from daemon.cli.output import console
from daemon.core.settings import Settings
from daemon.http.client import Client
from daemon.intake.posting import producer
from daemon.supervise.processes import ProcessError
from daemon.supervise.running import Running, find_running
from daemon.supervise.up import Up
from daemon.supervise.vllm import serving_key


def run_demo(settings: Settings, json_file: Path | None) -> bool:
    """Runs all steps on services of its own, with an empty ledger; True when every step was observed.

    The model's statistics are kept in the state directory, everything else in its folder `demo`.

    Raises:
        ProcessError: a service did not start.
    """
    started = time.monotonic()
    settings = fresh(settings)
    with Up(settings, lambda text: console().print(f"factd: {text}", style="dim")) as services:
        running = services.start()
        services.wait_until_ready()
        setup_seconds = time.monotonic() - started
        demo = _connect(running, services)
        demo.results |= {
            "store_dir": str(settings.store_dir),
            "setup_seconds": setup_seconds,
            "init_seconds": services.seconds.get("init", 0.0),
        }
        try:
            carry_out(demo, running)
        finally:
            demo.live.close()
            demo.api.close()
            demo.queue.close()
    ok = all(done for _, done, _ in demo.steps)
    demo.results["ok"] = ok
    demo.results["steps"] = [
        {"step": step, "ok": done, "detail": detail} for step, done, detail in demo.steps
    ]
    if json_file is not None:
        json_file.write_text(json.dumps(demo.results, indent=2, ensure_ascii=False) + "\n")
    console().print(
        f"\n{'every step was observed' if ok else 'FAILED: see above'} ({time.monotonic() - started:.0f} s)"
    )
    return ok


def fresh(settings: Settings) -> Settings:
    """The settings with the demo's own state directory; the one of an earlier demo is removed.

    Raises:
        ProcessError: a demo runs in it.
    """
    folder = settings.state_dir / "demo"
    running = find_running(folder)
    if running is not None:
        raise ProcessError(f"a demo runs on {settings.state_dir} already (pid {running.pid}); stop it first")
    if folder.exists():
        shutil.rmtree(folder)
    return settings.model_copy(update={"state_dir": folder, "statistics_dir": settings.statistics})


def _connect(running: Running, services: Up) -> Demo:
    return Demo(
        LiveServer(running.vllm_url, running.served_model, serving_key(services.settings)),
        Client(running.api_url, services.tokens.admin),
        producer(running.redis_url, services.settings.names),
        services.tokens.admin,
    )
