"""A correction that is held for review and has a time of its own waits for both."""

from daemon.core.times import shown
from daemon.ledger.record.reviews import hold
from daemon.ledger.record.transitions import Transitions


def held(world, **more):
    world.post("A", "B", **more)
    with world.ledger.database.writing() as c:
        recorded = Transitions(world.ledger.database.clock)
        hold(c, recorded, "id-A-B", actor="gate", score=1.0, findings=[], why="held for review: untrusted")


def test_after_the_review_it_waits_for_its_time(world):
    start = world.now + 3600
    held(world, valid_from=shown(start))
    world.run()
    assert world.ledger.reviews.approve("id-A-B", reviewer="operator:ann", why="checked").state == "received"
    assert world.run().versions == []
    world.now = start
    world.run()
    assert world.states() == {"id-A-B": "live"}


def test_a_review_that_comes_after_its_time_lets_it_go_at_once(world):
    held(world, valid_from=shown(world.now + 10))
    world.now += 3600
    world.run()
    assert world.states() == {"id-A-B": "held"}
    world.ledger.reviews.approve("id-A-B", reviewer="operator:ann", why="checked")
    world.run()
    assert world.states() == {"id-A-B": "live"}


def test_one_whose_time_is_over_needs_no_review(world):
    held(world, valid_until=shown(world.now + 10))
    world.now += 3600
    world.run()
    row = world.ledger.questions.get("id-A-B")
    assert (row.state, row.code) == ("rejected", "expired")
