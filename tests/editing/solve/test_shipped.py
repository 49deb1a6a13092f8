"""Text that comes with factd: used where it is enough, and what the model itself would write."""

import pytest
import torch

from editing.install import Installation
from editing.model.loaded import load_model
from editing.solve import shipped
from editing.solve.second_moment import DOCUMENT_TOKENS
from tests.tiny_models import save_checkpoint

TOKENS = 64 * 50


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = save_checkpoint(tmp_path_factory.mktemp("shipped"), num_hidden_layers=2)
    return load_model(str(path), path, "float32")


def test_what_is_kept_is_used_by_the_next_installation(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    monkeypatch.setattr("editing.solve.second_moment.SAMPLE_ROWS", 20)
    stages = []

    def install(name: str, tokens: int) -> Installation:
        return Installation(loaded, tmp_path / name, None, lambda stage, _: stages.append(stage), tokens)

    first = install("first", TOKENS)
    moments = first.moments([1], chat=True)
    assert {"sampling text", "sampling chat"} <= set(stages)
    shipped.keep(first.directory)

    stages.clear()
    second = install("second", TOKENS).moments([1], chat=True)
    assert not {"sampling text", "sampling chat"} & set(stages)
    assert torch.equal(second[1], moments[1])
    fewer = install("fewer", TOKENS // 2)._moments.text("text")
    assert torch.equal(fewer, first._moments.text("text")[: len(fewer)])
    assert "sampling text" not in stages

    # More than is shipped: the model writes the rest itself.
    more = install("more", 2 * TOKENS)._moments.text("text")
    assert len(more) == 2 * TOKENS // DOCUMENT_TOKENS
    assert "sampling text" in stages


def test_a_text_that_was_sampled_here_already_is_gone_on_with(loaded, tmp_path, monkeypatch):
    install = Installation(loaded, tmp_path / "own", None, lambda _stage, _fraction: None, TOKENS)
    own = install._moments.text("text")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    install._moments.text("chat")
    kept = shipped.keep(install.directory)
    shipped.save_tensors(kept, {name: text.flip(0) for name, text in shipped.load_tensors(kept)[0].items()})
    assert torch.equal(install._moments.text("text"), own)


@torch.no_grad()
def test_the_text_of_the_bundled_model_is_its_own(tmp_path):
    """By its own loss: a text drawn from a model has the model's entropy, any other text more."""
    loaded = load_model("smollm2-135m-instruct", tmp_path, "bfloat16")
    install = Installation(loaded, tmp_path, None, lambda _stage, _fraction: None)

    def surprise(text: torch.Tensor, opening: int) -> tuple[float, float]:
        """The mean loss of the tokens behind the opening, and the mean entropy they were drawn with."""
        log_probs = loaded.model(input_ids=text).logits[:, opening - 1 : -1].float().log_softmax(-1)
        loss = -log_probs.gather(2, text[:, opening:, None]).mean().item()
        return loss, -(log_probs.exp() * log_probs).sum(-1).mean().item()

    for source, name in (("text", "sampled-text"), ("chat", "sampled-questions")):
        blocks = install._moments._blocks(source)
        for index, block in enumerate(blocks):
            ids = shipped.shipped(loaded.base_hash, name, index, block.rows)
            assert ids.shape == (block.rows, block.length)
            assert len(ids.unique(dim=0)) == len(ids)
            assert (ids[:, : len(block.opening)] == torch.tensor(block.opening)).all()
        opening = blocks[-1].opening
        few = ids[:8]
        loss, entropy = surprise(few, len(opening))
        assert loss == pytest.approx(entropy, rel=0.1)
        loss, entropy = surprise(few.flip(1), len(opening))
        assert loss > 1.3 * entropy
