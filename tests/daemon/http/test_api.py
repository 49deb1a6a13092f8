"""The HTTP API on a real ledger in a temporary file, with a replica in memory."""

import re

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import insert

from daemon.core.errors import SettingsError
from daemon.core.settings import Settings
from daemon.http.api import create_app
from daemon.http.service import MAX_BODY
from daemon.ledger.journal import Journal
from daemon.ledger.lease import Lease
from daemon.ledger.tables import versions
from daemon.publish.stub import StubServing

ADMIN = {"Authorization": "Bearer admin-token"}
SUBMIT = {"Authorization": "Bearer submit-token"}
GOOD = {"subject": "the Eiffel Tower", "prompt": "The city where {} stands is", "target": "Rome"}


def test_posted_correction_is_durable_and_rings(client, ledger, rings):
    answer = client.post("/v1/corrections", json=GOOD, headers=SUBMIT)
    assert answer.status_code == 202
    (id,) = answer.json()["ids"]
    assert ledger.questions.get(id).target == "Rome"
    assert rings == [1]
    assert client.get(f"/v1/corrections/{id}", headers=SUBMIT).json()["state"] == "validated"


def test_list_is_all_or_nothing(client, ledger):
    answer = client.post("/v1/corrections", json=[GOOD, GOOD | {"prompt": "no slot"}], headers=SUBMIT)
    assert answer.status_code == 422
    assert answer.json()["problems"][0]["field"] == "prompt"
    assert answer.json()["problems"][0]["line"] == 2
    assert ledger.questions.corrections() == []


def test_idempotency_key_gives_one_correction(client, ledger):
    headers = SUBMIT | {"Idempotency-Key": "k1"}
    first = client.post("/v1/corrections", json=GOOD, headers=headers).json()["ids"]
    assert client.post("/v1/corrections", json=GOOD, headers=headers).json()["ids"] == first
    assert len(ledger.questions.corrections()) == 1
    other = client.post("/v1/corrections", json=GOOD | {"target": "Oslo"}, headers=headers)
    assert other.status_code == 409


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"3",
        b'{"subject": "a", "subject": "b", "prompt": "x {}", "target": "t"}',
        b'{"subject": 5, "prompt": "x {}", "target": "t"}',
        b'{"subject": "a", "prompt": "{} {}", "target": "t"}',
        b'{"subject": "a", "prompt": "x {}", "target": ""}',
        b'{"subject": "a", "prompt": "x {}", "target": "t", "colour": "red"}',
    ],
)
def test_bad_input_names_the_fault_and_leaves_no_trace(client, ledger, rings, body):
    answer = client.post("/v1/corrections", content=body, headers=SUBMIT)
    assert answer.status_code == 422
    assert answer.json()["problems"][0]["mend"]
    assert ledger.questions.corrections() == []
    assert rings == []


def test_body_beyond_the_limit_is_refused(client):
    answer = client.post("/v1/corrections", content=b" " * (MAX_BODY + 1), headers=SUBMIT)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/corrections"),
        ("GET", "/v1/corrections"),
        ("GET", "/v1/corrections/x"),
        ("GET", "/v1/facts"),
        ("GET", "/v1/versions"),
        ("POST", "/v1/versions/v000000/rollback"),
        ("POST", "/v1/corrections/x/retract"),
        ("POST", "/v1/compact"),
        ("POST", "/v1/consolidate"),
        ("POST", "/v1/pause"),
        ("POST", "/v1/resume"),
        ("POST", "/v1/alerts"),
    ],
)
def test_tokens_are_needed(client, method, path):
    assert client.request(method, path).status_code == 401
    assert client.request(method, path, headers={"Authorization": "Bearer wrong"}).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/v1/versions/v000000/rollback",
        "/v1/corrections/x/retract",
        "/v1/compact",
        "/v1/consolidate",
        "/v1/pause",
        "/v1/resume",
        "/v1/alerts",
    ],
)
def test_submit_token_may_not_operate(client, path):
    assert client.post(path, headers=SUBMIT).status_code == 403


def test_unknown_things_are_not_found(client):
    assert client.get("/v1/corrections/nothing", headers=ADMIN).status_code == 404
    assert client.post("/v1/versions/v000099/rollback", headers=ADMIN).status_code == 404


def test_alert_on_the_base_model_asks_for_nothing(client, ledger):
    (said,) = client.post("/v1/alerts", json=_webhook(), headers=ADMIN).json()
    assert (said["action"], said["why"]) == ("none", "the base model is live")
    assert ledger.questions.operations() == []


def test_alert_without_a_time_zone_is_refused(client):
    webhook = _webhook()
    webhook["alerts"][0]["startsAt"] = "2026-01-01T00:00:00"
    assert client.post("/v1/alerts", json=webhook, headers=ADMIN).status_code == 422


@pytest.mark.parametrize("kind", ["compact", "consolidate"])
def test_compaction_and_consolidation_are_recorded_as_operations_and_ring(client, ledger, rings, kind):
    answer = client.post(f"/v1/{kind}?why=spring", headers=ADMIN)
    assert answer.status_code == 202
    told = answer.json()
    assert (told["kind"], told["why"], told["state"]) == (kind, "spring", "pending")
    assert ledger.questions.operation(answer.json()["operation"]).actor == "operator:http"
    assert rings == [1]


def _webhook() -> dict:
    labels = {"alertname": "Drift", "factd_action": "rollback"}
    alert = {"status": "firing", "labels": labels, "fingerprint": "abc123"}
    return {"version": "4", "alerts": [alert | {"startsAt": "2026-01-01T00:00:00Z"}]}


def test_metrics_and_pages_are_open(client):
    client.post("/v1/corrections", json=GOOD | {"target": "<b>Rome"}, headers=SUBMIT)
    assert "factd_version 0.0" in client.get("/metrics").text
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200
    page = client.get("/")
    assert "'unsafe-inline'" not in page.headers["Content-Security-Policy"]
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
    for part in re.findall(r'(?:src|href)="(static/[^"]+)"', page.text):
        assert client.get(f"/{part}").status_code == 200
    assert "<script>" not in page.text


def test_status_shows_texts_only_to_who_has_a_token(client, ledger):
    client.post("/v1/corrections", json=GOOD, headers=SUBMIT)
    ledger.intake.request("pause", actor="operator:ann", why="the tower again")
    with Lease(ledger.database, 30.0) as lease:
        Journal(ledger.database, lease.fence).guard.pause("paused: answers 'Rome'")
    open_view = client.get("/v1/status").json()
    assert (open_view["scope"], open_view["live"], open_view["pending"]) == (None, "v000000", 1)
    said = {"serves": "default", "state": "in_sync", "in_sync": False, "version": 0}
    assert open_view["replicas"] == [{"name": "replica 0", **said}]
    assert not any(sign["alive"] for sign in open_view["workers"].values())
    assert "no apply worker gives a sign of life" in open_view["mismatches"][-1]
    assert open_view["paused"]["actor"] == "guard"
    assert "Rome" not in str(open_view)
    view = client.get("/v1/status", headers=SUBMIT).json()
    assert view["scope"] == "submit"
    assert view["paused"]["why"] == view["last_steps"][0]["why"] == "paused: answers 'Rome'"
    assert client.get("/v1/status", headers=ADMIN).json()["scope"] == "admin"
    assert client.get("/v1/status", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_corrections_are_listed_newest_first_and_searched(client):
    posts = [GOOD, GOOD | {"subject": "100%_Sure", "target": "Oslo"}, GOOD | {"subject": "Bob"}]
    ids = client.post("/v1/corrections", json=posts, headers=SUBMIT).json()["ids"]

    def found(**asked):
        return [view["id"] for view in client.get("/v1/corrections", params=asked, headers=SUBMIT).json()]

    assert found() == ids[::-1]
    assert found(limit=1) == ids[2:]
    assert found(containing="where the eiffel TOWER stands") == ids[:1]
    assert found(containing="oslo") == found(containing="%_") == ids[1:2]
    assert found(containing="nothing like it") == found(state="live") == []
    for asked in ("state=odd", "containing=a%00b"):
        assert client.get(f"/v1/corrections?{asked}", headers=SUBMIT).status_code == 422


def test_measures_that_cannot_be_read_are_shown_as_not_measured(client, ledger):
    with ledger.database.writing() as c:
        row = {"added": [], "removed": [], "attempts": 0, "fence": 0, "created_at": 0.0}
        row |= {"state": "past", "measurements": {"weight_norm_ratio": {"4": "NaN"}}}
        for number, measured in enumerate([row["measurements"], {"of": "another factd"}], start=1):
            c.execute(insert(versions).values(id=f"v{number:06d}", **row | {"measurements": measured}))
    values = [version["values"] for version in client.get("/v1/status").json()["versions"]]
    assert [value["weight_norm_ratio"] for value in values] == [None, None, None]


def test_pause_and_resume_are_recorded_as_operations(client, ledger):
    for kind in ("pause", "resume"):
        answer = client.post(f"/v1/{kind}?why=night", headers=ADMIN)
        assert (answer.status_code, answer.json()["kind"], answer.json()["why"]) == (202, kind, "night")
        assert client.post(f"/v1/{kind}?why=a%00b", headers=ADMIN).status_code == 422
    assert [operation.actor for operation in ledger.questions.operations()] == ["operator:http"] * 2


def test_not_ready_when_a_replica_is_down(settings, ledger):
    replica = StubServing()
    replica.alive = False
    with TestClient(create_app(settings, ledger, [replica], lambda: None)) as client:
        answer = client.get("/readyz")
    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
    # Whoever asks has no token: addresses stay at home.
    assert answer.json()["replicas"] == {"replica 0": False}


@pytest.mark.parametrize("token", [None, "", " "])
def test_api_without_admin_token_does_not_start(tmp_path, ledger, monkeypatch, token):
    if token is not None:  # an empty one would be what a request without any sends
        monkeypatch.setenv("FACTD_ADMIN_TOKEN", token)
    with pytest.raises(SettingsError, match="FACTD_ADMIN_TOKEN"):
        create_app(Settings(state_dir=tmp_path), ledger, [], lambda: None)
