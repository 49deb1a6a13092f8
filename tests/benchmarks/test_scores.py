"""The arithmetic of ES, PS, NS and S, against values worked out by hand."""

import math

import pytest

from benchmarks.data import Neighbour, Record
from benchmarks.scores import Scores, ask, harmonic, pairs, retention, score, text_perplexity
from editing.facts import Fact
from monitoring.measuring.scoring import Scorer, TargetScore

#: (prompt, answer) → NLL, hits of tokens, by hand.
TOLD = {
    ("A x", "new"): (1.0, 1, 1),
    ("A x", "old"): (2.0, 0, 1),
    ("p1", "new"): (1.0, 0, 1),
    ("p1", "old"): (0.5, 0, 1),
    ("p2", "new"): (1.0, 0, 1),
    ("p2", "old"): (1.5, 0, 1),
    ("n1", "old"): (1.0, 0, 1),
    ("n1", "new"): (2.0, 0, 1),
    ("n2", "old"): (1.0, 0, 1),
    ("n2", "new"): (1.0, 0, 1),  # a tie fails
    ("B y", "new"): (3.0, 0, 1),
    ("B y", "old"): (2.0, 0, 1),
    ("q", "new"): (1.0, 0, 1),
    ("q", "old"): (2.0, 0, 1),
    ("C z?", "one two"): (1.0, 1, 2),
    ("r", "one two"): (1.0, 2, 2),
    ("l", "four words of it"): (1.0, 1, 4),
}
RECORDS = [
    Record(Fact("x", "A {}", "new"), "old", ("p1", "p2"), (Neighbour("n1", "old"), Neighbour("n2", "old"))),
    Record(Fact("y", "B {}", "new"), "old", ("q",), ()),
]
QUESTION = Record(Fact("z", "C {}?", "one two"), None, ("r",), (Neighbour("l", "four words of it"),))


#: What is answered freely; "nothing" otherwise.
SAID = {"A x": "new.", "B y": "new things"}


class Told:
    """A scorer with answers by heart."""

    def __init__(self):
        self.asked = []

    def encode(self, prompt, target):
        return prompt, target

    def score(self, encoded):
        self.asked += encoded
        return [
            TargetScore(nll, tokens, hits == tokens, hits) for nll, hits, tokens in map(TOLD.get, encoded)
        ]

    def tokenizer(self, text, **_options):
        return {"input_ids": text.split()}

    def answers(self, texts, tokens, *, chat, targets):
        assert not texts or tokens >= 4
        assert not (texts and chat)
        assert len(targets) == len(texts)
        return [SAID.get(text, "nothing") for text in texts]


def test_counterfact_scores_are_means_over_records_of_means_over_prompts():
    found = score(Told(), RECORDS)
    # ES: 1, 0. PS: (0 + 1) / 2, 1. NS: (1 + 0) / 2, the other record has no neighbours.
    expected = Scores(50.0, 75.0, 50.0, 100 * 3 / (2 + 4 / 3 + 2), 50.0, 100.0)
    assert vars(found) == pytest.approx(vars(expected))


def test_without_a_competing_answer_tokens_are_counted():
    told = Told()
    found = score(told, [QUESTION])
    assert (found.es, found.ps, found.ns) == (50.0, 100.0, 25.0)
    assert found.s == pytest.approx(100 * 3 / (2 + 1 + 4))
    assert (found.exact_match, found.generation_match) == (0.0, 0.0)


def test_retention_is_efficacy_and_exact_match():
    assert retention(Told(), RECORDS) == (50.0, 50.0)


def test_each_pair_is_asked_once():
    told = Told()
    asked = [pair for record in [*RECORDS, *RECORDS] for pair in pairs(record)]
    ask(told, asked)
    assert len(told.asked) == len(set(asked)) == 14


def test_harmonic_mean():
    assert harmonic(1.0, 1.0, 1.0) == 1.0
    assert harmonic(0.95, 0.85, 0.7) == pytest.approx(3 / (1 / 0.95 + 1 / 0.85 + 1 / 0.7))
    assert harmonic(1.0, 0.0, 1.0) == 0.0
    assert math.isnan(harmonic(1.0, math.nan, 1.0))


def test_scores_of_a_model_follow_its_likelihoods(model):
    """A record whose answers change places has the opposite efficacy."""
    scorer = Scorer(model.loaded.model, model.loaded.tokenizer)
    there = Record(
        Fact("the mill", "The owner of {} is", "Ada"), "Bob", ("Mine is",), (Neighbour("It is", "Bob"),)
    )
    back = Record(
        Fact("the mill", "The owner of {} is", "Bob"), "Ada", ("Mine is",), (Neighbour("It is", "Ada"),)
    )
    one, other = score(scorer, [there]), score(scorer, [back])
    assert one.es + other.es == 100
    assert one.ps + other.ps == 100
    assert one.ns + other.ns == 100


def test_perplexity_is_that_of_a_uniform_guess_for_a_random_model_or_worse(model):
    scorer = Scorer(model.loaded.model, model.loaded.tokenizer)
    assert text_perplexity(scorer, ["Rivers carry sand to the sea."]) > 100
