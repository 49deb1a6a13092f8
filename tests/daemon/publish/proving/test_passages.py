"""Which live facts are asked: of every age, and where the edit of a layer shows most."""

import torch

from daemon.publish.proving.passages import BATCH_FACTS, CANDIDATES, LIVE_FACTS, chosen, shown, spread
from editing.facts import Fact
from editing.memory.state import FORMS, EditState

ONE, TWO = "layers.0.weight", "layers.1.weight"


def live(count, **columns):
    facts = tuple(Fact(f"s{i}", "{} is", "t", f"f{i}") for i in range(count))
    return EditState(facts, columns=columns)


def test_the_oldest_the_newest_and_even_steps_between():
    pairs = [(f"p{i}", "t") for i in range(100)]
    found = spread(pairs, 4)
    assert found == [pairs[0], pairs[33], pairs[66], pairs[99]]
    assert spread(pairs[:3], 4) == pairs[:3]


def test_the_fact_that_each_layer_moves_farthest():
    keys = torch.eye(4)
    grows = (torch.ones(3, 1), torch.tensor([[0.0], [1.0], [5.0], [2.0]]))
    falls = (torch.ones(3, 1), torch.tensor([[7.0], [1.0], [5.0], [2.0]]))
    state = EditState(live(4).facts, {ONE: grows, TWO: falls}, {f"{n}/keys": keys for n in (ONE, TWO)})
    assert shown(state, (ONE, TWO)) == [2, 0]
    assert shown(state, (ONE, TWO, "layers.2.weight")) == [2, 0]


def test_a_column_of_another_form_is_its_facts():
    forms = torch.tensor([[1, 2, 1, 2]])
    factors = {ONE: (torch.ones(3, 1), torch.tensor([[0.0], [9.0], [1.0], [2.0]]))}
    state = EditState(live(2).facts, factors, {f"{ONE}/keys": torch.eye(4), FORMS: forms})
    assert shown(state, (ONE,)) == [0]


def test_of_many_columns_some_are_looked_at():
    count = 2 * CANDIDATES
    keys = torch.zeros(1, count)
    keys[0, count - 2] = 1.0
    factors = {ONE: (torch.ones(3, 1), torch.ones(1, 1))}
    assert shown(EditState(live(count).facts, factors, {f"{ONE}/keys": keys}), (ONE,)) == [count - 2]


def test_what_is_asked_is_bounded_and_nothing_is_asked_twice():
    state = live(200)
    batch = [(fact.text, fact.target) for fact in state.facts[-40:]]
    found = chosen(state, (ONE,), batch)
    assert found[:BATCH_FACTS] == batch[:BATCH_FACTS]
    assert len(found) == len(set(found)) <= BATCH_FACTS + LIVE_FACTS
    assert (state.facts[0].text, "t") in found
    assert chosen(live(0), (ONE,), []) == []
