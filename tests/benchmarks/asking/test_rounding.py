"""Answers that change between two models, or between a batch and a question alone."""

import copy
from dataclasses import replace

import torch

from benchmarks.asking.asked import taken
from benchmarks.asking.rounding import alone, unchanged
from benchmarks.asking.ways import Asked
from tests.benchmarks.asking.test_asked import RECORDS


def test_a_model_agrees_with_itself_and_not_with_another(model):
    facts = taken([Asked(one, f"Whose is {one.fact.subject}?") for one in RECORDS.records], model, 3)
    loaded = model.loaded
    found = unchanged([loaded, loaded], facts)
    assert found
    assert set(found.values()) == {3}
    assert alone(loaded, facts) == found

    other = replace(loaded, model=copy.deepcopy(loaded.model))
    for weight in other.model.parameters():
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(1))
    assert max(unchanged([loaded, other], facts).values()) < 3
