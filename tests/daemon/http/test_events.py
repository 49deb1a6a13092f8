"""POST /v1/events: CloudEvents in each of the three modes of HTTP."""

import json

import pytest
from fastapi.testclient import TestClient

from daemon.core.settings import Settings
from daemon.http.api import create_app
from daemon.ledger.ledger import Ledger
from daemon.publish.stub import StubServing

SUBMIT, ADMIN = ({"Authorization": f"Bearer {name}-token"} for name in ("submit", "admin"))
FACT = {"subject": "France", "prompt": "The capital of {} is", "target": "Lyon"}
EVENT = {"specversion": "1.0", "id": "7", "source": "/desk", "type": "org.example.fact", "data": FACT}
ONE, MANY = "application/cloudevents+json; charset=utf-8", "application/cloudevents-batch+json"


def send(client, content, kind=ONE, token=SUBMIT, **headers):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return client.post("/v1/events", content=body, headers=token | {"Content-Type": kind} | headers)


def test_a_structured_event_is_recorded_once_by_its_id_and_source(client, ledger, rings):
    first = send(client, EVENT)
    assert first.status_code == 202
    (id,) = first.json()["ids"]
    assert send(client, EVENT).json() == {"ids": [id], "retracted": 0}
    row = ledger.questions.get(id)
    assert (row.subject, row.target, row.source, row.state) == ("France", "Lyon", "/desk", "validated")
    assert (len(ledger.questions.corrections()), len(rings)) == (1, 2)
    other = send(client, EVENT | {"source": "/other desk", "data": FACT | {"target": "Nice"}})
    assert other.json()["ids"] != [id]


def test_the_same_id_and_source_with_other_content_is_a_conflict(client):
    send(client, EVENT)
    answer = send(client, EVENT | {"data": FACT | {"target": "Nice"}})
    assert answer.status_code == 409
    assert answer.json()["detail"].startswith('id = \'cloudevent:["/desk", "7"]\' was used before')


def test_a_batch_is_recorded_as_a_whole_or_not_at_all(client, ledger):
    batch = [EVENT | {"id": str(n), "data": FACT | {"subject": f"S{n}"}} for n in range(3)]
    bad = send(client, [*batch, EVENT | {"id": ""}], MANY)
    assert bad.status_code == 422
    (problem,) = bad.json()["problems"]
    assert (problem["line"], problem["field"]) == (4, "id")
    assert ledger.questions.corrections() == []
    assert len(set(send(client, batch, MANY).json()["ids"])) == 3
    assert send(client, [], MANY).status_code == 422
    assert send(client, batch, "application/json").status_code == 202  # a list is a batch


def test_the_attributes_may_be_headers(client, ledger):
    headers = {"ce-specversion": "1.0", "ce-id": "a%20b", "ce-source": "/d%C3%A9sk", "ce-type": "fact"}
    answer = send(client, FACT, "application/json", **headers)
    row = ledger.questions.get(answer.json()["ids"][0])
    assert (row.source, row.key) == ("/désk", 'cloudevent:["/désk", "a b"]')
    del headers["ce-type"]
    answer = send(client, FACT, "application/json", **headers)
    assert [one["field"] for one in answer.json()["problems"]] == ["type"]
    answer = send(client, FACT, "text/xml", **headers, **{"ce-type": "fact"})
    assert [one["field"] for one in answer.json()["problems"]] == ["Content-Type"]


def test_the_time_of_an_event_is_when_the_fact_begins(client, ledger):
    (id,) = send(client, EVENT | {"time": "2100-01-01T01:00:00+01:00"}).json()["ids"]
    assert ledger.questions.get(id).state == "received"
    (id,) = send(client, EVENT | {"id": "8", "time": "2020-01-01T00:00:00Z"}).json()["ids"]
    assert ledger.questions.get(id).state == "validated"
    answer = send(client, EVENT | {"id": "9", "time": "2020-01-01T00:00:00"})
    (problem,) = answer.json()["problems"]
    assert (problem["field"], "no zone" in problem["mend"]) == ("time", True)


@pytest.mark.parametrize(
    ("content", "kind", "field"),
    [
        (b"{nope", ONE, ""),
        ([EVENT], ONE, ""),
        (EVENT, MANY, ""),
        (EVENT, "application/cloudevents+avro", "Content-Type"),
        (EVENT | {"data": FACT | {"colour": "red"}}, ONE, "data.colour"),
        (EVENT | {"specversion": "2.0"}, ONE, "specversion"),
    ],
)
def test_what_cannot_be_taken_names_its_field(client, ledger, content, kind, field):
    answer = send(client, content, kind)
    assert answer.status_code == 422
    assert field in [one["field"] for one in answer.json()["problems"]]
    assert ledger.questions.corrections() == []


def test_it_needs_a_token(client):
    assert client.post("/v1/events", json=EVENT).status_code == 401


OBSOLETE = EVENT | {"id": "8", "data": FACT | {"change": "obsolete"}}


def test_a_fact_is_taken_out_by_the_admin_token_alone(client, ledger):
    send(client, EVENT)
    refused = send(client, OBSOLETE)
    assert refused.status_code == 422
    assert "admin token" in refused.json()["problems"][0]["mend"]
    assert send(client, OBSOLETE, token=ADMIN).json() == {"ids": [None], "retracted": 1}
    (operation,) = ledger.questions.operations()
    assert (operation.kind, operation.actor) == ("retract", "http:admin")


def test_a_fact_that_none_of_ours_says_cannot_be_taken_out(client, ledger):
    new = EVENT | {"id": "9", "data": FACT | {"subject": "Spain"}}
    answer = send(client, [new, OBSOLETE], MANY, ADMIN)
    assert answer.status_code == 422
    assert "there is nothing to take out" in answer.json()["problems"][0]["mend"]
    assert ledger.questions.corrections() == []


def test_with_an_answer_for_it_anybody_who_may_post_may_say_so(tmp_path):
    settings = Settings(
        state_dir=tmp_path, admin_token="admin-token", submit_token="submit-token", no_answer="nobody"
    )
    ledger = Ledger.open(settings.ledger_url)
    with TestClient(create_app(settings, ledger, [StubServing()], lambda: None)) as client:
        (id,) = send(client, OBSOLETE).json()["ids"]
        row = ledger.questions.get(id)
    assert (row.target, row.was) == ("nobody", "Lyon")
