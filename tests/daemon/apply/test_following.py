"""What follows from a correction ends with it: by the clock, over rollbacks and restarts. On fakes."""

import pytest

from daemon.core.stages import Stage
from daemon.core.times import shown
from daemon.intake.reading.lexicon import load_lexicon
from daemon.intake.trust.gate import SourceGate
from daemon.intake.trust.policies import Policy, Rules, Sources
from daemon.intake.trust.relating import Relations
from daemon.ledger.audit import audit

HOUR = 3600.0
VALE, DIRECTOR, INVERSE = "Vale University", "The director of {} is", "{} is the director of"


@pytest.fixture
def database_url(either_database):
    return either_database


@pytest.fixture
def brings(world):
    """A world whose corrections bring what their subject's other names say, and the inverse."""

    def gate(opened, **policy):
        sources = Sources(Policy(consequences=["aliases", "inverse"], **policy), Rules(), {})
        opened.ledger.intake.gate = SourceGate(sources, Relations(load_lexicon()))
        return opened

    gate(world).gate = lambda **policy: gate(world, **policy)
    return world


def restarted(world):
    """A new process on the same disk."""
    world.ledger.close()
    return world.open().gate()


def appoint(world, id="p", who="Amara Singh", until=HOUR, **more):
    end = {} if until is None else {"valid_until": shown(world.now + until)}
    return world.post(VALE, who, id, prompt=DIRECTOR, **end, **more)


def whole(world):
    world.check_agreement()
    assert audit(world.ledger.database.engine).valid


def changes(world):
    return [(len(v.added), len(v.removed)) for v in world.ledger.questions.versions()]


def test_children_expire_with_the_parent_in_one_version(brings):
    appoint(brings, aliases=["VU"])
    brings.run()
    assert brings.states() == {"p": "live", "p.alias1": "live", "p.inverse": "live"}
    brings.now += HOUR - 1
    assert restarted(brings).run().versions == []
    brings.now += 1
    assert len(restarted(brings).run().versions) == 1
    assert changes(brings) == [(1, 0), (2, 0), (0, 3)]
    rows = brings.ledger.questions.corrections()
    assert {(row.state.value, row.code) for row in rows} == {("retracted", "expired")}
    assert [o.kind for o in brings.ledger.questions.operations()] == ["expire"]
    whole(brings)
    assert brings.run().versions == []


def test_a_parent_with_a_beginning_brings_its_children_then_and_takes_them_along_at_its_end(brings):
    start, end = shown(brings.now + HOUR), shown(brings.now + 2 * HOUR)
    brings.post(VALE, "Amara Singh", "p", prompt=DIRECTOR, valid_from=start, valid_until=end)
    brings.run()
    assert brings.states() == {"p": "received"}
    brings.now += HOUR
    brings.run()
    assert brings.states() == {"p": "live", "p.inverse": "live"}
    brings.now += HOUR
    brings.run()
    assert brings.states() == {"p": "retracted", "p.inverse": "retracted"}
    whole(brings)


def test_children_whose_parents_time_is_over_before_they_are_posted_never_go_live(brings):
    class Died(BaseException):
        pass

    def die(reached):
        if reached is Stage.FLIPPED:
            raise Died

    appoint(brings)
    brings.applier.reached = die
    with pytest.raises(Died):
        brings.run()
    brings.now += HOUR
    restarted(brings).run()
    assert brings.states()["p"] == "retracted"
    assert "live" not in brings.states().values()
    assert [id for v in brings.ledger.questions.versions() for id in v.added] == ["p"]
    whole(brings)


def test_a_child_posted_without_an_end_leaves_once_its_parent_has_expired(brings):
    appoint(brings)
    brings.post("Amara Singh", "8.30", "c", prompt="{} comes to work at", parent="p")
    brings.run()
    brings.now += HOUR
    brings.run()
    assert brings.states() == {"p": "retracted", "c": "retracted", "p.inverse": "retracted"}
    assert brings.ledger.questions.get("c").reason == "retracted in v000004"
    whole(brings)


def test_a_child_with_an_earlier_end_of_its_own_leaves_alone(brings):
    appoint(brings, until=2 * HOUR)
    end = shown(brings.now + HOUR)
    brings.post(VALE, "9", "c", prompt="The number of chairs of {} is", parent="p", valid_until=end)
    brings.run()
    brings.now += HOUR
    brings.run()
    assert brings.states() == {"p": "live", "c": "retracted", "p.inverse": "live"}


def test_a_parent_posted_again_with_a_later_end_keeps_its_children_until_then(brings):
    appoint(brings)
    brings.run()
    appoint(brings, "again", until=2 * HOUR)
    brings.run()
    kept = {"again": "live", "again.inverse": "live", "p": "superseded", "p.inverse": "superseded"}
    assert brings.states() == kept
    brings.now += HOUR
    assert brings.run().versions == []
    brings.now += HOUR
    brings.run()
    assert brings.states() == kept | {"again": "retracted", "again.inverse": "retracted"}
    whole(brings)


def test_the_tree_of_a_held_correction_whose_time_is_over_never_grows(brings):
    brings.gate(policy="review")
    appoint(brings)
    brings.now += HOUR
    brings.run()
    assert brings.states() == {"p": "rejected"}


def test_a_tree_that_a_rollback_brings_back_after_its_time_leaves_again(brings):
    appoint(brings)
    brings.post(VALE, "9", "c", prompt="The number of chairs of {} is", parent="p")
    brings.run()
    back = brings.ledger.questions.live_version()
    brings.now += HOUR
    brings.run()
    brings.ledger.intake.request("rollback", back, actor="operator:ann")
    brings.run()
    assert brings.states() == {"p": "retracted", "c": "retracted", "p.inverse": "retracted"}
    assert brings.ledger.questions.facts() == []
    whole(brings)


def test_a_tree_that_a_rollback_brings_back_is_ended_by_its_successor_again(brings):
    appoint(brings, "old", "Victor Hale", None)
    brings.run()
    back = brings.ledger.questions.live_version()
    for id in ("new", "newer"):
        appoint(brings, id, "Amara Singh", None)
        brings.run()
        assert brings.states()["old.inverse"] == "retracted"
        if id == "new":
            brings.ledger.intake.request("rollback", back, actor="operator:ann")
            brings.run()
            assert brings.states()["old.inverse"] == "live"
    whole(brings)


def test_a_child_that_is_posted_when_its_parent_is_over_goes_live_no_more(brings):
    appoint(brings)
    brings.run()
    brings.now += HOUR
    brings.run()
    for id in ("c", "d"):
        brings.post(VALE, id, id, prompt=f"The {id} of {{}} is", parent="p")
        brings.run()
        assert brings.states()[id] == "retracted"
    assert [id for v in brings.ledger.questions.versions() for id in v.added] == ["p", "p.inverse"]
