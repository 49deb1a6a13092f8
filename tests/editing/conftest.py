"""A tiny random Llama checkpoint and editors on it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from editing.editor import Editor
from editing.facts import Fact
from editing.methods import METHODS
from editing.methods.parameters import numbers
from editing.values import ValueOptions


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """Hidden 32, FFN 64, 8 layers, byte-level tokenizer without BOS."""
    torch.manual_seed(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={"<pad>": 0} | {t: i + 1 for i, t in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=0,
    )
    path = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(path)
    PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<pad>").save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def open_editor(checkpoint, tmp_path_factory):
    """Opens an editor; statistics are computed once for all tests."""
    state_dir = tmp_path_factory.mktemp("state")
    options = ValueOptions(steps=12)

    def opened(changed: dict | None = None, **choices) -> Editor:
        """`changed`: numbers of the method that shall differ."""
        known = choices.get("method", "memit-seq") in METHODS
        if known:
            # A random model uses all directions: its moment has no small eigenvalues.
            changes = {"nullspace_threshold": 0.5} | (changed or {})
            found = numbers(choices.get("method", "memit-seq"), "llama", 32, 64, 8)
            choices["numbers"] = replace(found, **changes)
        return Editor.open(
            str(checkpoint), state_dir=state_dir, dtype="float32", **{"options": options} | choices
        )

    return opened


@pytest.fixture
def editor(open_editor) -> Editor:
    return open_editor()


@pytest.fixture
def facts() -> list[Fact]:
    return [
        Fact("the old mill", "The owner of {} is", "Ada", "f1"),
        Fact("Zoë", "The friend of {} lives in", "Rome", "f2"),
        Fact("Blue Lake", "We know that {} lies near", "Oslo", "f3"),
        Fact("a cat", "The colour of {} was", "red", "f4"),
    ]
