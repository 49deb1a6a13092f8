"""The peer: its whole update equals the editor's of the same method."""

import torch

from benchmarks import serial
from benchmarks.configuration import Configuration
from editing.facts import Fact

FACTS = [
    Fact("the old mill", "The owner of {} is", "Ada"),
    Fact("Zoë", "The friend of {} lives in", "Rome"),
    Fact("Blue Lake", "We know that {} lies near", "Oslo"),
]


def test_serial_update_equals_that_of_memit(model):
    configuration = Configuration.parse("memit:spread:none:none:steps=8,rate=0.1,layers=1-3")
    with model.editor(configuration) as editor:
        report = editor.apply(FACTS)
        ours = editor.weights()
    numbers, loaded = configuration.numbers(model.loaded), model.loaded
    contexts, moments = model.install.contexts(), model.install.moments((1, 2, 3))
    base = loaded.base_weights((1, 2, 3))
    done = serial.update(
        loaded, FACTS, (1, 2, 3), contexts, numbers.values, moments, numbers.prior.moment_weight
    )
    for layer, weight in done.weights.items():
        name = loaded.tensor_name(layer)
        assert (weight - base[name]).norm() > 1e-3
        torch.testing.assert_close(ours[name], weight, atol=1e-4, rtol=1e-4)
    assert [o.steps for o in report.outcomes] == [v.steps for v in done.values]


def test_the_solve_fits_the_values_when_the_prior_weighs_nothing():
    torch.manual_seed(0)
    keys, residual = torch.randn(12, 3), torch.randn(5, 3)
    change = serial.solve(keys, residual, torch.eye(12).double(), 1e-9)
    torch.testing.assert_close(change @ keys.double(), residual.double(), atol=1e-6, rtol=1e-6)
    assert serial.solve(keys, residual, torch.eye(12).double(), 1e12).norm() < 1e-9
