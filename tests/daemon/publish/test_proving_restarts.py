"""What is proved when: after every flip, restart and return, and never twice without need."""

import pytest

from daemon.publish.proving.noise import Noise


@pytest.fixture
def asked(world):
    """The world at v000001 with one fact, and the sets of subjects that each proof asked about."""
    world.post("A", "B")
    assert world.run().out == {}
    seen: list[list[str]] = []
    honest = world.replica.log_probs

    def noted(passages):
        seen.append([bytes(p).decode().split("\0")[0] for p in passages])
        return honest(passages)

    world.replica.log_probs = noted
    return seen


def lies(replica, version):
    """The replica computes with the facts of a version, whatever its label says."""
    honest = type(replica).log_probs

    def told(passages):
        label = replica._memory()
        replica._memory = lambda: label | {"version": version}
        try:
            return honest(replica, passages)
        finally:
            del replica._memory

    replica.log_probs = told
    return lambda: setattr(replica, "log_probs", lambda passages: honest(replica, passages))


def test_nothing_is_proved_twice(world, asked):
    world.run()
    world.run()
    assert asked == []
    world.open()  # a new apply worker knows of no proof
    asked_again = []
    honest = world.replica.log_probs
    world.replica.log_probs = lambda passages: (asked_again.append(len(passages)), honest(passages))[1]
    world.run()
    world.run()
    assert asked_again == [2]


def test_a_restarted_replica_is_asked_for_the_live_facts(world, asked):
    world.replica.restart()
    assert world.run().out == {}
    assert asked == [["The capital of A is", "The sky is"]]


def test_a_restarted_replica_that_says_the_live_label_with_the_bases_weights_is_not_used(world, asked):
    world.replica.restart()
    mended = lies(world.replica, "v000000")
    report = world.run()
    assert "1 of 2 passages differ, the worst by 4.90 nats (0.02 allowed)" in report.out["disk"]
    assert "no replica can be used" in report.held
    assert list(world.ledger.questions.status().disproved) == ["disk"]
    told = len(world.replica._memory()["published"])
    assert world.run().out  # the label is right, the weights are not: it is told again
    assert world.replica._memory()["published"][told:] == ["v000001"]
    mended()
    assert world.run().out == {}
    assert world.ledger.questions.status().disproved == {}


def test_damage_is_never_taken_for_noise(world, asked):
    before = dict(world.applier.proof.noise)
    assert before == {"disk": Noise(0.0, 0.0, 0.0)}
    world.replica.restart()
    lies(world.replica, "v000000")
    world.run()
    assert world.applier.proof.noise == before


def test_what_was_brought_back_is_proved_too(world, asked):
    world.post("C", "bad-weights")
    honest = world.replica.log_probs

    def wrong_once(passages):
        world.replica.log_probs = honest
        return [[-2.0] * len(p) for p in passages]

    world.replica.log_probs = wrong_once
    world.run()
    assert world.states()["id-C-bad-weights"] == "rolled_back"
    assert asked[-1] == ["The capital of A is", "The sky is"]  # the old version's facts, after it came back
    assert world.applier.proof.proven == {"disk": "v000001"}


def test_a_replica_that_does_not_compute_what_was_brought_back_is_taken_out(world, asked):
    world.post("C", "D")
    mended = lies(world.replica, "v000000")
    report = world.run()
    assert "does not compute what was staged" in report.out["disk"]
    assert world.applier.proof.proven == {}
    mended()
    world.now += 6
    assert world.run().out == {}


def test_a_rollback_asks_for_the_facts_of_the_target(world, asked):
    world.post("C", "D")
    world.run()
    world.ledger.intake.request("rollback", "v000001", actor="operator")
    world.run()
    assert set(asked[-1]) == {"The capital of A is", "The capital of C is", "The sky is"}
    assert world.applier.proof.proven == {"disk": "v000001"}


def test_a_compaction_asks_for_live_facts(world, asked):
    world.ledger.intake.request("compact", None, actor="operator")
    world.run()
    assert asked[-1] == ["The capital of A is", "The sky is"]
    assert world.applier.proof.proven == {"disk": "v000002"}
