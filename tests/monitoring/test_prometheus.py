"""A real Prometheus scrapes a real endpoint; promtool checks the shipped configuration."""

import math
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, start_http_server

from monitoring.measurements import Measurements
from monitoring.metrics import Metrics, StatusSnapshot
from tests.programs import free_port, program, running

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"

SNAPSHOT = StatusSnapshot(
    outcomes={"live": 5, "rejected": 2},
    measurements=Measurements(
        weight_norm_ratio={7: 1.1, 8: 1.7},
        subspace_similarity={7: 0.97, 8: 0.35},
        probe_perplexity_ratio=1.05,
    ),
    layers=(7, 8),
    states={"weight_norm_ratio": "limit"},
    version=12,
    served_versions={"a": 12},
    in_sync={"a": True},
)


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

    def ask(expression: str) -> dict[str, float]:
        address = f"http://127.0.0.1:{port}/api/v1/query"
        reply = httpx.get(address, params={"query": expression}, timeout=5)
        rows = reply.raise_for_status().json()["data"]["result"]
        labels = ("layer", "outcome", "guard", "replica", "alertname")
        return {
            ",".join(row["metric"][name] for name in labels if name in row["metric"]): float(row["value"][1])
            for row in rows
        }

    with running(command, tmp_path / "log"):
        yield ask


def eventually(ask, expression: str, wanted, seconds: float = 30) -> dict[str, float]:
    end, found, error = time.monotonic() + seconds, {}, None
    while time.monotonic() < end:
        try:
            found = ask(expression)
            if wanted(found):
                return found
        except httpx.HTTPError as e:  # not up yet
            error = e
        time.sleep(0.25)
    raise AssertionError(f"{expression} stayed {found} ({error})")


def test_gauges_arrive_in_prometheus_and_are_not_latched(endpoint, query):
    metrics, _ = endpoint
    metrics.update(SNAPSHOT)
    norms = eventually(query, "factd_weight_norm_ratio", lambda found: found.get("8") == 1.7)
    assert norms == {"7": 1.1, "8": 1.7}
    assert query("factd_subspace_similarity") == {"7": 0.97, "8": 0.35}
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
    ("kind", "file"), [("config", DEPLOY / "prometheus.yml"), ("rules", DEPLOY / "rules.yml")]
)
def test_promtool_is_content(kind, file):
    done = subprocess.run(
        [program("promtool"), "check", kind, file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_is_content_with_the_exported_metrics(endpoint):
    metrics, port = endpoint
    metrics.update(SNAPSHOT)
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status().content
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
