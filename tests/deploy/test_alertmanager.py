"""Alertmanager's configuration: accepted by amtool, and its routes and receivers fit factd."""

import subprocess
from pathlib import Path

import pytest
import yaml

from daemon.http.alerts import ACTION_LABEL, ROLLBACK
from daemon.http.api import router
from tests.programs import program

CONFIG = Path(__file__).parents[2] / "deploy" / "alertmanager" / "alertmanager.yml"


def amtool(*argv) -> str:
    done = subprocess.run(
        [program("amtool", "prometheus-alertmanager"), *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_amtool_is_content():
    assert "SUCCESS" in amtool("check-config", CONFIG)


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (("alertname=FactdWeightNormHigh", f"{ACTION_LABEL}={ROLLBACK}"), "factd,operators"),
        (("alertname=FactdAbsent", "severity=critical"), "operators"),
        (("alertname=AnyOther",), "operators"),
    ],
)
def test_factd_hears_of_alerts_that_name_a_rollback_and_people_of_all(labels, receivers):
    assert amtool("config", "routes", "test", f"--config.file={CONFIG}", *labels) == receivers


def test_the_webhook_is_a_route_of_the_api_and_its_token_lies_in_a_file():
    receivers = {each["name"]: each for each in yaml.safe_load(CONFIG.read_text())["receivers"]}
    (webhook,) = receivers["factd"]["webhook_configs"]
    assert any(webhook["url"].endswith(route.path) for route in router.routes if "POST" in route.methods)
    assert webhook["send_resolved"] is True
    authorization = webhook["http_config"]["authorization"]
    assert authorization["type"] == "Bearer"
    assert "credentials" not in authorization
    assert Path(authorization["credentials_file"]).is_absolute()
