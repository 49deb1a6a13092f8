"""A tiny editor stand-in: random Llama, byte tokenizer, weights set directly."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from editing.state import EditState
from monitoring.baseline import measure_baseline
from monitoring.probes import ProbeSet

LAYERS = (1, 2)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {"<pad>": 0} | {token: i + 1 for i, token in enumerate(alphabet)}
    core = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>")


class TinyEditor:
    """The part of `editing.Editor` that monitoring reads; `set` stands in for `apply`."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=257,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            initializer_range=0.2,
            bos_token_id=None,
            eos_token_id=None,
        )
        self.model = LlamaForCausalLM(config).eval()
        self.tokenizer = byte_tokenizer()
        self.base_hash = "tiny"
        self.tensor_names = tuple(f"model.layers.{layer}.mlp.down_proj.weight" for layer in LAYERS)
        self.state = EditState()
        self._base = {n: self.model.get_parameter(n).detach().clone() for n in self.tensor_names}

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: self.model.get_parameter(name).detach().clone() for name in self.tensor_names}

    def base_weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.clone() for name, weight in self._base.items()}

    def set(self, name: str, weight: torch.Tensor) -> None:
        with torch.no_grad():
            self.model.get_parameter(name).copy_(weight)


@pytest.fixture
def editor() -> TinyEditor:
    return TinyEditor()


@pytest.fixture
def probes() -> ProbeSet:
    return ProbeSet(
        texts=("Rivers carry sand to the sea.", "A heart has four chambers."),
        prompts=("The cat sat on the", "Ice floats on", "Two plus two equals"),
    )


@pytest.fixture
def baseline(editor, probes):
    return measure_baseline(editor, probes, rank=8)
