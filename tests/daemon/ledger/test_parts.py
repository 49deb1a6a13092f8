"""Each part of the ledger can do its own work and no other's."""

import pytest

from daemon.core.lifecycle import OperationKind
from daemon.ledger.intake import Intake
from daemon.ledger.journal import Journal
from daemon.ledger.questions import Questions


def can(part):
    return {name for name in dir(part) if not name.startswith("_")}


def test_intake_takes_posts_and_requests_and_nothing_else():
    assert can(Intake) == {"submit", "submit_many", "refuse", "request", "asking", "decide_dead"}


def test_a_journal_cannot_submit_and_asks_for_nothing_in_an_operators_name():
    assert not can(Journal) & can(Intake)
    assert not can(Journal) & can(Questions)


def test_the_parts_share_no_class():
    for part in (Intake, Journal, Questions):
        assert part.__mro__ == (part, object)


def test_a_request_that_fails_leaves_nothing(world):
    def ask_and_fail():
        with world.ledger.intake.asking() as ask:
            ask(OperationKind.PAUSE, None, "operator", None)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        ask_and_fail()
    assert world.ledger.questions.operations() == []
