"""Against the model's own hidden states, in float64."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from monitoring.measuring.activations import (
    Activations,
    principal_directions,
    recorded,
    subspace_similarities,
)
from monitoring.measuring.scoring import Scorer
from tests.monitoring.conftest import byte_tokenizer

TEXTS = ("Rivers carry sand to the sea.", "Ice floats.")


def record(editor, keys=False):
    scorer = Scorer(editor.model, editor.tokenizer)
    with recorded(editor.model, editor.tensor_names, keys) as recording:
        scorer.next_log_probs(TEXTS)
    return recording


def rows_of(editor):
    """[(hidden states of all layers but the embedding's, first token left out)] of each text, unpadded."""
    hidden = []
    for text in TEXTS:
        ids = torch.tensor([editor.tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            found = editor.model.model(ids, output_hidden_states=True).hidden_states
        hidden.append([layer[0, 1:].double() for layer in found[1:]])
    return [torch.cat(layer) for layer in zip(*hidden, strict=True)]


def test_norms_equal_those_of_the_hidden_states(editor):
    norms = record(editor).summary().norms
    expected = rows_of(editor)
    assert len(norms) == len(expected) == 4
    for layer in range(3):  # transformers gives the last one after the final norm
        assert float(norms[layer]) == pytest.approx(float(expected[layer].norm(dim=1).mean()), rel=1e-5)


def test_shares_add_up_with_the_attentions(editor):
    recording = record(editor)
    mlp, attention = (
        torch.tensor([float(torch.cat(found[layer]).double().mean()) for layer in range(4)])
        for found in (recording.mlp, recording.attention)
    )
    shares = recording.summary().shares
    assert torch.allclose(shares, (mlp / (mlp + attention).sum()).double())
    assert 0 < float(shares.sum()) < 1


def test_keys_are_the_inputs_of_the_projection(editor):
    name = editor.tensor_names[0]
    found = []
    hook = editor.model.model.layers[1].mlp.down_proj.register_forward_pre_hook(
        lambda _module, inputs: found.append(inputs[0][0, 1:])
    )
    recording = record(editor, keys=True)
    hook.remove()
    keys = recording.held_keys(name, 1000)
    assert keys.shape == (64, sum(len(text) - 1 for text in TEXTS))
    assert recording.held_keys(name, 5).shape == (64, 5)
    assert torch.equal(keys[:, 0], found[0][0])


def test_principal_directions_equal_a_dense_decomposition():
    torch.manual_seed(0)
    states = torch.randn(50, 20) * torch.linspace(3, 0.2, 20)
    centred = (states - states.mean(0)).double()
    expected = torch.linalg.svd(centred).Vh[:4].T
    found = principal_directions(states, 4).double()
    assert float(((expected.T @ found) ** 2).sum()) == pytest.approx(4, abs=1e-6)
    assert torch.allclose(found.T @ found, torch.eye(4, dtype=torch.float64), atol=1e-6)
    assert principal_directions(torch.full((5, 20), torch.nan)).isnan().all()


def test_similarity_is_one_for_the_same_subspace_and_zero_for_an_orthogonal_one():
    basis = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0))).Q
    flat = torch.ones(1, dtype=torch.float64)
    one, turned, other = (
        Activations(flat, b[None], flat)
        for b in (basis[:, :3], basis[:, [2, 0, 1]] * torch.tensor([1.0, -1, 1]), basis[:, 3:6])
    )
    assert float(subspace_similarities(one, turned)) == pytest.approx(1, abs=1e-6)
    assert float(subspace_similarities(one, other)) == pytest.approx(0, abs=1e-6)


def test_hooks_are_gone_after_an_error(editor):
    with pytest.raises(RuntimeError, match="stop"), recorded(editor.model, editor.tensor_names, keys=True):
        raise RuntimeError("stop")
    modules = list(editor.model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "phi", "gemma"])
def test_other_families_are_recorded(family):
    torch.manual_seed(0)
    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    own = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
        "gemma": common | {"head_dim": 8, "num_key_value_heads": 2},
    }
    special = {"vocab_size": 257, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    config = AutoConfig.for_model(family, **special, **own.get(family, common))
    model = AutoModelForCausalLM.from_config(config).eval()
    name = next(n for n, _ in model.named_parameters() if ".1.mlp." in n)
    with recorded(model, (name,)) as recording:
        Scorer(model, byte_tokenizer()).next_log_probs(TEXTS)
    summary = recording.summary()
    assert summary.norms.shape == summary.shares.shape == (2,)
    assert bool((summary.norms > 0).all())
