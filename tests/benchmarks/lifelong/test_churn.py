"""The churn stream: what changes, when, and beside what it is asked."""

import itertools

import pytest

from benchmarks.errors import ChoiceError
from benchmarks.lifelong.churn import OTHERS, Plan, chosen_subjects, churn, kinds, never_written, preferred
from editing.facts import SLOT
from monitoring.measuring.scoring import Scorer

PLAN = Plan(subjects=4, rounds=5, kinds=("price", "seat"))


def first(_prompt, answers):
    return answers[0]


def test_each_round_changes_every_slot_once():
    stream = churn(PLAN, first)
    rounds = [stream[at : at + 8] for at in range(0, 40, 8)]
    assert len(stream) == 40
    slots = [[one.record.slot for one in each] for each in rounds]
    assert len(set(slots[0])) == 8
    assert all(each == slots[0] for each in slots)
    assert len({one.fact.id for one in stream}) == 40


def test_a_record_competes_with_what_its_slot_held_before():
    stream = churn(PLAN, first)
    for before, after in itertools.pairwise(stream[at : at + 8] for at in range(0, 40, 8)):
        for old, new in zip(before, after, strict=True):
            assert new.record.old == old.fact.target
    assert all(one.record.old != one.fact.target for one in stream)


def test_the_seed_alone_decides():
    told = [[(one.fact, one.record) for one in churn(PLAN, first)] for _ in range(2)]
    assert told[0] == told[1]
    other = churn(Plan(4, 5, ("price", "seat"), seed=1), first)
    assert {one.fact.subject for one in other} != {fact.subject for fact, _ in told[0]}
    # More rounds begin as fewer do: a longer run goes on from a shorter one.
    longer = churn(Plan(4, 7, ("price", "seat")), first)
    assert [one.fact for one in longer[:40]] == [fact for fact, _ in told[0]]


def test_neighbours_are_never_written_and_never_their_own_rival():
    changing, still = chosen_subjects(PLAN)
    assert (len(changing), len(still)) == (4, OTHERS)
    assert not set(changing) & set(still)
    by_answer = {len(one.record.neighbours) for one in churn(PLAN, first)}
    # All neighbours have the first target as their answer; where a slot holds it there is none left.
    assert by_answer <= {0, OTHERS}
    for one in churn(PLAN, first):
        assert all(n.answer != one.fact.target for n in one.record.neighbours)
        assert not any(subject in n.prompt for n in one.record.neighbours for subject in changing)
    others = never_written(PLAN)
    assert len(others) == 2 * OTHERS
    assert not {one.fact.subject for one in others} & set(changing)


def test_the_shipped_kinds_can_be_asked():
    for kind in kinds():
        texts = [kind.prompt, *kind.paraphrases, kind.question, kind.asked]
        assert [text.count(SLOT) for text in texts] == [1] * len(texts)
        assert len(set(kind.targets)) == len(kind.targets) >= 24


def test_what_there_is_not_is_named():
    with pytest.raises(ChoiceError, match="colour"):
        kinds(("colour",))
    with pytest.raises(ChoiceError, match="--subjects 900"):
        chosen_subjects(Plan(subjects=900))


def test_a_neighbours_answer_is_what_the_model_prefers(model):
    scorer = Scorer(model.loaded.model, model.loaded.tokenizer)
    answers = ("$5", "$12", "Anna")
    chosen = preferred(scorer)("The price is", answers)
    losses = {answer: scorer.score([scorer.encode("The price is", answer)])[0].nll for answer in answers}
    assert losses[chosen] == min(losses.values())
    assert len(set(losses.values())) == 3
