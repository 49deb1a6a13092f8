"""The steps of a publication, in their order, and where a failure leaves it."""

from types import SimpleNamespace

import pytest

from daemon.core.errors import LeaseLostError, ProofError, PublishError
from daemon.publish.proof import Proof
from daemon.publish.proving.passages import Passage
from daemon.publish.publication import Publication
from daemon.publish.publishing import Publisher
from daemon.publish.stub import StubServing


class Told(StubServing):
    """Writes down what it is asked."""

    def __init__(self, name, steps, log_prob=-1.0):
        super().__init__(name=name, log_prob=lambda version, passage: log_prob)
        self.steps = steps

    def stage(self, version, fence):
        self.steps.append(f"stage {self.name}")
        super().stage(version, fence)

    def publish(self, version, fence):
        self.steps.append(f"flip {self.name}")
        return super().publish(version, fence)

    def served(self):
        self.steps.append(f"confirm {self.name}")
        return super().served()

    def log_probs(self, passages):
        self.steps.append(f"prove {self.name}")
        return super().log_probs(passages)


@pytest.fixture
def made():
    """Makes a publication of v000001 to `a` and `b`; `steps` is what happened."""

    def make(log_prob=-1.0):
        steps: list[str] = []
        journal = SimpleNamespace(
            check_fence=lambda: steps.append("fence"),
            record_publication=lambda version, cause, names, pause: steps.append(f"record {cause} {names}"),
        )
        manifests = SimpleNamespace(weight_sha256=lambda version: {})
        proof = Proof(lambda pairs: [Passage((1, 2), 1, (-1.0,)) for _ in pairs], [("p", "t")])
        publisher = Publisher([Told("a", steps, log_prob), Told("b", steps, log_prob)], manifests, 3, proof)
        publication = Publication(
            journal,
            publisher,
            "v000001",
            "update",
            [],
            on_staged=lambda: steps.append("staged"),
            on_flipped=lambda: steps.append("flipped"),
        )
        return publication, steps

    return make


def grouped(steps):
    """Replicas are asked at once, so that their order among each other means nothing."""
    return [
        sorted(steps[:2]),
        *steps[2:4],
        sorted(steps[4:6]),
        *steps[6:8],
        sorted(steps[8:10]),
        sorted(steps[10:]),
    ]


def test_all_stage_before_one_flips_and_the_record_comes_before_the_proof(made):
    publication, steps = made()
    publication.flip()
    publication.prove()
    assert grouped(steps) == [
        ["stage a", "stage b"],
        "staged",
        "fence",
        ["flip a", "flip b"],
        "record update ['a', 'b']",
        "flipped",
        ["confirm a", "confirm b"],
        ["prove a", "prove b"],
    ]


def test_a_replica_that_serves_it_already_is_left_alone_and_proved_with_the_others(made):
    publication, steps = made()
    publication.publisher.replicas[0].publish("v000001", 3)
    steps.clear()
    publication.flip(but="a")
    publication.prove()
    assert "flip a" not in steps
    assert {"flip b", "prove a", "prove b"} <= set(steps)


def test_a_writer_that_lost_its_lease_flips_none(made):
    publication, steps = made()

    def lost():
        raise LeaseLostError("a newer applier is at work")

    publication.journal.check_fence = lost
    with pytest.raises(LeaseLostError):
        publication.flip()
    assert not any(step.startswith(("flip", "record")) for step in steps)


def test_a_replica_that_serves_another_version_or_computes_another_is_found(made):
    publication, _ = made(log_prob=-9.0)
    publication.flip()
    with pytest.raises(ProofError, match="does not compute"):
        publication.prove()
    publication.publisher.replicas[1].version = "v000000"
    with pytest.raises(PublishError, match="b should serve v000001"):
        publication.prove()
