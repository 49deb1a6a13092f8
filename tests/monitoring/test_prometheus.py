"""A real Prometheus scrapes a real endpoint; promtool checks the shipped configuration."""

import json
import math
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from monitoring.measurements import Measurements
from monitoring.metrics import METRICS, PREFIX, Metrics, StatusSnapshot
from monitoring.verdict import Thresholds
from tests.programs import program

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES_TEST = Path(__file__).with_name("rules_test.yml")

SNAPSHOT = StatusSnapshot(
    outcomes={"live": 5, "rejected": 2},
    measurements=Measurements(
        weight_norm_ratio={7: 1.1, 8: 1.7},
        subspace_similarity={7: 0.97, 8: 0.75},
        probe_perplexity_ratio=1.05,
    ),
    layers=(7, 8),
    guards={"weight_norm_ratio": "limit"},
    version=12,
    served_versions={"a": 12},
    in_sync={"a": True},
)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def endpoint():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    yield metrics, server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def query(endpoint, tmp_path):
    """A function that asks a Prometheus which scrapes the endpoint twice a second."""
    port = free_port()
    config = f"""
global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}
rule_files: ["{DEPLOY / "rules.yml"}"]
scrape_configs: [{{job_name: factd, static_configs: [{{targets: ["127.0.0.1:{endpoint[1]}"]}}]}}]
"""
    (tmp_path / "prometheus.yml").write_text(config)
    command = [
        program("prometheus"),
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def ask(expression: str) -> dict[str, float]:
        address = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(address, timeout=5) as reply:
            rows = json.load(reply)["data"]["result"]
        labels = ("layer", "outcome", "guard", "replica", "alertname")
        return {
            ",".join(row["metric"][name] for name in labels if name in row["metric"]): float(row["value"][1])
            for row in rows
        }

    yield ask
    process.terminate()
    process.wait(10)


def eventually(ask, expression: str, wanted, seconds: float = 30) -> dict[str, float]:
    end, found, error = time.monotonic() + seconds, {}, None
    while time.monotonic() < end:
        try:
            found = ask(expression)
            if wanted(found):
                return found
        except OSError as e:  # not up yet
            error = e
        time.sleep(0.25)
    raise AssertionError(f"{expression} stayed {found} ({error})")


def test_gauges_arrive_in_prometheus_and_are_not_latched(endpoint, query):
    metrics, _ = endpoint
    metrics.update(SNAPSHOT)
    norms = eventually(query, "factd_weight_norm_ratio", lambda found: found.get("8") == 1.7)
    assert norms == {"7": 1.1, "8": 1.7}
    assert query("factd_subspace_similarity") == {"7": 0.97, "8": 0.75}
    assert query("factd_probe_perplexity_ratio") == {"": 1.05}
    assert query("factd_corrections_total")["live"] == 5
    assert query("factd_version") == {"": 12}
    assert query("factd_served_version") == {"a": 12}
    assert query("factd_guard_state")["weight_norm_ratio"] == 2
    assert math.isnan(query("factd_probe_kl_nats")[""])
    eventually(query, "factd:weight_norm_ratio:max", lambda found: found == {"": 1.7})
    pending = eventually(query, "ALERTS", lambda found: "FactdWeightNormHigh" in found)
    assert "FactdSubspaceTurned" in pending
    metrics.update(StatusSnapshot(measurements=Measurements(weight_norm_ratio={8: 1.0}), layers=(8,)))
    eventually(query, "factd_weight_norm_ratio", lambda found: found == {"8": 1.0})
    eventually(query, "ALERTS", lambda found: "FactdWeightNormHigh" not in found)


@pytest.mark.parametrize(
    ("action", "kind", "file"),
    [
        ("check", "config", DEPLOY / "prometheus.yml"),
        ("check", "rules", DEPLOY / "rules.yml"),
        ("test", "rules", RULES_TEST),
    ],
)
def test_promtool_is_content(action, kind, file):
    done = subprocess.run(
        [program("promtool"), action, kind, file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_is_content_with_the_exported_metrics(endpoint):
    metrics, port = endpoint
    metrics.update(SNAPSHOT)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        text = reply.read()
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_rules_use_metrics_that_exist_and_the_limits_of_the_guard():
    rules = (DEPLOY / "rules.yml").read_text("utf-8")
    used = set(re.findall(r"\bfactd_([a-z_]+)", rules))
    assert used <= {metric.name for metric in METRICS}
    limits = {
        f.name.removesuffix("_limit"): f.default for f in fields(Thresholds) if f.name.endswith("_limit")
    }
    found = re.findall(r"expr: factd[_:]([a-z_]+)(?::(?:max|min))? [<>] ([\d.]+)$", rules, re.MULTILINE)
    assert {name for name, _ in found} == {
        "weight_norm_ratio",
        "spectral_norm_ratio",
        "subspace_similarity",
        "probe_kl_nats",
        "probe_perplexity_ratio",
        "retention_ratio",
    }
    assert all(float(level) == limits[name] for name, level in found)
    assert PREFIX == "factd_"
