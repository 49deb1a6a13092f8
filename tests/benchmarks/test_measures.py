"""What the measures of a layer cost, counted."""

import pytest

from benchmarks.measures import Update, layer_cost


def test_the_cost_of_a_layer_counts_one_fact_against_its_measures():
    found = layer_cost(24, 48)
    seconds = found["seconds"]
    assert found["share"] == pytest.approx(seconds["measures"] / sum(seconds.values()))
    assert Update(1, 10, 5, evaluations=3, positions=2, predicted=4).value_flops == 2 * 5 * (20 + 20)
