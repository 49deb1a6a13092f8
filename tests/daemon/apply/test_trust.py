"""Held corrections through the real ledger and applier: reviews, the doubts of the model, what goes live."""

import pytest

from daemon.apply.trust.screening import Screen
from daemon.core.errors import CorrectionError
from daemon.intake.reading.lexicon import load_lexicon
from daemon.intake.trust.gate import SourceGate
from daemon.intake.trust.policies import Policy, Rules, Source, Sources, Weights
from daemon.intake.trust.relating import Relations
from daemon.ledger.audit import audit


@pytest.fixture
def trusting(world):
    """`trusting(**policy)` puts a gate before the world's ledger; posts have no token."""

    def set_up(rules=None, **policy):
        sources = Sources(Policy(**policy), rules or Rules(), {"desk": Source(name="desk")})
        world.ledger.intake.gate = SourceGate(sources, Relations(load_lexicon()))
        return world

    return set_up


def state(world, id):
    return world.ledger.questions.get(id).state.value


def whole(world):
    world.check_agreement()
    assert audit(world.ledger.database.engine).valid


def test_a_held_correction_is_not_written_until_it_is_approved(trusting):
    world = trusting(policy="review")
    id = world.post("Norway", "Oslo")
    other = world.post("Kenya", "Nairobi")
    world.run()
    assert (state(world, id), world.editor.applied) == ("held", [])
    world.ledger.reviews.approve(id, reviewer="operator:ann", why="seen")
    world.ledger.reviews.reject(other, reviewer="operator:ann", why="no")
    world.run()
    assert (state(world, id), state(world, other)) == ("live", "rejected")
    assert world.editor.applied == [(id,)]
    whole(world)


def test_an_approved_correction_that_is_older_than_what_is_live_is_superseded(trusting):
    world = trusting(policy="review")
    old = world.post("Norway", "Oslo")
    new = world.post("Norway", "Bergen")
    for id in (new, old):
        world.ledger.reviews.approve(id, reviewer="operator:ann", why="seen")
        world.run()
    assert (state(world, old), state(world, new)) == ("superseded", "live")
    whole(world)


def sure_of(world, **probabilities):
    """The model believes old answers with these log-probabilities; its own answer is "Vik"."""
    asked = []

    def believes(pairs):
        asked.extend(pairs)
        return [probabilities.get(answer, -9.0) for _, answer in pairs]

    screen = Screen(Rules(), believes, lambda prompts: ["Vik" for _ in prompts])
    world.applier.monitoring = world.applier.monitoring._replace(screen=screen)
    return asked


def test_what_the_model_is_sure_of_is_held_by_the_applier(trusting):
    world = trusting()
    asked = sure_of(world, Oslo=-0.1)
    held = world.post("Norway", "Bergen", was="Oslo")
    other = world.post("Kenya", "Mombasa", was="Nairobi")
    own = world.post("Chad", "Abéché")
    world.run()
    row = world.ledger.questions.get(held)
    assert (row.state.value, row.score) == ("held", 1.0)
    assert row.reason == "held for review: sure: the model says 'Oslo' with a probability of 0.90"
    assert (state(world, other), state(world, own)) == ("live", "live")
    assert ("The capital of Chad is", "Vik") in asked
    world.ledger.reviews.approve(held, reviewer="operator:ann", why="it moved")
    world.run()
    assert state(world, held) == "live"
    whole(world)


def test_the_model_is_not_asked_of_what_factd_has_written_itself(trusting):
    world = trusting()
    asked = sure_of(world, Oslo=-0.1)
    world.post("Norway", "Oslo", was="Vik")
    world.run()
    asked.clear()
    newer = world.post("Norway", "Bergen", was="Oslo")
    world.run()
    assert (state(world, newer), asked) == ("live", [])


def test_the_models_doubt_adds_to_the_score_of_intake(trusting):
    world = trusting(rules=Rules(weights=Weights(text=0.6, wrong_kind=0)))
    screen = Screen(Rules(weights=Weights(sure=0.5)), lambda pairs: [0.0] * len(pairs), lambda prompts: [])
    world.applier.monitoring = world.applier.monitoring._replace(screen=screen)
    doubted = world.post("Norway", "see www.bergen.example", was="Oslo")
    plain = world.post("Kenya", "Mombasa", was="Nairobi")
    world.run()
    assert world.ledger.questions.get(doubted).score == 1.1
    assert (state(world, doubted), state(world, plain)) == ("held", "live")


def test_without_a_gate_the_model_is_not_asked(world):
    asked = sure_of(world, Oslo=-0.1)
    id = world.post("Norway", "Bergen", was="Oslo")
    world.run()
    assert (state(world, id), asked) == ("live", [])


# -- what follows from a correction


VALE = "Vale University"
DIRECTOR, INVERSE = "The director of {} is", "{} is the director of"


def appoint(world, who, id, was=None, **more):
    return world.post(VALE, who, id, prompt=DIRECTOR, was=was, **more)


def test_children_come_once_the_parent_is_live_and_are_served_like_others(trusting):
    world = trusting(consequences=["aliases", "inverse"])
    parent = appoint(world, "Amara Singh", "p", aliases=["VU"])
    assert world.ledger.questions.children(parent) == []
    world.run()
    children = {row.id: (row.subject, row.prompt, row.target) for row in world.ledger.questions.children("p")}
    assert children == {
        "p.alias1": ("VU", DIRECTOR, "Amara Singh"),
        "p.inverse": ("Amara Singh", INVERSE, VALE),
    }
    assert set(world.states().values()) == {"live"}
    whole(world)


def test_without_a_policy_that_asks_for_them_there_are_no_children(trusting):
    world = trusting()
    appoint(world, "Amara Singh", "p", aliases=["VU"])
    world.run()
    assert world.states() == {"p": "live"}


def test_children_are_retracted_with_the_parent_in_one_version(trusting):
    world = trusting(consequences=["aliases", "inverse"])
    appoint(world, "Amara Singh", "p", aliases=["VU"])
    world.run()
    before = len(world.ledger.questions.versions())
    world.ledger.intake.request("retract", "p", actor="operator:ann")
    world.run()
    assert set(world.states().values()) == {"retracted"}
    assert len(world.ledger.questions.versions()) == before + 1
    whole(world)


def test_the_old_holders_fact_ends_and_the_alias_changes_hands_without_a_gap(trusting):
    world = trusting(consequences=["aliases", "inverse", "ended"])
    appoint(world, "Victor Hale", "old", aliases=["VU"])
    world.run()
    appoint(world, "Amara Singh", "new", was="Victor Hale", aliases=["VU"])
    world.run()
    assert world.states() == {
        "old": "superseded", "old.alias1": "superseded", "old.inverse": "retracted",
        "new": "live", "new.alias1": "live", "new.inverse": "live",
    }  # fmt: skip
    whole(world)


def test_the_old_holder_may_be_said_to_be_something_else(trusting):
    world = trusting(consequences=["ended"], ended_says="nothing any more")
    appoint(world, "Amara Singh", "new", was="Victor Hale")
    world.run()
    (child,) = world.ledger.questions.children("new")
    assert (child.subject, child.prompt, child.target) == ("Victor Hale", INVERSE, "nothing any more")


def test_children_of_a_held_correction_wait_for_its_approval(trusting):
    world = trusting(policy="review", consequences=["inverse"])
    appoint(world, "Amara Singh", "p")
    world.run()
    assert world.states() == {"p": "held"}
    world.ledger.reviews.approve("p", reviewer="operator:ann", why="seen")
    world.run()
    assert world.states() == {"p": "live", "p.inverse": "live"}


def test_a_rolled_back_parent_takes_its_children_along(trusting):
    world = trusting(consequences=["inverse"])
    appoint(world, "Amara Singh", "p")
    world.run()
    world.ledger.intake.request("rollback", "v000000", actor="operator:ann")
    world.run()
    assert set(world.states().values()) == {"rolled_back"}
    whole(world)


def test_a_posted_parent_must_be_known_and_takes_its_children_along(world):
    world.post("Norway", "Oslo", "p")
    world.post("Kenya", "Nairobi", "c", parent="p")
    with pytest.raises(CorrectionError, match="parent = 'nobody': no correction has this id"):
        world.post("Chad", "Faya", "d", parent="nobody")
    world.run()
    world.ledger.intake.request("retract", "p", actor="operator:ann")
    world.run()
    assert world.states() == {"p": "retracted", "c": "retracted"}
    whole(world)
