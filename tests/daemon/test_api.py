"""The HTTP API on a real ledger in a temporary file, with a replica in memory."""

import httpx
import pytest
from fastapi.testclient import TestClient

from daemon.api import MAX_BODY, create_app
from daemon.errors import SettingsError
from daemon.ledger import Ledger
from daemon.serving import StubServing
from daemon.settings import Settings

ADMIN = {"Authorization": "Bearer admin-token"}
SUBMIT = {"Authorization": "Bearer submit-token"}
GOOD = {"subject": "the Eiffel Tower", "prompt": "The city where {} stands is", "target": "Rome"}


@pytest.fixture
def settings(tmp_path):
    return Settings(state_dir=tmp_path, admin_token="admin-token", submit_token="submit-token")


@pytest.fixture
def ledger(settings):
    return Ledger.open(settings.ledger_url)


@pytest.fixture
def rings():
    return []


@pytest.fixture
def client(settings, ledger, rings):
    app = create_app(settings, ledger, [StubServing()], lambda: rings.append(1))
    with TestClient(app) as client:
        yield client


def test_posted_correction_is_durable_and_rings(client, ledger, rings):
    answer = client.post("/v1/corrections", json=GOOD, headers=SUBMIT)
    assert answer.status_code == 202
    (id,) = answer.json()["ids"]
    assert ledger.get(id).target == "Rome"
    assert rings == [1]
    assert client.get(f"/v1/corrections/{id}", headers=SUBMIT).json()["state"] == "validated"


def test_list_is_all_or_nothing(client, ledger):
    answer = client.post("/v1/corrections", json=[GOOD, GOOD | {"prompt": "no slot"}], headers=SUBMIT)
    assert answer.status_code == 422
    assert answer.json()["problems"][0]["field"] == "prompt"
    assert answer.json()["problems"][0]["line"] == 2
    assert ledger.corrections() == []


def test_idempotency_key_gives_one_correction(client, ledger):
    headers = SUBMIT | {"Idempotency-Key": "k1"}
    first = client.post("/v1/corrections", json=GOOD, headers=headers).json()["ids"]
    assert client.post("/v1/corrections", json=GOOD, headers=headers).json()["ids"] == first
    assert len(ledger.corrections()) == 1
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
    assert ledger.corrections() == []
    assert rings == []


def test_body_beyond_the_limit_is_refused(client):
    answer = client.post("/v1/corrections", content=b" " * (MAX_BODY + 1), headers=SUBMIT)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/corrections"),
        ("GET", "/v1/corrections/x"),
        ("GET", "/v1/facts"),
        ("GET", "/v1/versions"),
        ("POST", "/v1/versions/v000000/rollback"),
        ("POST", "/v1/corrections/x/retract"),
        ("POST", "/v1/compact"),
        ("POST", "/v1/alerts"),
    ],
)
def test_tokens_are_needed(client, method, path):
    assert client.request(method, path).status_code == 401
    assert client.request(method, path, headers={"Authorization": "Bearer wrong"}).status_code == 401


@pytest.mark.parametrize(
    "path", ["/v1/versions/v000000/rollback", "/v1/corrections/x/retract", "/v1/compact", "/v1/alerts"]
)
def test_submit_token_may_not_operate(client, path):
    assert client.post(path, headers=SUBMIT).status_code == 403


def test_unknown_things_are_not_found(client):
    assert client.get("/v1/corrections/nothing", headers=ADMIN).status_code == 404
    assert client.post("/v1/versions/v000099/rollback", headers=ADMIN).status_code == 404


def test_alert_on_the_base_model_asks_for_nothing(client, ledger):
    (said,) = client.post("/v1/alerts", json=_webhook(), headers=ADMIN).json()
    assert (said["action"], said["why"]) == ("none", "the base model is live")
    assert ledger.operations() == []


def test_alert_without_a_time_zone_is_refused(client):
    webhook = _webhook()
    webhook["alerts"][0]["startsAt"] = "2026-01-01T00:00:00"
    assert client.post("/v1/alerts", json=webhook, headers=ADMIN).status_code == 422


def test_compaction_is_recorded_as_an_operation_and_rings(client, ledger, rings):
    answer = client.post("/v1/compact?why=spring", headers=ADMIN)
    assert answer.status_code == 202
    assert (answer.json()["kind"], answer.json()["why"], answer.json()["state"]) == (
        "compact",
        "spring",
        "pending",
    )
    assert ledger.operation(answer.json()["operation"]).actor == "operator:http"
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
    page = client.get("/").text
    assert "v000000" in page
    assert "<b>Rome" not in page


def test_not_ready_when_a_replica_is_down(settings, ledger):
    replica = StubServing()
    replica.alive = False
    with TestClient(create_app(settings, ledger, [replica], lambda: None)) as client:
        assert client.get("/readyz").status_code == httpx.codes.SERVICE_UNAVAILABLE


def test_api_without_admin_token_does_not_start(tmp_path, ledger):
    with pytest.raises(SettingsError, match="FACTD_ADMIN_TOKEN"):
        create_app(Settings(state_dir=tmp_path), ledger, [], lambda: None)
