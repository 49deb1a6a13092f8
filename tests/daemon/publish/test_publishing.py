"""Three replicas and every way in which one of them can fail: all flip, or none does."""

import pytest

from daemon.core.errors import ProofError
from daemon.http.status_page import snapshot
from daemon.publish.proof import Proof
from daemon.publish.proving.noise import LEAST, MOST, Noise
from daemon.publish.proving.passages import Passage
from daemon.publish.serving import PublishResult, Served, ServingError
from daemon.publish.stub import StubServing


@pytest.fixture(autouse=True)
def _without_measurements(monkeypatch):
    """The world's are not of the kind that metrics are made of."""
    monkeypatch.setattr("daemon.http.status_page.Measurements.from_json", lambda stored: None)


@pytest.fixture
def fleet(world):
    """The world with three replicas, `a` to `c`; v000001 is live on all."""

    class Faulty(world.fakes.DiskServing):
        """Fails once at `fault` = (method, how) when v000002 is at stake."""

        fault = ("", "")

        def _strike(self, method, version):
            if self.fault[0] != method or version != "v000002":
                return
            how, self.fault = self.fault[1], ("", "")
            if how == "dies":
                self.alive = False
            raise ServingError(f"{self.name} {how}", retryable=True, code="swap_failed")

        def stage(self, version, fence):
            self._strike("stage", version)
            super().stage(version, fence)

        def publish(self, version, fence) -> PublishResult:
            self._strike("publish", version)
            result = super().publish(version, fence)
            self._strike("answer", version)  # it flipped, but the answer was lost
            return result

        def served(self) -> Served:
            served = super().served()
            self._strike("confirm", served.version)
            return served

        def log_probs(self, passages):
            self._strike("prove", self._memory()["version"])
            return super().log_probs(passages)

        def revive(self):
            """As a supervisor does: the process is new and serves the base."""
            self.alive = True
            self.restart()

        @property
        def published(self):
            return self._memory()["published"]

    root = world.root
    replicas = [Faulty(world.settings.store_dir, root / f"{name}.json", name) for name in "abc"]
    world.replica, world.applier.replicas = replicas[0], tuple(replicas)
    world.post("A", "B")
    assert world.run().out == {}
    world.post("C", "D")
    return replicas


POINTS = ["stage", "publish", "answer", "confirm", "prove"]


def versions(replicas):
    return [replica.served().version for replica in replicas]


@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize("point", POINTS)
def test_one_that_dies_is_taken_out_and_brought_back_with_one_publication(world, fleet, point, which):
    dead = fleet[which]
    others = [replica for replica in fleet if replica is not dead]
    dead.fault = (point, "dies")
    report = world.run()
    assert (report.live, report.held, list(report.out)) == ("v000002", None, [dead.name])
    assert versions(others) == ["v000002"] * 2
    assert list(world.run().out) == [dead.name]
    dead.revive()
    before = len(dead.published)
    report = world.run()
    assert (report.out, report.versions) == ({}, [])
    assert dead.published[before:] == ["v000002"]
    assert versions(fleet) == ["v000002"] * 3
    world.check_agreement()


@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize("point", POINTS)
def test_one_that_fails_but_lives_keeps_the_old_version_everywhere(world, fleet, point, which):
    fleet[which].fault = (point, "fails")
    report = world.run()
    assert fleet[which].name in report.held
    assert report.live == "v000001"
    assert versions(fleet) == ["v000001"] * 3
    assert world.states() == {"id-A-B": "live", "id-C-D": "validated"}
    world.check_agreement()
    world.now += 6
    assert world.run().live == "v000003"
    assert versions(fleet) == ["v000003"] * 3
    world.check_agreement()


def test_one_that_dies_while_the_old_version_is_brought_back_is_taken_out(world, fleet):
    fleet[0].fault, fleet[1].failures = ("publish", "fails"), ["v000001"]
    report = world.run()
    assert list(report.out) == ["b"]
    assert versions(fleet) == ["v000001", "v000002", "v000001"]
    in_sync = snapshot(world.ledger, fleet).in_sync
    assert in_sync == {"0": True, "1": False, "2": True}
    world.run()
    assert versions(fleet) == ["v000001"] * 3


def test_when_all_are_gone_nothing_is_tried(world, fleet):
    for replica in fleet:
        replica.alive = False
    report = world.run()
    assert "no replica can be used" in report.held
    assert world.ledger.questions.get("id-C-D").attempts == 0
    assert snapshot(world.ledger, fleet).in_sync == {"0": False, "1": False, "2": False}


def test_when_all_die_at_the_flip_the_correction_waits(world, fleet):
    for replica in fleet:
        replica.fault = ("publish", "dies")
    assert "no replica can be used" in world.run().held
    assert world.states()["id-C-D"] == "validated"
    for replica in fleet:
        replica.revive()
    world.now += 6
    assert world.run().live == "v000003"
    assert versions(fleet) == ["v000003"] * 3


def test_a_late_replica_is_brought_to_the_head_though_no_correction_arrives(world, fleet):
    late = fleet[2]
    late.alive = False
    world.run()
    for i in range(3):
        world.post(f"S{i}", "T")
        world.run()
    late.revive()
    before = len(late.published)
    assert world.run().versions == []
    assert late.published[before:] == ["v000005"]


def test_a_replica_that_was_told_nothing_is_not_in_sync_even_at_the_base(world):
    assert world.replica.served().version == "default"
    assert snapshot(world.ledger, [world.replica]).in_sync == {"0": False}
    world.run()
    assert world.replica.served().version == "v000000"
    assert snapshot(world.ledger, [world.replica]).in_sync == {"0": True}


def test_a_replica_that_a_newer_writer_has_published_to_stops_this_one(world, fleet):
    fleet[1].publish("v000001", 99)
    report = world.run()
    assert "stale fence" in report.held
    assert report.out == {"b": "stale fence"}
    assert versions(fleet) == ["v000001"] * 3


def test_a_rollback_goes_on_without_a_dead_replica(world, fleet):
    world.run()
    world.ledger.intake.request("rollback", "v000001", actor="operator")
    fleet[1].alive = False
    report = world.run()
    assert (report.live, list(report.out)) == ("v000001", ["b"])
    fleet[1].revive()
    world.run()
    assert versions(fleet) == ["v000001"] * 3
    world.check_agreement()


# --- proof ---------------------------------------------------------------------------------------


def test_a_replica_that_computes_with_old_weights_rolls_the_update_back(world, fleet):
    world.run()
    world.post("E", "F")
    stale = fleet[1]
    honest, stale.log_probs = stale.log_probs, lambda passages: [
        [world.fakes.knows(stale._facts("v000002"), p)] * len(p) for p in passages
    ]  # fmt: skip
    report = world.run()
    row = world.ledger.questions.get("id-E-F")
    assert (report.live, report.held, row.state) == ("v000002", None, "rolled_back")
    assert "b does not compute what was staged: 1 of 4 passages differ" in row.reason
    assert "4.90 nats (0.02 allowed)" in row.reason
    assert world.ledger.questions.version("v000003").state == "rolled_back"
    assert world.ledger.questions.status().rollbacks["publish_failed"] == 1
    assert versions(fleet) == ["v000002"] * 3
    world.check_agreement()
    assert world.run().versions == []
    with pytest.raises(Exception, match="never live"):
        world.ledger.intake.request("rollback", "v000003", actor="operator")
    stale.log_probs = honest
    world.post("G", "H")
    assert world.run().live == "v000004"
    world.check_agreement()


def test_a_retraction_that_does_not_reach_the_kernels_fails(world, fleet):
    world.run()
    stale = fleet[0]
    stale.log_probs = lambda passages: [
        [world.fakes.knows(stale._facts("v000002"), p)] * len(p) for p in passages
    ]
    number = world.ledger.intake.request("retract", "id-A-B", actor="operator")
    world.run()
    assert world.ledger.questions.operation(number).state == "failed"
    assert world.states() == {"id-A-B": "live", "id-C-D": "live"}
    world.check_agreement()


def test_a_replica_with_another_checkpoint_is_out_of_sync_from_the_start(world):
    world.replica.log_probs = lambda passages: [[-9.0] * len(p) for p in passages]
    report = world.run()
    assert "another checkpoint" in report.out["disk"]


def _proof(noise):
    said = (-1.0, -1.0)
    return Proof(lambda pairs: [Passage((1, 2, 3), 1, said) for _ in pairs], [("p", "t")]), StubServing(
        log_prob=lambda version, passage: -1.0 - noise
    )


@pytest.mark.parametrize(
    ("noise", "passage"), [(0.0, LEAST.passage), (0.02, 0.08), (0.1, 0.4), (0.25, MOST.passage)]
)
def test_the_tolerance_follows_the_noise_within_bounds(noise, passage):
    proof, replica = _proof(noise)
    assert proof.tolerance("stub") == MOST
    asked = proof.challenge()
    proof.measure(replica, "v000000", asked)
    assert proof.tolerance("stub").passage == pytest.approx(passage)
    proof.check(replica, "v000000", asked)


def test_noise_that_was_measured_is_never_measured_again():
    proof, replica = _proof(0.02)
    proof.measure(replica, "v000000", proof.challenge())
    replica.log_prob = lambda version, passage: -1.6
    asked = proof.challenge()
    proof.measure(replica, "v000000", asked)
    assert proof.noise["stub"] == Noise(*[pytest.approx(0.02)] * 3, product=0.0)
    with pytest.raises(
        ProofError, match=r"1 of 1 passages differ, the worst by 0\.60 nats \(0\.08 allowed\)"
    ):
        proof.check(replica, "v000000", asked)


@pytest.mark.parametrize("told", [-3.0, float("nan"), float("-inf")])
def test_other_log_probabilities_are_refused(told):
    proof, _ = _proof(0.0)
    replica = StubServing(log_prob=lambda version, passage: told)
    asked = proof.challenge()
    with pytest.raises(ProofError, match="1 of 1 passages"):
        proof.check(replica, "v000001", asked)
    with pytest.raises(ProofError, match="another checkpoint"):
        proof.measure(replica, "v000000", asked)
    assert proof.noise == {}
    assert proof.proven == {}
