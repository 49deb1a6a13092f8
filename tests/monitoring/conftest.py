"""A tiny editor stand-in: random Llama, byte tokenizer, weights set directly."""

import pytest
import torch

from editing.memory.state import EditState
from monitoring.measuring.baseline import measure_baseline
from monitoring.measuring.probes import ProbeSet
from tests.tiny_models import byte_tokenizer, tiny_model

LAYERS = (1, 2)


class TinyEditor:
    """The part of `editing.Editor` that monitoring reads; `set` stands in for `apply`."""

    def __init__(self) -> None:
        self.model = tiny_model(num_hidden_layers=4, max_position_embeddings=512, eos_token_id=None)
        self.tokenizer = byte_tokenizer(eos=False)
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
