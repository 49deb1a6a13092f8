"""promtool runs each alert through five streams: harm, none, silence, NaN, and recovery after a rollback."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from monitoring.metrics import METRICS, PREFIX
from monitoring.thresholds import Thresholds
from tests.programs import program

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
RUNBOOK = ROOT / "docs" / "runbook.md"
LOADED = [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in LOADED if "alert" in rule}
VERSION = {"factd_version": "3x200"}


@dataclass(frozen=True)
class Stream:
    """What an alert watches, in promtool's notation, one sample a minute.

    Attributes:
        bad, good: series → values of `minutes` minutes.
        after: series → values of the half hour after a rollback that follows on `bad`.
        summary: of the alert that fires at the end of `bad`.
        labels: of the alert, besides those that the rule sets.
        context: series that are there in every case.
        silence_fires: the alert is raised by series that end.
    """

    bad: dict[str, str]
    good: dict[str, str]
    after: dict[str, str]
    summary: str
    minutes: int = 20
    labels: dict[str, str] | None = None
    context: dict[str, str] | None = None
    silence_fires: bool = False


def level(series: str, bad: float, good: float, summary: str, **more) -> Stream:
    """A gauge that stands at one value."""
    minutes = more.get("minutes", 20)
    streams = [{series: f"{value}x{count}"} for value, count in ((bad, minutes), (good, minutes), (good, 30))]
    return Stream(*streams, summary, **more)


def ramp(series: str, start: str, flat: float, after: float, summary: str) -> Stream:
    """A gauge that grows by `start` for 70 minutes; one that is past its warning, but stays there; one that
    falls back."""
    streams = [{series: f"{start}x70"}, {series: f"{flat}x70"}, {series: f"{after}x30"}]
    return Stream(*streams, summary, minutes=70)


def counted(series: str, summary: str, **more) -> Stream:
    """A counter that is raised once, ten minutes after the start, and is then left alone."""
    return Stream(
        {series: "0x9 1x10"}, {series: "1x20"}, {series: "1x30"}, summary, **({"minutes": 14} | more)
    )


STREAMS = {
    "FactdWeightNormHigh": level(
        'factd_weight_norm_ratio{layer="8"}',
        1.6,
        1.5,
        "Edited weights have 1.60 times the norm of the base model",
    ),
    "FactdSpectralNormHigh": level(
        'factd_spectral_norm_ratio{layer="8"}',
        2.5,
        1.5,
        "A direction of an edited weight has grown 2.50 times",
    ),
    "FactdSubspaceTurned": level(
        'factd_subspace_similarity{layer="8"}',
        0.3,
        0.4,
        "Dominant directions overlap the base's by only 0.30",
    ),
    "FactdProbesMoved": level("factd_probe_kl_nats", 0.6, 0.3, "Unrelated answers have moved by 0.60 nats"),
    "FactdPerplexityHigh": level(
        "factd_probe_perplexity_ratio", 1.3, 1.2, "Perplexity on unrelated text is 1.30 times the base's"
    ),
    "FactdForgetting": level(
        "factd_retention_ratio", 0.75, 0.9, "Only 75% of sampled earlier corrections are still answered"
    ),
    "FactdWeightNormGrowing": ramp(
        'factd_weight_norm_ratio{layer="8"}',
        "1.0+0.005",
        1.4,
        1.1,
        "The norm of edited weights will be 2.55 times the base's in four hours",
    ),
    "FactdSpectralNormGrowing": ramp(
        'factd_spectral_norm_ratio{layer="8"}',
        "1.2+0.01",
        1.4,
        1.2,
        "A direction of an edited weight will have grown 4.30 times in four hours",
    ),
    "FactdSubspaceTurning": ramp(
        'factd_subspace_similarity{layer="8"}',
        "0.7-0.002",
        0.55,
        0.95,
        "Dominant directions will overlap the base's by 0.08 in four hours",
    ),
    "FactdPerplexityGrowing": ramp(
        "factd_probe_perplexity_ratio",
        "1.0+0.0025",
        1.15,
        1.05,
        "Perplexity on unrelated text will be 1.77 times the base's in four hours",
    ),
    "FactdLimitNear": level(
        "factd_edits_until_limit", 40, 500, "40 more corrections are forecast until a limit is reached"
    ),
    "FactdMeasurementMissing": level(
        'factd_guard_state{guard="probe_kl_nats"}',
        3,
        2,
        "probe_kl_nats was not measured on the live version",
        labels={"guard": "probe_kl_nats"},
        context=VERSION,
    ),
    "FactdMeasurementStale": Stream(
        {"factd_measured_timestamp_seconds": "0x40"},
        {"factd_measured_timestamp_seconds": "0x20 1200x20"},
        {"factd_measured_timestamp_seconds": "2400x30"},
        "The live version was last measured 40m 0s ago",
        minutes=40,
        context=VERSION,
    ),
    "FactdAbsent": Stream(
        {},
        {"factd_version": "3x20"},
        {"factd_version": "_x21 2x30"},
        "No factd metrics arrive",
        silence_fires=True,
    ),
    "FactdReplicaOutOfSync": level(
        'factd_replica_in_sync{replica="1"}',
        0,
        1,
        "Replica 1 does not serve the live version",
        labels={"replica": "1"},
    ),
    "FactdStalled": Stream(
        {"factd_oldest_pending_seconds": "601+60x20", "factd_last_success_timestamp_seconds": "-9000x20"},
        {"factd_oldest_pending_seconds": "601+60x20", "factd_last_success_timestamp_seconds": "0+60x20"},
        {"factd_oldest_pending_seconds": "0x30", "factd_last_success_timestamp_seconds": "-9000x30"},
        "A correction has waited for 30m 1s and nothing went live meanwhile",
        context={'factd_paused{actor="guard"}': "0x200", 'factd_paused{actor="operator"}': "0x200"},
    ),
    "FactdCorrectionsDead": counted(
        'factd_corrections_total{outcome="dead"}',
        "Corrections were given up after repeated attempts",
        labels={"outcome": "dead"},
    ),
    "FactdRolledBack": counted(
        'factd_rollbacks_total{reason="guard"}',
        "The live version was rolled back (reason: guard)",
        labels={"reason": "guard"},
    ),
    "FactdPausedByGuard": level(
        'factd_paused{actor="guard"}', 1, 0, "The guard has paused the queue", labels={"actor": "guard"}
    ),
    "FactdPauseForgotten": level(
        'factd_paused{actor="operator"}',
        1,
        0,
        "The queue has been paused by an operator for more than two hours",
        minutes=130,
        labels={"actor": "operator"},
    ),
}


def waits(alert: str) -> int:
    """The rule's `for`, minutes."""
    text = ALERTS[alert].get("for", "0m")
    return int(text[:-1]) * {"m": 1, "h": 60}[text[-1]]


def fires(alert: str, minute: int) -> dict:
    labels = {"alertname": alert, "alertstate": "firing"}
    labels |= ALERTS[alert]["labels"] | (STREAMS[alert].labels or {})
    named = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return quiet(alert, minute) | {"exp_samples": [{"labels": f"ALERTS{{{named}}}", "value": 1}]}


def quiet(alert: str, minute: int) -> dict:
    expression = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    return {"expr": expression, "eval_time": f"{minute}m", "exp_samples": []}


def cases(alert: str) -> list[dict]:
    stream = STREAMS[alert]
    end = stream.minutes
    watched = stream.bad | stream.good
    silent = {name: f"{values} stale _x29" for name, values in (stream.bad or stream.good).items()}
    recovered = {
        name: f"{stream.bad.get(name, '')} {values}".strip() for name, values in stream.after.items()
    }
    nothing = {name: "NaN" + " NaN" * (end + 30) for name in watched}
    silence = fires if stream.silence_fires else quiet
    said = {"severity": ALERTS[alert]["labels"]["severity"]}
    said |= ALERTS[alert]["labels"] | (stream.labels or {})
    shown = ALERTS[alert]["annotations"] | {"summary": stream.summary}
    alerts = [{"exp_labels": said, "exp_annotations": shown}]
    early = [quiet(alert, waits(alert) - 1)] if waits(alert) else []
    made = {
        "positive": (stream.bad, [*early, fires(alert, end)]),
        "negative": (stream.good, [quiet(alert, minute) for minute in range(0, end + 1, 5)]),
        "stale": (silent, [silence(alert, end + 12), silence(alert, end + 30)]),
        "NaN": (nothing, [quiet(alert, minute) for minute in (0, end, end + 30)]),
        "rolled back": (recovered, [fires(alert, end), quiet(alert, end + 12), quiet(alert, end + 30)]),
    }
    tests = [
        {
            "name": f"{alert}: {name}",
            "interval": "1m",
            "input_series": [
                {"series": series, "values": values}
                for series, values in (values | (stream.context or {})).items()
            ],
            "promql_expr_test": checks,
        }
        for name, (values, checks) in made.items()
    ]
    tests[0]["alert_rule_test"] = [{"eval_time": f"{end}m", "alertname": alert, "exp_alerts": alerts}]
    return tests


def promtool_is_content(tmp_path: Path, tests: list[dict]) -> None:
    file = tmp_path / "rules_test.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    argv = [program("promtool"), "test", "rules", file]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_raised_by_harm_and_by_nothing_else(alert, tmp_path):
    promtool_is_content(tmp_path, cases(alert))


def test_a_paused_queue_does_not_count_as_stalled(tmp_path):
    paused = dict(cases("FactdStalled")[0], promql_expr_test=[quiet("FactdStalled", 20)])
    del paused["alert_rule_test"]
    for series in paused["input_series"]:
        if "operator" in series["series"]:
            series["values"] = "1x200"
    promtool_is_content(tmp_path, [paused])


def test_the_base_model_needs_no_measurement(tmp_path):
    def of_the_base(alert):
        case = dict(cases(alert)[0], promql_expr_test=[quiet(alert, 20)])
        del case["alert_rule_test"]
        case["input_series"][-1]["values"] = "0x200"
        return case

    promtool_is_content(tmp_path, [of_the_base(f"FactdMeasurement{what}") for what in ("Missing", "Stale")])


def test_rules_name_metrics_that_exist():
    used = {name for rule in LOADED for name in re.findall(r"\bfactd_([a-z_]+)", rule["expr"])}
    assert used <= {metric.name for metric in METRICS}
    recorded = {rule["record"] for rule in LOADED if "record" in rule}
    assert {name for rule in LOADED for name in re.findall(r"factd:[a-z_:]+", rule["expr"])} <= recorded
    assert PREFIX == "factd_"


def test_levels_and_trends_are_at_the_limits_of_the_guard():
    bounds = Thresholds().as_settings()
    found = {}
    for alert, rule in ALERTS.items():
        measure = re.search(r"factd[_:]([a-z_]+)(:(max|min))?", rule["expr"])[1]
        levels = [float(level) for level in re.findall(r" [<>] ([\d.]+)", rule["expr"])]
        if f"{measure}_limit" in bounds:
            found[alert] = (
                levels,
                [bounds[f"{measure}_{kind}"] for kind in ("limit", "warn")[: len(levels)]],
            )
    assert len(found) == 10
    assert all(levels == wanted for levels, wanted in found.values()), found


def test_only_levels_of_the_whole_model_ask_for_a_rollback():
    asks = {name for name, rule in ALERTS.items() if rule["labels"].get("factd_action") == "rollback"}
    assert asks == {
        "FactdWeightNormHigh",
        "FactdSpectralNormHigh",
        "FactdSubspaceTurned",
        "FactdProbesMoved",
        "FactdPerplexityHigh",
    }
    assert all(ALERTS[name]["labels"]["severity"] == "critical" for name in asks)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_what_it_is_and_where_to_read_on(alert):
    assert set(ALERTS[alert]["annotations"]) == {"summary", "description", "runbook_url"}
    assert ALERTS[alert]["labels"]["severity"] in ("warning", "critical")
    assert ALERTS[alert]["annotations"]["runbook_url"] == f"docs/runbook.md#{alert.lower()}"


def test_the_runbook_has_an_entry_for_each_alert_and_for_no_other():
    headings = re.findall(r"^### (\w+)$", RUNBOOK.read_text("utf-8"), re.MULTILINE)
    assert headings == list(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_entry_of_the_runbook_says_what_it_means_how_to_check_and_what_to_do(alert):
    entry = RUNBOOK.read_text("utf-8").split(f"### {alert}\n")[1].split("\n## ")[0].split("\n### ")[0]
    assert re.findall(r"^\*\*(\w[\w ]+)\.\*\*", entry, re.MULTILINE) == ["It means", "Check", "Do"]
    assert "`factd " in entry
