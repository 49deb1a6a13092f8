"""A version on one of three replicas first: promoted after its soak, or rolled back there alone."""

from types import SimpleNamespace

import pytest

from daemon.core.errors import SettingsError
from daemon.core.settings import Settings
from daemon.http.status_page import snapshot
from daemon.publish.replicas import open_replicas


@pytest.fixture(autouse=True)
def _without_measurements(monkeypatch):
    """The world's are not of the kind that metrics are made of."""
    monkeypatch.setattr("daemon.http.status_page.Measurements.from_json", lambda stored: None)


@pytest.fixture
def fleet(make_world, monkeypatch):
    """Three replicas at v000001, a correction that waits, and `look`: called at each look in mid-soak."""

    class Fleet:
        def __init__(self, **settings):
            self.world = make_world(replicas=3, **({"canary": "disk1", "canary_seconds": 3.0} | settings))
            self.world.post("A", "B")
            self.world.run()
            self.world.post("C", "D")
            self.look = lambda: None
            self.told = [len(replica._memory()["published"]) for replica in self.world.replicas]

        def versions(self):
            return [replica.served().version for replica in self.world.replicas]

        def published(self):
            """What each replica was told since v000001 was live."""
            replicas = zip(self.world.replicas, self.told, strict=True)
            return [replica._memory()["published"][told:] for replica, told in replicas]

    made, now = [], [0.0]

    def make(**settings):
        made.append(Fleet(**settings))
        return made[-1]

    def sleep(seconds):
        now[0] += seconds
        if made:
            made[-1].look()

    monkeypatch.setattr("daemon.publish.canary.time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    return make


def in_sync(world):
    return list(snapshot(world.ledger, world.replicas).in_sync.values())


def causes(world):
    from sqlalchemy import select

    from daemon.ledger.tables import publications

    with world.ledger.database.engine.connect() as c:
        rows = c.execute(select(publications).order_by(publications.c.seq)).all()
    return [(row.cause, row.version, row.replicas) for row in rows[-2:]]


@pytest.mark.parametrize(("name", "which"), [("disk1", 1), ("first", 0)])
def test_the_canary_alone_serves_a_version_until_its_soak_is_over(fleet, name, which):
    it, seen = fleet(canary=name), []
    it.look = lambda: seen.append(
        (
            it.versions(),
            in_sync(it.world),
            it.world.ledger.questions.live_version(),
            it.world.ledger.questions.version("v000002"),
        )
    )
    report = it.world.run()
    versions, told, live, version = seen[-1]
    alone = [i == which for i in range(3)]
    assert versions == ["v000002" if canary else "v000001" for canary in alone]
    assert told == [not canary for canary in alone]
    assert (live, version.state) == ("v000001", "canary")
    assert (report.live, report.held) == ("v000002", None)
    assert it.versions() == ["v000002"] * 3
    assert it.published() == [["v000002"]] * 3
    assert in_sync(it.world) == [True] * 3
    every = ["disk", "disk1", "disk2"]
    assert causes(it.world) == [("canary", "v000002", [every[which]]), ("update", "v000002", every)]
    it.world.check_agreement()


@pytest.mark.parametrize("when", ["at once", "in mid-soak"])
def test_a_canary_that_computes_something_else_is_rolled_back_alone(fleet, when):
    it = fleet()
    canary = it.world.replicas[1]

    def turn():
        canary.log_probs = lambda passages: [[-9.0] * len(p) for p in passages]

    if when == "at once":
        turn()
    it.look = turn
    report = it.world.run()
    row = it.world.ledger.questions.get("id-C-D")
    assert (report.live, row.state) == ("v000001", "rolled_back")
    assert row.reason.startswith("canary failed: disk1 does not compute what was staged")
    assert it.world.ledger.questions.version("v000002").state == "rolled_back"
    assert it.published() == [[], ["v000002", "v000001"], []]
    rollbacks = it.world.ledger.questions.status().rollbacks
    assert (rollbacks["canary_failed"], rollbacks["publish_failed"]) == (1, 0)
    it.world.check_agreement()


@pytest.mark.parametrize("how", ["dies", "restarts"])
def test_a_canary_that_is_lost_in_mid_soak_promotes_nothing_and_the_correction_waits(fleet, how):
    it = fleet()
    canary = it.world.replicas[1]

    def lose():
        canary.restart()
        canary.alive = how == "restarts"

    it.look = lose
    report = it.world.run()
    assert report.held.startswith("canary failed: ")
    assert "disk1" in report.held
    assert report.live == "v000001"
    assert it.world.states()["id-C-D"] == "validated"
    it.look, canary.alive = lambda: None, True
    it.world.now += 6
    assert it.world.run().live == "v000003"
    assert it.versions() == ["v000003"] * 3
    assert it.published()[0] == it.published()[2] == ["v000003"]
    it.world.check_agreement()


def test_while_the_canary_is_out_another_replica_stands_in(fleet):
    it = fleet()
    it.world.replicas[1].alive = False
    it.world.run()
    assert causes(it.world) == [("canary", "v000002", ["disk"]), ("update", "v000002", ["disk", "disk2"])]


def test_another_replica_that_restarts_in_mid_soak_gets_the_live_version_at_once(fleet):
    it, seen = fleet(), []
    down, restarted = it.world.replicas[0], it.world.replicas[2]

    def look():
        seen.append(restarted.served().version)
        down.alive = len(seen) > 1  # no reason to give the canary up
        if len(seen) == 1:
            restarted.restart()

    it.look = look
    it.world.run()
    assert seen == ["v000001"] * 3
    assert it.published()[2] == ["v000001", "v000002"]
    assert it.versions() == ["v000002"] * 3


@pytest.mark.parametrize("actor", ["operator", "alert:abc"])
def test_a_rollback_that_is_asked_for_in_mid_soak_ends_it(fleet, actor):
    it, asked = fleet(), []

    def ask():
        asked.append(it.world.ledger.intake.request("rollback", "v000000", actor=actor, why="slow"))

    it.look = ask
    report = it.world.run()
    row, operation = it.world.ledger.questions.get("id-C-D"), it.world.ledger.questions.operation(asked[0])
    assert row.reason == f"canary failed: {actor} asked for a rollback: slow"
    if actor == "operator":  # who named the version to go back to
        assert (report.live, operation.state) == ("v000000", "done")
    else:  # whose symptom was the canary's: the live version is not at fault
        assert (report.live, operation.state) == ("v000001", "failed")
        assert "v000002 was on the canary only" in operation.reason
        assert it.published() == [[], ["v000002", "v000001"], []]
    it.world.check_agreement()


def test_a_stop_in_mid_soak_leaves_no_canary_and_counts_no_attempt(fleet):
    it, stop = fleet(max_attempts=1), []
    it.look = lambda: stop.append(True)
    report = it.world.applier.run(lambda: bool(stop))
    assert "told to stop" in report.held
    assert it.versions() == ["v000001"] * 3
    row = it.world.ledger.questions.get("id-C-D")
    assert (row.state, row.attempts) == ("validated", 0)
    assert it.world.ledger.questions.status().rollbacks["canary_failed"] == 0
    it.world.check_agreement()
    assert it.world.run().live == "v000003"


def test_a_version_of_a_canary_that_is_no_longer_set_goes_to_all(fleet):
    it = fleet()

    class Died(BaseException):
        pass

    def die():
        raise Died

    it.look = die
    with pytest.raises(Died):
        it.world.run()
    it.world.settings = it.world.settings.model_copy(update={"canary": None})
    it.world.open()
    assert it.world.run().live == "v000002"
    it.world.check_agreement()


# --- settings --------------------------------------------------------------------------------------

TWO = ("http://a", "http://b")


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"canary": "http://c", "replicas": TWO}, "FACTD_CANARY = 'http://c'.*http://a, http://b"),
        ({"canary": "first", "replicas": TWO[:1]}, "FACTD_CANARY = 'first'.*1 of FACTD_REPLICAS"),
        ({"canary": "first", "publish": "checkpoint"}, "FACTD_CANARY = 'first'.*0 of FACTD_REPLICAS"),
        ({"in_flight": "abort", "publish": "lora", "replicas": TWO}, "FACTD_IN_FLIGHT = 'abort'.*'lora'"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(tmp_path, settings, names):
    with pytest.raises(SettingsError, match=names):
        open_replicas(Settings(state_dir=tmp_path, **settings))


def test_the_canary_is_found_by_its_address_and_policies_reach_the_replicas(tmp_path):
    told = {"canary": " http://b/ ", "replicas": TWO, "in_flight": "wait", "in_flight_seconds": 7}
    told["publish_seconds"] = 900
    settings = Settings(state_dir=tmp_path, **told)
    replicas = open_replicas(settings)
    assert settings.canary == replicas[1].name == "http://b"
    policies = [(r.in_flight, r.in_flight_seconds, r.publish_seconds) for r in replicas]
    assert policies == [("wait", 7.0, 900.0)] * 2
    assert Settings(canary="").canary is None
