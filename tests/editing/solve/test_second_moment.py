"""Second moments: what they are, that an interruption changes no bit, and what they are kept under."""

import pytest
import torch

from editing.errors import ModelError, OptionError
from editing.install import Installation
from editing.model.capture import each_key
from editing.model.chat import ChatTemplate
from editing.model.loaded import load_model
from editing.moments import BEGINNINGS, CHAT_SHARE
from editing.solve.second_moment import DOCUMENT_TOKENS, Sums, block_rows, draw, second_moments
from tests.tiny_models import CHAT_TEMPLATE, save_checkpoint

LAYERS = (1, 2)
TOKENS = 64 * 50


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = save_checkpoint(tmp_path_factory.mktemp("moments"), num_hidden_layers=4)
    return load_model(str(path), path, "float32")


@pytest.fixture
def install(loaded, tmp_path):
    def of(progress=lambda _stage, _fraction: None, *, corpus=None, tokens=TOKENS):
        return Installation(loaded, tmp_path, corpus, progress, tokens)

    return of


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("The mill of Zoë stands by the lake. " * 400, encoding="utf-8")
    return path


class PowerCut(Exception):
    """Ends a run in its middle."""


def cut_after(stage: str, calls: int):
    """A progress function that fails at the given call of a stage."""
    seen = []

    def progress(now: str, _fraction: float) -> None:
        seen.append(now)
        if seen.count(stage) == calls:
            raise PowerCut

    return progress


@torch.no_grad()
def dense(loaded, text, layer):
    """KᵀK / N in float64 over all rows at once, the model in float64 too."""
    seen = {}
    loaded.model.double()
    handle = loaded.projection(layer).register_forward_pre_hook(lambda _m, inputs: seen.update(k=inputs[0]))
    loaded.model(input_ids=text)
    handle.remove()
    loaded.model.float()
    keys = seen["k"][:, 1:].flatten(0, 1)
    return keys.T @ keys / len(keys)


def test_moments_equal_a_dense_float64_reference(loaded, install):
    installation = install()
    moments = installation.moments(LAYERS)
    text = installation._moments.text("text")
    assert text.shape == (TOKENS // DOCUMENT_TOKENS, DOCUMENT_TOKENS)
    for layer in LAYERS:
        reference = dense(loaded, text, layer)
        assert moments[layer].dtype == torch.float64
        assert (moments[layer] - reference).norm() < 1e-5 * reference.norm()


def test_moments_are_symmetric_and_have_no_negative_eigenvalue(install):
    for moment in install().moments(LAYERS).values():
        torch.testing.assert_close(moment, moment.T)
        assert torch.linalg.eigvalsh(moment).min() > -1e-6 * moment.diagonal().mean()


def test_one_row_gives_the_mean_of_its_own_products(loaded):
    text = torch.arange(1, 9)[None]
    (sums,) = second_moments(loaded, text, Sums.none(loaded, [1]))
    keys = {}
    each_key(loaded, text, [1], lambda layer, found: keys.update({layer: found[0, 1:]}))
    expected = sum(torch.outer(key, key) for key in keys[1]) / 7
    torch.testing.assert_close(sums.moment(1), expected.double(), atol=1e-6, rtol=1e-5)


def test_a_pass_ends_at_the_deepest_layer_wanted(loaded):
    ran = []
    handles = [
        block.register_forward_pre_hook(lambda _m, _x, i=i: ran.append(i))
        for i, block in enumerate(loaded.layers)
    ]
    list(second_moments(loaded, torch.ones(2, 8, dtype=torch.long), Sums.none(loaded, LAYERS)))
    for handle in handles:
        handle.remove()
    assert ran == [0, 1, 2]
    assert not any(loaded.projection(layer)._forward_pre_hooks for layer in LAYERS)


@pytest.mark.parametrize("calls", [1, 3])
def test_interrupted_estimation_goes_on_to_the_same_bits(loaded, install, tmp_path, monkeypatch, calls):
    whole = Installation(loaded, tmp_path / "whole", None, lambda _stage, _fraction: None, TOKENS)
    monkeypatch.setattr("editing.moments.SAVE_SECONDS", 0.0)
    with pytest.raises(PowerCut):
        install(cut_after("second moments", calls)).moments(LAYERS)
    fractions = []
    resumed = install(lambda stage, fraction: fractions.append((stage, fraction)))
    moments = resumed.moments(LAYERS)
    assert [stage for stage, _ in fractions] == ["second moments"] * (4 - calls)
    assert fractions[-1][1] == 1.0
    for layer, moment in whole.moments(LAYERS).items():
        assert torch.equal(moments[layer], moment)
    assert not list(resumed.directory.glob("*unfinished*"))


def test_sums_of_other_layers_are_not_gone_on_with(install, monkeypatch):
    monkeypatch.setattr("editing.moments.SAVE_SECONDS", 0.0)
    with pytest.raises(PowerCut):
        install(cut_after("second moments", 2)).moments([1])
    both = install().moments(LAYERS)
    assert torch.equal(both[1], install().moments([1])[1])


def test_interrupted_sampling_keeps_whole_blocks(loaded, install, tmp_path, monkeypatch):
    monkeypatch.setattr("editing.solve.second_moment.SAMPLE_ROWS", 20)
    assert block_rows(TOKENS) == [20, 20, 10]
    whole = Installation(
        loaded, tmp_path / "whole", None, lambda _stage, _fraction: None, TOKENS
    )._moments.text("text")
    with pytest.raises(PowerCut):
        install(cut_after("sampling text", DOCUMENT_TOKENS + 5)).moments(LAYERS)
    steps = []
    text = install(lambda stage, _fraction: steps.append(stage))._moments.text("text")
    assert len(steps) == 2 * (DOCUMENT_TOKENS - 1)
    assert torch.equal(text, whole)
    assert not torch.equal(text[:20], text[20:40])


def test_kept_moments_are_those_of_their_tokens_corpus_and_weights(loaded, install, corpus, tmp_path):
    first = install().moments([1])[1]
    more = install(tokens=2 * TOKENS).moments([1])[1]
    assert not torch.equal(first, more)
    assert torch.equal(install().moments([1])[1], first)
    own = install(corpus=corpus)
    assert own.directory != install().directory
    of_corpus = own.moments([1])[1]
    corpus.write_text("Another text, about the sea. " * 400, encoding="utf-8")
    assert not torch.equal(install(corpus=corpus).moments([1])[1], of_corpus)
    path = save_checkpoint(tmp_path / "other", num_hidden_layers=4, intermediate_size=48)
    other = load_model(str(path), tmp_path, "float32")
    assert (
        Installation(other, tmp_path, None, lambda _stage, _fraction: None).directory != install().directory
    )


def test_estimation_is_not_done_twice(install):
    first = install().moments(LAYERS)
    again = install(cut_after("second moments", 1)).moments(LAYERS)
    assert all(torch.equal(first[layer], again[layer]) for layer in LAYERS)


def test_default_budget_is_ten_tokens_a_dimension(install):
    assert install(tokens=None).tokens == 640


@pytest.mark.parametrize("tokens", [0, -5, 63, 64.5, "1000", True])
def test_a_budget_that_cannot_serve_is_refused(install, tokens):
    with pytest.raises(OptionError, match="at least 64"):
        install(tokens=tokens)


def test_a_corpus_that_cannot_serve_is_refused(install, tmp_path):
    with pytest.raises(ModelError, match=r"absent\.txt"):
        install(corpus=tmp_path / "absent.txt")
    (tmp_path / "short.txt").write_text("few words")
    with pytest.raises(ModelError, match="at least 64"):
        install(corpus=tmp_path / "short.txt").moments([1])
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe" * 500)
    with pytest.raises(ModelError, match="not UTF-8"):
        install(corpus=tmp_path / "bytes.txt").moments([1])


def test_tokens_are_drawn_by_their_probabilities():
    logits = torch.tensor([0.0, 2.0, -float("inf"), 1.0, -1.0])
    draws = draw(logits.expand(100_000, -1), torch.Generator().manual_seed(0))
    share = torch.bincount(draws[:, 0], minlength=5) / len(draws)
    expected = logits.softmax(-1)
    assert ((share - expected).abs() <= 4 * (expected / len(draws)).sqrt()).all()
    assert share[2] == 0
    again = draw(logits.expand(100_000, -1), torch.Generator().manual_seed(0))
    assert torch.equal(draws, again)


def test_moments_over_text_and_chats_are_their_weighted_mean(loaded, install, monkeypatch):
    monkeypatch.setattr(loaded.tokenizer, "chat_template", CHAT_TEMPLATE)
    monkeypatch.setitem(vars(loaded), "chat", ChatTemplate(loaded.tokenizer))
    installation = install()
    both, text = installation.moments(LAYERS, chat=True), installation.moments(LAYERS)
    chats = installation._moments.text("chat")
    for layer in LAYERS:
        reference = (1 - CHAT_SHARE) * text[layer] + CHAT_SHARE * dense(loaded, chats, layer)
        assert (both[layer] - reference).norm() < 1e-5 * reference.norm()
    assert torch.equal(install().moments([1], chat=True)[1], both[1])


def test_sampled_chats_begin_as_questions_do(loaded, install, monkeypatch):
    monkeypatch.setattr(loaded.tokenizer, "chat_template", CHAT_TEMPLATE)
    monkeypatch.setitem(vars(loaded), "chat", ChatTemplate(loaded.tokenizer))
    moments = install()._moments
    before, _ = loaded.chat.around("Hello")
    blocks = moments._blocks("chat")
    assert len(blocks) == len(BEGINNINGS)
    # Behind their openings they hold as many tokens as the moments are to be estimated from.
    assert sum(block.rows * (block.length - len(block.opening)) for block in blocks) >= TOKENS
    for index, block in enumerate(blocks):
        ids = moments._block("chat", index, block, len(BEGINNINGS))
        assert loaded.tokenizer.decode(list(block.opening)) == before + BEGINNINGS[index]
        assert ids.shape == (block.rows, block.length)
        assert torch.equal(ids[:, : len(block.opening)], torch.tensor([block.opening] * block.rows))
        assert len({tuple(row) for row in ids.tolist()}) == len(ids)
