"""A replica that takes too long costs no correction and no operation an attempt."""

import pytest

from daemon.core.errors import PublishError, SlowError
from daemon.publish.publishing import Publisher
from daemon.publish.serving import BUSY, HUNG, SLOW, ServingError
from daemon.publish.stub import StubServing

#: More runs than a correction has attempts.
RUNS = 5


def slow(code):
    def late(*_args, **_more):
        raise ServingError("took more than 60 s", retryable=True, code=code)

    return late


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("complete", SLOW),
        ("stage", HUNG),
        ("stage", BUSY),
        ("publish", HUNG),
        ("served", SLOW),
        ("log_probs", SLOW),
    ],
)
def test_no_correction_ends_dead_by_a_slow_server(world, monkeypatch, method, code):
    world.post("A", "B")
    world.run()
    world.post("C", "D")
    with monkeypatch.context() as late:
        late.setattr(world.replica, method, slow(code))
        for _ in range(RUNS):
            assert "took more than 60 s" in str(world.run().held)
            world.now += 6
            row = world.ledger.questions.get("id-C-D")
            assert (row.state, row.attempts) == ("validated", 0)
    world.run()
    assert world.states() == {"id-A-B": "live", "id-C-D": "live"}
    world.check_agreement()


@pytest.mark.parametrize("kind", ["retract", "rollback"])
def test_no_operation_fails_by_a_slow_server(world, monkeypatch, kind):
    world.post("A", "B")
    world.run()
    target = "id-A-B" if kind == "retract" else "v000000"
    world.ledger.intake.request(kind, target, actor="operator")
    with monkeypatch.context() as late:
        late.setattr(world.replica, "publish", slow(HUNG))
        for _ in range(RUNS):
            assert world.run().held
            world.now += 6
    world.run()
    assert [asked.state for asked in world.ledger.questions.operations()] == ["done"]
    assert world.replica.served().version == world.ledger.questions.live_version() != "v000001"


def test_attempts_before_the_slow_one_still_count(world, monkeypatch):
    world.post("A", "B")
    world.replica.failures = ["v000001"]
    world.run()
    world.now += 6
    with monkeypatch.context() as late:
        late.setattr(world.replica, "complete", slow(SLOW))
        world.run()
    assert world.ledger.questions.get("id-A-B").attempts == 1


def test_a_slow_replica_is_taken_out_and_the_others_go_on(world):
    late, good = StubServing(name="late"), StubServing(name="good")
    late.served = slow(SLOW)
    publisher = Publisher([late, good], world.store, fence=1)
    publisher.publish("v000000")
    publisher.confirm("v000000")
    assert list(publisher.out) == ["late"]


def test_a_replica_that_died_is_not_called_slow(world):
    dead = StubServing()
    dead.alive = False
    with pytest.raises(PublishError) as error:
        Publisher([dead], world.store, fence=1).publish("v000001")
    assert not isinstance(error.value, SlowError)
