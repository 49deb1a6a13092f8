"""What stands before the ledger: room, rates, commits of many requests at once, the doorbell, the client."""

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from benchmarks.service.intake import Load, intake
from daemon.cli.exits import Exit
from daemon.cli.main import app
from daemon.core.errors import ClientError, ConflictError, QueueFullError, SettingsError
from daemon.core.messages import parse_correction
from daemon.core.settings import Settings, load_settings
from daemon.http.api import create_app
from daemon.http.client import Client
from daemon.intake.doorbell import DoorbellThread
from daemon.intake.intake import Room, Writer, submit_or_refuse
from daemon.ledger.ledger import Ledger
from daemon.publish.stub import StubServing
from tests.waiting import until

ADMIN = {"Authorization": "Bearer admin-token"}
SUBMIT = {"Authorization": "Bearer submit-token"}


def body(number: int, **more) -> dict:
    return {"subject": f"S{number}", "prompt": "The city of {} is", "target": "Rome", **more}


@pytest.fixture
def ledger(tmp_path):
    made = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    yield made
    made.close()


@pytest.fixture
def serve(tmp_path, ledger):
    entered = []

    def make(**settings):
        told = Settings(
            state_dir=tmp_path, admin_token="admin-token", submit_token="submit-token", **settings
        )
        entered.append(TestClient(create_app(told, ledger, [StubServing()], lambda: None)))
        return entered[-1].__enter__()

    yield make
    for client in entered:
        client.__exit__(None, None, None)


def test_a_full_queue_takes_nothing_and_has_room_again_after_the_next_count(ledger):
    now = [0.0]
    room = Room(ledger, 2, lambda: now[0])
    room.take(1)
    ledger.intake.submit(parse_correction(body(1)), "a")
    with pytest.raises(QueueFullError, match="FACTD_MAX_PENDING"):
        room.take(2)
    room.take(1)
    assert room.left() == 0
    now[0] = 1.0  # one of the two was never recorded
    assert room.left() == 1


def test_a_full_queue_is_told_over_http_with_a_time_to_come_again(serve, ledger):
    client = serve(max_pending=2)
    assert client.post("/v1/corrections", json=[body(1), body(2)], headers=SUBMIT).status_code == 202
    answer = client.post("/v1/corrections", json=body(3), headers=SUBMIT)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert "FACTD_MAX_PENDING" in answer.json()["detail"]
    assert len(ledger.questions.corrections()) == 2
    never = client.post("/v1/corrections", json=[body(i) for i in range(3)], headers=SUBMIT)
    assert (never.status_code, never.headers.get("Retry-After")) == (413, None)
    assert "2 at once" in never.json()["detail"]


def test_each_token_has_a_rate_of_its_own(serve, ledger):
    client = serve(correction_rate="3/minute", request_rate="5/minute")
    assert client.post("/v1/corrections", json=[body(1), body(2)], headers=SUBMIT).status_code == 202
    answer = client.post("/v1/corrections", json=[body(3), body(4)], headers=SUBMIT)
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
    assert "FACTD_CORRECTION_RATE" in answer.json()["detail"]
    assert client.post("/v1/corrections", json=[body(3), body(4)], headers=ADMIN).status_code == 202
    assert [client.get("/v1/facts", headers=SUBMIT).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert client.get("/v1/facts", headers=ADMIN).status_code == 200
    assert [row.subject for row in ledger.questions.corrections()] == ["S1", "S2", "S3", "S4"]


def test_a_rate_that_cannot_be_counted_stops_nobody(serve, caplog):
    client = serve(rates_url="redis://127.0.0.1:1/0")
    assert client.post("/v1/corrections", json=body(1), headers=SUBMIT).status_code == 202
    assert "cannot be counted" in caplog.text


def test_a_rate_that_is_none_is_refused_at_start(monkeypatch):
    monkeypatch.setenv("FACTD_REQUEST_RATE", "fast")
    with pytest.raises(SettingsError, match=r"FACTD_REQUEST_RATE = 'fast'.*100/10 seconds"):
        load_settings()


def test_requests_at_once_share_commits_and_a_conflict_hits_only_its_own(ledger):
    writer = Writer(ledger)
    commits = []
    original = ledger.intake.submit_many
    ledger.intake.submit_many = lambda posts, **more: commits.append(len(posts)) or original(posts, **more)
    good = [[(None, parse_correction(body(i, key=f"k{i}")))] for i in range(30)]
    clash = [[(None, parse_correction(body(1, key="k0")))], [(None, parse_correction(body(2, key="k0")))]]
    with ThreadPoolExecutor(32) as pool:
        with ledger.database.writing():  # all have come before the writer gets the lock
            done = [pool.submit(writer.submit, good[0], "http")]
            until(lambda: commits)  # the writer stands before the lock, and takes no more
            done += [pool.submit(writer.submit, posts, "http") for posts in good[1:]]
            until(lambda: writer.waiting() == 29)
        ids = [one.result(30)[0] for one in done]
        held = [pool.submit(writer.submit, posts, "http") for posts in clash]
    for one in held:
        with pytest.raises(ConflictError):
            one.result(30)
    assert len(set(ids)) == 30
    assert len(ledger.questions.corrections()) == 30
    assert max(commits) > 1
    writer.close()


def test_many_rings_while_one_is_under_way_are_one():
    rung, hold, begun = [], threading.Event(), threading.Event()

    def ring():
        rung.append(1)
        begun.set()
        hold.wait(10)

    bell = DoorbellThread(ring)
    bell()
    begun.wait(10)
    for _ in range(50):
        bell()
    hold.set()
    bell.close()
    assert len(rung) == 2


def test_a_ring_that_fails_is_not_the_last(caplog):
    rung = []

    def ring():
        rung.append(len(rung))
        if len(rung) == 1:
            raise ValueError("READONLY")

    bell = DoorbellThread(ring)
    bell()
    until(lambda: rung)
    bell()
    bell.close()
    assert rung == [0, 1]
    assert "READONLY" in caplog.text


def test_a_message_under_a_taken_id_is_recorded_as_refused_beside_it(ledger):
    submit_or_refuse(ledger, "x", lambda: parse_correction(body(1)), "test")
    with pytest.raises(ConflictError):
        submit_or_refuse(ledger, "x", lambda: parse_correction(body(2)), "test")
    first, second = ledger.questions.corrections()
    assert (first.id, first.state) == ("x", "validated")
    assert second.id.startswith("x-")
    assert (second.state, "was used before" in (second.reason or "")) == ("rejected", True)


class Through(httpx.BaseTransport):
    """To an application in this process; every third request is lost, and every third answer."""

    def __init__(self, app: TestClient, flaky: bool = False) -> None:
        self.app, self.flaky, self.calls = app, flaky, 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.calls += 1
        if self.flaky and self.calls % 3 == 1:
            raise httpx.ConnectError("refused", request=request)
        headers, content = dict(request.headers), request.read()
        answer = self.app.request(request.method, str(request.url), headers=headers, content=content)
        if self.flaky and self.calls % 3 == 2:
            raise httpx.ReadError("cut", request=request)
        return httpx.Response(answer.status_code, headers=dict(answer.headers), content=answer.content)


def test_the_client_posts_once_over_a_connection_that_breaks(serve, ledger):
    flaky = Through(serve(), flaky=True)
    with Client("http://testserver", "submit-token", transport=flaky) as client:
        (one,) = client.post(body(1))
        many = client.post([parse_correction(body(i)) for i in range(2, 5)])
        assert client.get(one)["state"] == "validated"
    assert flaky.calls > 3
    assert [row.id for row in ledger.questions.corrections()] == [one, *many]


def test_the_client_comes_again_when_it_is_told_to_and_says_why_it_gives_up(serve):
    transport = Through(serve(correction_rate="2/second"))
    with Client("http://testserver", "submit-token", transport=transport) as client:
        assert len(client.post([body(1), body(2)]) + client.post([body(3), body(4)])) == 4
        with pytest.raises(ClientError, match="subject") as told:
            client.post({"subject": 5})
        assert told.value.status == 422
        with pytest.raises(ClientError) as told:
            client.retract("nothing")
        assert told.value.status == 403


def test_the_client_operates(serve, ledger):
    with Client("http://testserver", "admin-token", transport=Through(serve())) as client:
        (id,) = client.post(body(1))
        assert client.wait([id], timeout=0.1)[0]["state"] == "validated"
        operation = client.retract(id, "wrong")
        assert client.finish(operation, timeout=0.0)["state"] == "pending"
        assert client.facts() == []
        assert client.versions()["live"] == "v000000"
        assert client.gauges()["factd_version"] == 0.0


def test_the_command_line_says_that_the_queue_is_full(tmp_path, ledger, monkeypatch):
    monkeypatch.setenv("FACTD_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("FACTD_MAX_PENDING", "1")
    ledger.intake.submit(parse_correction(body(1)))
    words = ["post", "--subject", "S", "--prompt", "p {}", "--target", "t", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == Exit.BUSY
    assert "FACTD_MAX_PENDING" in done.output
    assert len(ledger.questions.corrections()) == 1


def test_the_benchmark_posts_to_a_real_process():
    result = intake(Load(clients=2, single=6, bulk=8, chunk=4, rate=50, seconds=0.1), lambda text: None)
    assert result["single_posts"] == 6
    assert all(value > 0 for value in result.values())
