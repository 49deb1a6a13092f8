import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from monitoring.measuring.scoring import Encoded, Scorer, kl_nats, perplexity
from tests.tiny_models import byte_tokenizer

PAIRS = [("The cat", "sat"), ("A much longer prompt about a river", "flows"), ("Ice", "melts in the sun")]
FAMILIES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "gpt_neox": {"intermediate_size": 64},
    "mistral": {"intermediate_size": 64, "num_key_value_heads": 2},
    "qwen2": {"intermediate_size": 64, "num_key_value_heads": 2},
    "qwen3": {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8},
    "phi": {"intermediate_size": 64},
    "gemma": {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8},
    "gemma2": {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 2.0},
}


def dense_score(model, item: Encoded) -> tuple[float, bool]:
    """One unpadded row, float64 softmax over the model's own logits."""
    with torch.inference_mode():
        logits = model(torch.tensor([item.ids])).logits[0].double()
    log_probs = torch.log_softmax(logits, -1)
    places = range(item.first, len(item.ids))
    nll = -sum(float(log_probs[i - 1, item.ids[i]]) for i in places) / len(places)
    return nll, all(int(logits[i - 1].argmax()) == item.ids[i] for i in places)


def test_scores_equal_a_dense_float64_reference(editor):
    scorer = Scorer(editor.model, editor.tokenizer)
    encoded = [scorer.encode(*pair) for pair in PAIRS]
    for item, score in zip(encoded, scorer.score(encoded), strict=True):
        nll, exact = dense_score(editor.model, item)
        assert score.nll == pytest.approx(nll, abs=1e-5)
        assert score.exact == exact
        assert score.tokens == len(item.ids) - item.first


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_scored_as_its_own_forward_does(family):
    torch.manual_seed(0)
    common = {"vocab_size": 257, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    named = {} if family in ("gpt2", "gptj") else common
    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    config = AutoConfig.for_model(family, **({"vocab_size": 257} | named | FAMILIES[family] | special))
    model = AutoModelForCausalLM.from_config(config).eval()
    scorer = Scorer(model, byte_tokenizer())
    encoded = [scorer.encode(*pair) for pair in PAIRS]
    for item, score in zip(encoded, scorer.score(encoded), strict=True):
        assert score.nll == pytest.approx(dense_score(model, item)[0], abs=2e-4)


def test_the_target_is_what_reaches_past_the_prompt(editor):
    item = Scorer(editor.model, editor.tokenizer).encode("The cat", "sat")
    assert editor.tokenizer.decode(item.ids[: item.first]) == "The cat"
    assert editor.tokenizer.decode(item.ids[item.first :]) == " sat"


def test_scores_do_not_depend_on_the_batch(editor):
    scorer = Scorer(editor.model, editor.tokenizer)
    encoded = [scorer.encode(*pair) for pair in PAIRS]
    together, backwards = scorer.score(encoded), scorer.score(encoded[::-1])[::-1]
    alone = [scorer.score([item])[0] for item in encoded]
    for one, other, single in zip(together, backwards, alone, strict=True):
        assert one.nll == pytest.approx(single.nll, abs=1e-5)
        assert other.nll == pytest.approx(single.nll, abs=1e-5)
        assert one.exact == other.exact == single.exact


def test_greedy_answers_do_not_depend_on_the_batch_and_agree_with_scores(editor):
    scorer = Scorer(editor.model, editor.tokenizer)
    prompts = [prompt for prompt, _ in PAIRS]
    assert scorer.greedy(prompts) == [scorer.greedy([prompt])[0] for prompt in prompts]
    assert scorer.greedy([]) == []
    ids = editor.tokenizer("The cat")["input_ids"]
    with torch.inference_mode():
        for _ in range(4):
            ids.append(int(editor.model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert scorer.score([Encoded(tuple(ids), len(ids) - 4)])[0].exact


def perplexity_of(scorer, texts):
    return perplexity(scorer.score([scorer.encode_text(text) for text in texts]))


def test_perplexity_equals_the_reference(editor):
    texts = ["Rivers carry sand.", "A heart has four chambers and it beats."]
    scorer = Scorer(editor.model, editor.tokenizer)
    total, count = 0.0, 0
    for text in texts:
        item = scorer.encode_text(text)
        nll, _ = dense_score(editor.model, item)
        total, count = total + nll * (len(item.ids) - 1), count + len(item.ids) - 1
    assert perplexity_of(scorer, texts) == pytest.approx(math.exp(total / count), rel=1e-5)


def test_next_token_log_probs_keep_the_order_of_the_prompts(editor):
    scorer = Scorer(editor.model, editor.tokenizer)
    prompts = ["A long prompt that goes on", "Ice", "The cat sat"]
    found = scorer.next_log_probs(prompts)
    for prompt, row in zip(prompts, found, strict=True):
        with torch.inference_mode():
            logits = editor.model(torch.tensor([editor.tokenizer(prompt)["input_ids"]])).logits[0, -1]
        assert torch.allclose(row, torch.log_softmax(logits.double(), -1).float(), atol=1e-5)


def test_kl_equals_the_definition_and_is_zero_for_equal_distributions():
    torch.manual_seed(0)
    p, q = (torch.log_softmax(torch.randn(5, 11, dtype=torch.float64), -1) for _ in range(2))
    expected = sum(
        float(a.exp() * (a - b)) for x, y in zip(p, q, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert kl_nats(p, q) == pytest.approx(expected / 5, rel=1e-9)
    assert kl_nats(p, p) == 0
    assert math.isnan(kl_nats(p, q * math.nan))


def test_replaced_weights_are_used_and_the_model_is_left_alone(editor):
    name, base = editor.tensor_names[0], editor.base_weights()
    texts = ["Rivers carry sand."]
    before = perplexity_of(Scorer(editor.model, editor.tokenizer), texts)
    editor.set(name, base[name] * 3)
    edited = editor.model.get_parameter(name).detach().clone()
    assert perplexity_of(Scorer(editor.model, editor.tokenizer), texts) != pytest.approx(before, rel=1e-4)
    assert perplexity_of(Scorer(editor.model, editor.tokenizer, base), texts) == before
    assert torch.equal(editor.model.get_parameter(name), edited)


def test_replaced_weights_are_used_in_free_answers_too(editor):
    name, base = editor.tensor_names[0], editor.base_weights()
    prompts = ["The cat", "A river that"]
    before = Scorer(editor.model, editor.tokenizer).greedy(prompts)
    editor.set(name, torch.randn_like(base[name]))
    assert Scorer(editor.model, editor.tokenizer).greedy(prompts) != before
    assert Scorer(editor.model, editor.tokenizer, base).greedy(prompts) == before


def test_a_model_that_gives_nan_answers_nothing(editor):
    editor.set(editor.tensor_names[0], torch.full((32, 64), math.nan))
    scorer = Scorer(editor.model, editor.tokenizer)
    assert scorer.exact(PAIRS) == [False] * len(PAIRS)
    assert math.isnan(perplexity_of(scorer, ["Rivers carry sand."]))
