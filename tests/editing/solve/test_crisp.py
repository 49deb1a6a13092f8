"""CrispEdit's projector against the dense Kronecker product, and its moment against per-token gradients."""

import pytest
import torch

from editing.errors import SolveError
from editing.model.forward import nudged
from editing.solve.crisp import LowCurvature, output_moments

D, D_IN = 4, 6


def moment(size, seed):
    x = torch.randn(size, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x * torch.logspace(0, -1, size, dtype=torch.float64)[:, None]
    return x @ x.T / 40


@pytest.fixture
def moments():
    return moment(D_IN, 1), moment(D, 2)


@pytest.fixture
def change():
    return torch.randn(D, D_IN, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_it_is_the_projector_on_the_kronecker_products_small_eigenvectors(moments, change):
    inputs, outputs = moments
    crisp = LowCurvature(inputs, outputs, 0.8)
    values, vectors = torch.linalg.eigh(torch.kron(outputs, inputs))
    kept = vectors[:, values <= crisp.limit * (1 + 1e-9)]
    assert 0 < kept.shape[1] < D * D_IN
    # What does not move holds at least the share asked for, and one direction less does not.
    barred = values[values > crisp.limit * (1 + 1e-9)]
    assert barred.sum() >= 0.8 * values.sum() > barred.sum() - barred.min()
    expected = (kept @ (kept.T @ change.flatten())).reshape(D, D_IN)
    torch.testing.assert_close(crisp.projected(change), expected)


def test_what_is_left_curves_the_loss_by_no_more_than_the_limit(moments, change):
    inputs, outputs = moments
    crisp = LowCurvature(inputs, outputs, 0.8)
    left = crisp.projected(change)
    torch.testing.assert_close(crisp.projected(left), left)
    assert torch.trace(outputs @ left @ inputs @ left.T) <= crisp.limit * left.norm() ** 2 * (1 + 1e-9)
    taken = change - left
    assert torch.trace(outputs @ taken @ inputs @ taken.T) > crisp.limit * taken.norm() ** 2


def test_without_energy_nothing_is_barred_and_with_all_of_it_everything(moments, change):
    torch.testing.assert_close(LowCurvature(*moments, 0.0).projected(change), change)
    with pytest.raises(SolveError, match=r"curvature_energy = 1.0 bars every direction; lower it"):
        LowCurvature(*moments, 1.0)


def test_output_moments_are_those_of_gradients_at_each_token(editor):
    loaded, layers = editor.loaded, (2, 5)
    text = torch.randint(1, 257, (20, 7), generator=torch.Generator().manual_seed(4))
    found = output_moments(loaded, text, layers, lambda _fraction: None)
    expected = {layer: torch.zeros(32, 32, dtype=torch.float64) for layer in layers}
    for row in text:
        with nudged(loaded, layers) as nudges:
            logits = loaded.model(row[None]).logits[0]
        torch.nn.functional.cross_entropy(logits[:-1], row[1:], reduction="sum").backward()
        for layer in layers:
            for gradient in nudges[layer].grad[0, 1:-1].double():
                expected[layer] += torch.outer(gradient, gradient) / (20 * 5)
    for layer in layers:
        torch.testing.assert_close(found[layer], expected[layer], atol=1e-6, rtol=1e-4)


def test_the_gradient_of_a_weight_is_that_by_its_outputs_times_its_inputs(editor, facts):
    """Σ g aᵀ over the positions of a text is what autograd gives for the weight."""
    loaded, layer = editor.loaded, 4
    ids, inputs = torch.tensor([loaded.encode(facts[0]).ids]), []
    weight = loaded.projection(layer).weight
    handle = loaded.projection(layer).register_forward_pre_hook(lambda _m, x: inputs.append(x[0].detach()[0]))
    weight.requires_grad_(True)
    try:
        with nudged(loaded, [layer]) as nudges:
            logits = loaded.model(ids).logits[0]
        loss = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum")
        (by_weight,) = torch.autograd.grad(loss, weight, retain_graph=True)
        (by_output,) = torch.autograd.grad(loss, nudges[layer])
    finally:
        handle.remove()
        weight.requires_grad_(False)
    torch.testing.assert_close(by_output[0].T @ inputs[0], by_weight, atol=1e-5, rtol=1e-4)


def test_locft_protected_moves_only_what_curves_little_and_goes_back(open_editor, facts):
    changed = {"layers": (3,), "tuning_rate": 0.01, "tuning_steps": 5, "curvature_energy": 0.5}
    choices = {"method": "locft", "protect": "crisp", "changed": changed}
    editor, again = open_editor(**choices), open_editor(**choices)
    base = editor.weight_hashes()
    losses = [one.loss for one in editor.apply(facts).outcomes]
    (name,) = editor.tensor_names
    delta = editor.weights()[name].double() - editor.base_weights()[name].double()
    crisp = editor._low_curvature
    assert delta.norm() > 0.1
    torch.testing.assert_close(crisp.projected(delta), delta, atol=1e-5, rtol=1e-4)
    free = open_editor(method="locft", changed=changed)
    assert losses != [one.loss for one in free.apply(facts).outcomes]
    again.apply(facts)
    assert again.weight_hashes() == editor.weight_hashes() != free.weight_hashes()
    editor.retract(*editor.state.ids)
    assert editor.weight_hashes() == base
