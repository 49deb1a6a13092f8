"""Every family: what editing computes in parts equals the model's own pass, and facts go in and out."""

import json

import pytest
import torch
from transformers import GPT2Model
from transformers.pytorch_utils import Conv1D

from editing.editor import Editor
from editing.errors import ModelError
from editing.facts import Fact
from editing.model.capture import Ascent, capture
from editing.model.families import FAMILIES
from editing.model.loaded import load_model
from editing.model.output_norm import nearest_input
from editing.model.suffixes import finish, suffixes
from editing.model.tokens import encode
from editing.values.options import ValueOptions
from tests.tiny_models import save_checkpoint

CONTEXTS = ["", "The sky. ", "I went home. "]
LAYER = 1
WINDOW = 6

#: Variants of a family that differ in what a block does.
VARIANTS: dict[str, tuple[str, dict]] = {
    **{family: (family, {}) for family in FAMILIES},
    "llama with biases": ("llama", {"mlp_bias": True, "attention_bias": True}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "gpt_neox, in sequence": ("gpt_neox", {"use_parallel_residual": False}),
    "qwen2, windows above": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 3},
    ),
}
for family in ("mistral", "gemma2", "gemma3_text", "phi3", "olmo3"):
    VARIANTS[family] = (family, {"sliding_window": WINDOW})
for family in ("gemma3_text", "olmo3"):
    VARIANTS[family][1]["layer_types"] = ["sliding_attention", "full_attention"] * 2
VARIANTS["smollm3, windows"] = ("smollm3", {"use_sliding_window": True, "sliding_window": WINDOW})
VARIANTS["stablelm, in parallel"] = ("stablelm", {"use_parallel_residual": True})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    def of(variant: str):
        if variant not in saved:
            family, changes = VARIANTS[variant]
            path = tmp_path_factory.mktemp("family")
            # Some families' tokenizer classes add a token of their own: more rows than the 257 bytes.
            sizes = {"num_hidden_layers": 4, "vocab_size": 264}
            saved[variant] = save_checkpoint(path, family, vectors=0.1, **sizes, **changes)
        return saved[variant]

    saved = {}
    return of


@pytest.fixture
def loaded(request, checkpoints, tmp_path):
    return load_model(str(checkpoints(request.param)), tmp_path, "float32")


every_variant = pytest.mark.parametrize("loaded", VARIANTS, indirect=True)


def stream(output):
    return output[0] if isinstance(output, tuple) else output


def plain_pass(loaded, prompt, delta=None):
    """One unpadded prompt through the whole model, with `delta` added at the subject's last token.

    Returns:
        log-probabilities [length, vocabulary]; key, MLP output and block output at LAYER.
    """
    seen = {}
    at = prompt.subject_last

    def on_block(_module, _inputs, output):
        hidden = stream(output).clone()
        seen["hidden"] = hidden[0, at]
        if delta is not None:
            hidden[0, at] += delta
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def on_projection(_module, inputs, output):
        seen["key"], seen["projected"] = inputs[0][0, at], output[0, at]

    def on_output(_module, _inputs, output):
        seen["output"] = loaded.multiplier * output[0, at]

    handles = [
        loaded.layers[LAYER].register_forward_hook(on_block),
        loaded.projection(LAYER).register_forward_hook(on_projection),
        loaded.mlp_output(LAYER).register_forward_hook(on_output),
    ]
    logits = loaded.model(input_ids=torch.tensor([prompt.ids])).logits[0]
    for handle in handles:
        handle.remove()
    return logits.log_softmax(-1), seen


@every_variant
def test_cached_batched_pass_equals_a_full_pass_with_a_hook(loaded, facts):
    prompts = [encode(loaded.tokenizer, fact, context) for fact in facts for context in CONTEXTS]
    assert len({len(prompt.ids) for prompt in prompts}) > 5
    generator = torch.Generator().manual_seed(1)
    delta = torch.randn(len(prompts), 32, generator=generator).requires_grad_(True)
    part = suffixes(loaded, prompts, LAYER)
    for row, prompt in enumerate(prompts):
        steps = torch.arange(len(prompt.ids) - prompt.subject_last)
        moved = part.hidden.index_add(0, part.first, delta)
        ours = finish(loaded, part, moved, part.first[row] + steps).log_softmax(-1)
        plain, seen = plain_pass(loaded, prompt, delta[row])
        plain = plain[prompt.subject_last :]
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(part.output[row], seen["output"], atol=1e-5, rtol=1e-4)
        ours, plain = (torch.autograd.grad(x[:, 7].sum(), delta)[0][row] for x in (ours, plain))
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-3)


@every_variant
def test_capture_of_a_padded_batch_equals_single_passes(loaded, facts):
    prompts = [encode(loaded.tokenizer, fact, context) for fact in facts for context in CONTEXTS]
    found = capture(loaded, prompts, [0, LAYER])
    for i, prompt in enumerate(prompts):
        _, seen = plain_pass(loaded, prompt)
        for ours, name in ((found.keys, "key"), (found.outputs, "output"), (found.hidden, "hidden")):
            torch.testing.assert_close(ours[LAYER][:, i], seen[name], atol=1e-5, rtol=1e-4)


@every_variant
def test_an_ascent_goes_on_through_a_block_written_meanwhile(loaded, facts, monkeypatch):
    prompts = [encode(loaded.tokenizer, fact, context) for fact in facts for context in CONTEXTS]
    layers = [LAYER, len(loaded.layers) - 1]
    ascent, before = Ascent(loaded, prompts, 0, rows=7), capture(loaded, prompts, layers)
    weight = loaded.projection(0).weight
    monkeypatch.setattr(weight, "data", weight.data.flip(-1))
    ascent.to(LAYER)
    found, expected = ascent.capture(layers), capture(loaded, prompts, layers)
    for layer in layers:
        for name in ("keys", "outputs", "hidden"):
            ours, plain, old = (getattr(x, name)[layer] for x in (found, expected, before))
            torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)
            assert (plain - old).abs().max() > 1e-3


@every_variant
def test_weight_of_the_checkpoint_maps_keys_to_outputs(loaded, facts):
    weight = loaded.base_weights([LAYER])[loaded.tensor_name(LAYER)]
    assert weight.shape == (32, loaded.ffn_width)
    _, seen = plain_pass(loaded, encode(loaded.tokenizer, facts[0]))
    bias = getattr(loaded.projection(LAYER), "bias", None)
    output = weight @ seen["key"] + (0 if bias is None else bias)
    torch.testing.assert_close(output, seen["projected"], atol=1e-5, rtol=1e-5)


@pytest.fixture
def open_family(checkpoints, tmp_path, monkeypatch):
    """An editor that writes one layer all but exactly: a light prior, and bare prompts only."""
    monkeypatch.setattr("editing.methods.published._SMALL", {"moment_weight": 1e-3})
    monkeypatch.setattr("editing.install.CONTEXT_SEEDS", ())
    options = ValueOptions(steps=25, clamp=4.0)

    def opened(variant: str) -> Editor:
        path = str(checkpoints(variant))
        choices: dict = {"placement": "single", "anchor": "none", "options": options}
        return Editor.open(path, state_dir=tmp_path, dtype="float32", **choices)

    return opened


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_edit_changes_the_answer_and_restoring_brings_the_bits_back(open_family, variant):
    editor = open_family(variant)
    prompt = encode(editor.tokenizer, fact := Fact("the old mill", "We met {}", "A"))
    target = prompt.ids[prompt.target_start]

    def answer():
        log_p = editor.model(input_ids=torch.tensor([prompt.ids])).logits[0, prompt.subject_last]
        return int(log_p.argmax()), float(log_p.log_softmax(-1)[target])

    first, before = answer()
    hashes, start = editor.weight_hashes(), editor.state
    parameters = {name: tensor.clone() for name, tensor in editor.model.state_dict().items()}
    editor.apply([fact])
    layer = editor.layers[-1]
    hidden = capture(editor.loaded, [prompt], [layer]).hidden[layer]
    assert answer()[0] != first
    assert answer()[1] > before + 0.7
    if editor.loaded.family.output_norm is None:
        assert answer()[0] == target
        torch.testing.assert_close(hidden, editor.state.columns[f"targets/{layer}"], atol=1e-3, rtol=1e-3)
    assert editor.weight_hashes() != hashes
    editor.restore(start)
    assert editor.weight_hashes() == hashes
    for name, tensor in editor.model.state_dict().items():
        assert torch.equal(tensor, parameters[name]), name
    assert answer() == (first, before)


@every_variant
def test_the_table_says_how_the_projection_is_stored(loaded):
    assert loaded.family.transposed == isinstance(loaded.projection(LAYER), Conv1D)


def test_orientation_is_that_of_the_family_where_the_shape_is_silent(tmp_path, facts):
    path = save_checkpoint(tmp_path / "square", "gpt2", num_hidden_layers=4, intermediate_size=32)
    loaded = load_model(str(path), tmp_path, "float32")
    name, stored = loaded.tensor_name(LAYER), loaded.projection(LAYER).weight
    weight = loaded.base_weights([LAYER])[name]
    assert torch.equal(weight, stored.T)
    assert not torch.equal(weight, stored)
    loaded.set_weight(LAYER, 2 * weight)
    assert torch.equal(stored, 2 * weight.T)


def test_checkpoint_saved_without_its_head_is_read(tmp_path):
    path = save_checkpoint(tmp_path / "whole", "gpt2", num_hidden_layers=4)
    expected = load_model(str(path), tmp_path, "float32").base_weights([LAYER])
    GPT2Model.from_pretrained(path).save_pretrained(path)
    loaded = load_model(str(path), tmp_path, "float32")
    found = loaded.base_weights([LAYER])
    assert list(found) == ["transformer.h.1.mlp.c_proj.weight"]
    assert torch.equal(found[loaded.tensor_name(LAYER)], expected[loaded.tensor_name(LAYER)])


def test_capped_attention_scores_are_not_left_to_fused_attention(checkpoints, tmp_path):
    for family, implementation in (("gemma2", "eager"), ("gemma", "sdpa")):
        loaded = load_model(str(checkpoints(family)), tmp_path, "float32")
        assert loaded.model.config._attn_implementation == implementation


def test_unknown_family_is_refused_with_the_known_ones(checkpoints, tmp_path):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(ModelError) as refused:
        load_model(str(tmp_path), tmp_path)
    assert all(family in str(refused.value) for family in ("mamba", *FAMILIES))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mixtral", "num_local_experts": 8},
        {"model_type": "qwen3_moe", "num_experts": 128},
        {"model_type": "deepseek_v3", "n_routed_experts": 256},
    ],
)
def test_a_mixture_of_experts_is_refused_by_its_name(tmp_path, config):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"{config['model_type']}' is a mixture of experts.*dense"):
        load_model(str(tmp_path), tmp_path)


def test_a_model_that_sees_later_tokens_is_refused(checkpoints, tmp_path):
    config = json.loads((checkpoints("gemma3_text") / "config.json").read_text())
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(json.dumps(config | {"use_bidirectional_attention": True}))
    with pytest.raises(ModelError, match="later tokens"):
        load_model(str(tmp_path), tmp_path)


def norm(gain, x):
    return gain[:, None] * x / x.square().mean(dim=0).sqrt()


def test_input_of_the_norm_is_the_nearest_of_many():
    generator = torch.Generator().manual_seed(0)
    gain, output, change = (torch.randn(*s, generator=generator) for s in ((5,), (5, 3), (5, 3)))
    found = nearest_input(gain, output, change)
    wanted = norm(gain, output) + change
    distance = (norm(gain, found) - wanted).norm(dim=0)
    close = found[:, :, None] + 0.01 * torch.randn(5, 3, 1000, generator=generator)
    anywhere = torch.randn(5, 3, 20000, generator=generator)
    for others in (close, anywhere):
        for i in range(3):
            assert distance[i] <= (norm(gain, others[:, i]) - wanted[:, i : i + 1]).norm(dim=0).min()
    torch.testing.assert_close(found.square().mean(dim=0), output.square().mean(dim=0))


def test_no_change_leaves_the_input_and_a_reachable_one_is_reached():
    generator = torch.Generator().manual_seed(0)
    gain, output, other = (torch.randn(*s, generator=generator) for s in ((5,), (5, 3), (5, 3)))
    torch.testing.assert_close(nearest_input(gain, output, torch.zeros(5, 3)), output)
    change = norm(gain, other) - norm(gain, output)
    torch.testing.assert_close(norm(gain, nearest_input(gain, output, change)), norm(gain, other))
