"""Drift → Prometheus → Alertmanager → webhook → rollback, all real but the model and its server.

The queries of all dashboards are then asked of the Prometheus that has seen this.

The shipped configuration is used, with addresses and shorter times put in. Two Alertmanagers that do not know
of each other send every alert, and repeat it each second: it must be carried out once.
"""

import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from daemon.apply.applier import Applier
from daemon.apply.measuring import Monitoring
from daemon.core.messages import parse_correction
from daemon.core.settings import Settings
from daemon.ledger.ledger import Ledger
from daemon.versions.store import Store
from monitoring.dashboards.board import ANNOTATIONS, DASHBOARDS
from monitoring.measurements import Measurements
from monitoring.registry import LAYER_MEASURES, SCALAR_MEASURES
from monitoring.thresholds import Thresholds
from monitoring.verdict import judge
from tests.daemon.fakes import DiskServing, FakeEditor
from tests.programs import free_port, program, running

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TOKEN = "admin-token"
#: Growth of the norm with each fact: the fifth version is past the rule's limit of 1.5.
STEP = 0.12
#: The operator has widened the guard's limit, so that the rules are the second line.
WIDENED = Thresholds().overridden({"weight_norm_ratio_warn": 2.0, "weight_norm_ratio_limit": 3.0})
WAIT_SECONDS = 90


def drifting(batch, earlier, ratio) -> Measurements:
    """All measures of a healthy model, but a norm that grows with the number of facts."""
    values: dict[str, Any] = {name: {7: 1.0, 8: 1.0} for name in LAYER_MEASURES}
    values |= dict.fromkeys(SCALAR_MEASURES, 1.0) | {"probe_kl_nats": 0.01}
    values["weight_norm_ratio"][8] = 1 + STEP * (len(batch) + len(earlier))
    return Measurements(**values, measured_at=time.time())


def foreseen(history) -> dict[str, Any]:
    forecast = {"measure": "weight_norm_ratio", "edits": 400.0}
    return {"known": True, "nearest": "weight_norm_ratio", "forecasts": [forecast]}


@dataclass
class Run:
    """What runs, and what a test asks of it."""

    state: Path
    ledger: Ledger
    replica: DiskServing
    editor: FakeEditor
    prometheus: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        address = f"{self.prometheus}/api/v1/query"
        reply = httpx.get(address, params={"query": expression}, timeout=10)
        return reply.raise_for_status().json()["data"]["result"]

    def deliveries(self) -> list[dict[str, Any]]:
        """What arrived at /v1/alerts, one alert an entry, with its answer."""
        file = self.state / "alerts.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [
            {"at": entry["at"], "alert": alert, "answer": answer}
            for entry in map(json.loads, lines)
            for alert, answer in zip(entry["alerts"], entry["answers"], strict=True)
        ]

    def post(self, number: int) -> None:
        body = {"subject": f"S{number}", "prompt": "The capital of {} is", "target": f"T{number}"}
        self.ledger.intake.submit(parse_correction(body), f"id-{number}")
        until(
            lambda: self.ledger.questions.get(f"id-{number}").state == "live", f"correction {number} is live"
        )


def until(wanted: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            if wanted():
                return
        except httpx.HTTPError:  # not up yet
            pass
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS} s: {what}"
        time.sleep(0.05)


def prometheus_config(root: Path, api: int, alertmanagers: list[int]) -> Path:
    """The shipped one; scraped and evaluated each second, and no alert waits."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (config["scrape_configs"][0]["static_configs"][0])["targets"] = [f"127.0.0.1:{api}"]
    targets = [f"127.0.0.1:{port}" for port in alertmanagers]
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = targets
    rules = (DEPLOY / "prometheus" / "rules.yml").read_text()
    (root / "rules.yml").write_text(re.sub(r"\bfor: \w+", "for: 0s", rules))
    (root / "prometheus.yml").write_text(yaml.safe_dump(config))
    return root / "prometheus.yml"


def alertmanager_config(root: Path, api: int, token: str = TOKEN) -> Path:
    """The shipped one; each alert is repeated every second."""
    config = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())
    config["route"]["routes"][0] |= {"group_interval": "1s", "repeat_interval": "1s"}
    (webhook,) = config["receivers"][1]["webhook_configs"]
    webhook["url"] = f"http://127.0.0.1:{api}/v1/alerts"
    webhook["http_config"]["authorization"]["credentials_file"] = str(root / "token")
    (root / "token").write_text(token)
    (root / "alertmanager.yml").write_text(yaml.safe_dump(config))
    return root / "alertmanager.yml"


def answers(url: str) -> bool:
    return httpx.get(url, timeout=2).raise_for_status().status_code == 200


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("alerts")
    api, web, *managers = (free_port() for _ in range(4))
    settings = Settings(state_dir=root / "state", guard_watch_seconds=0, guard_cooldown_seconds=1)
    settings.state_dir.mkdir()
    ledger = Ledger.open(settings.ledger_url)
    replica = DiskServing(settings.store_dir, settings.state_dir / "replica.json")
    editor, stop = FakeEditor(), threading.Event()
    monitoring = Monitoring(drifting, lambda m, before: judge(m, WIDENED, None, time.time()), foreseen)
    store = Store(settings.store_dir)
    applier = Applier(ledger, store, editor, [replica], monitoring=monitoring, settings=settings)

    def apply() -> None:
        while not stop.wait(0.05):
            applier.run()

    script = Path(__file__).with_name("alert_api.py")
    started = [
        ("api", [sys.executable, script, settings.state_dir, api], "healthz"),
        *(
            (f"alertmanager{port}", [
                program("prometheus-alertmanager", "prometheus-alertmanager"),
                f"--config.file={alertmanager_config(root, api)}",
                f"--storage.path={root / str(port)}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--cluster.listen-address=",
            ], "-/ready")
            for port in managers
        ),
        ("prometheus", [
            program("prometheus"),
            f"--config.file={prometheus_config(root, api, managers)}",
            f"--storage.tsdb.path={root / 'data'}",
            f"--web.listen-address=127.0.0.1:{web}",
        ], "-/ready"),
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FACTD_")}
    environment |= {"PYTHONPATH": str(ROOT), "FACTD_ADMIN_TOKEN": TOKEN}
    with ExitStack() as stack:
        stack.callback(ledger.close)
        for port, (name, argv, ready) in zip((api, *managers, web), started, strict=True):
            stack.enter_context(running([str(part) for part in argv], root / f"{name}.log", env=environment))
            until(lambda url=f"http://127.0.0.1:{port}/{ready}": answers(url), f"{name} answers")
        thread = threading.Thread(target=apply)
        thread.start()
        stack.callback(thread.join)
        stack.callback(stop.set)
        made = Run(settings.state_dir, ledger, replica, editor, f"http://127.0.0.1:{web}")
        # Counters must be seen before they rise.
        until(lambda: made.query("factd_version"), "the first scrape")
        yield made


@pytest.fixture(scope="module")
def drifted(run, tmp_path_factory):
    """The run after the drift, the rollback and the end of the alert; writes its times down."""
    for number in range(1, 6):
        run.post(number)
        norm = 1 + STEP * number - 0.001
        until(lambda least=norm: run.query(f"max(factd_weight_norm_ratio) > {least}"), f"norm {norm}")
    until(lambda: run.ledger.questions.live_version() == "v000004", "the rollback")
    until(lambda: any(d["alert"]["status"] == "resolved" for d in run.deliveries()), "the alert ends")
    (operation,) = run.ledger.questions.operations()
    fired = run.deliveries()[0]
    began = datetime.fromisoformat(fired["alert"]["startsAt"]).timestamp()
    drift_at = run.ledger.questions.version("v000005").live_at
    times = {
        "drift_live_to_alert_seconds": began - drift_at,
        "alert_to_request_seconds": operation.created_at - began,
        "request_to_rollback_seconds": operation.finished_at - operation.created_at,
        "drift_live_to_rollback_seconds": operation.finished_at - drift_at,
    }
    firing = [d for d in run.deliveries() if d["alert"]["status"] == "firing"]
    told = times | {"deliveries_firing": len(firing), "rollbacks": len(run.ledger.questions.operations())}
    told["answers"] = [delivery["answer"] for delivery in run.deliveries()]
    folder = Path(os.environ.get("FACTD_TEST_RECORDS") or tmp_path_factory.mktemp("records"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "alert_rollback.json").write_text(json.dumps(told, indent=1))
    print(json.dumps(told | {"record": str(folder / "alert_rollback.json")}, indent=1))
    return run


def test_drift_is_rolled_back_by_an_alert_exactly_once(drifted):
    (operation,) = drifted.ledger.questions.operations()
    assert (operation.kind, operation.state, operation.target) == ("rollback", "done", "v000004")
    assert operation.actor.startswith("alert:")
    assert operation.why == "FactdWeightNormHigh is firing"
    firing = [d for d in drifted.deliveries() if d["alert"]["status"] == "firing"]
    assert len(firing) > 1
    assert {d["alert"]["fingerprint"] for d in firing} == {firing[0]["alert"]["fingerprint"]}
    # The two Alertmanagers ask at the same time, and the API may write the second answer down first.
    (carried_out,) = [d["answer"] for d in firing if d["answer"]["action"] == "rollback"]
    assert (carried_out["from"], carried_out["to"]) == ("v000005", "v000004")
    others = [d["answer"] for d in firing if d["answer"] is not carried_out]
    assert {(answer["action"], answer["why"]) for answer in others} == {("none", "handled before")}
    assert {answer["operation"] for answer in (carried_out, *others)} == {operation.id}
    ended = [d["answer"] for d in drifted.deliveries() if d["alert"]["status"] == "resolved"]
    assert {answer["why"] for answer in ended} == {"status is resolved"}
    assert drifted.ledger.questions.status().rollbacks["alert"] == 1


def test_the_replica_serves_the_version_before_bit_for_bit(drifted):
    served = drifted.replica.served()
    wanted = Store(drifted.state / "store").weight_sha256("v000004")
    assert served.version == "v000004"
    assert dict(served.sha256) == wanted == drifted.editor.weight_hashes()
    published = json.loads(drifted.replica.file.read_text())["published"]
    assert published == [*(f"v00000{number}" for number in range(6)), "v000004"]
    assert [row.id for row in drifted.ledger.questions.facts()] == [f"id-{number}" for number in range(1, 5)]
    assert drifted.ledger.questions.get("id-5").state == "rolled_back"


def test_only_the_alert_that_names_a_rollback_reaches_factd(drifted):
    assert {d["alert"]["labels"]["alertname"] for d in drifted.deliveries()} == {"FactdWeightNormHigh"}
    until(lambda: drifted.query('ALERTS{alertname="FactdRolledBack"}'), "people are told of the rollback")


def test_the_webhook_wants_the_admin_token_and_answers_a_late_repetition(drifted):
    (target,) = drifted.query("factd_version")
    address = f"http://{target['metric']['instance']}/v1/alerts"
    body = {"version": "4", "alerts": [drifted.deliveries()[0]["alert"]]}
    assert httpx.post(address, json=body, headers={"Authorization": "Bearer x"}).status_code == 401
    late = httpx.post(address, json=body, headers={"Authorization": f"Bearer {TOKEN}"})
    assert late.json()[0]["why"] == "handled before"
    assert len(drifted.ledger.questions.operations()) == 1


def finite(rows: list[dict[str, Any]]) -> bool:
    return any(math.isfinite(float(row["value"][1])) for row in rows)


def asked(query: str) -> str:
    """The query as Grafana would send it; ranges are long enough for a slow machine."""
    return query.replace("$instance", ".+").replace("$__rate_interval", "10m").replace("[1m]", "[10m]")


#: They show nothing while there is nothing to show: a number would be a job that does not run.
IDLE = {"Work in the background, share done"}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_shows_data(drifted, name):
    until(lambda: drifted.query('ALERTS{alertname="FactdRolledBack"}'), "the rollback is seen")
    queries = [(panel.title, query) for panel in DASHBOARDS[name] for query, _ in panel.queries]
    empty = [title for title, query in queries if not finite(drifted.query(asked(query)))]
    assert set(empty) <= IDLE


def test_versions_and_rollbacks_are_marked(drifted):
    until(lambda: drifted.query('ALERTS{alertname="FactdRolledBack"}'), "the rollback is seen")
    assert all(finite(drifted.query(asked(query))) for _, query, _, _ in ANNOTATIONS)
