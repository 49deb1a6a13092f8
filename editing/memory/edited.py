"""A model whose edited weights follow from a state."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from editing.memory.delta import materialise, tensor_sha256
from editing.memory.state import EditState
from editing.model.loaded import LoadedModel


class EditedModel:
    """The weights are always those that follow from `state`: base weights plus its factors.

    Attributes:
        layers: those whose weights are edited, ascending.
        state: what is written; changed by `restore`.
    """

    def __init__(self, loaded: LoadedModel, layers: Sequence[int]) -> None:
        self.loaded, self.layers = loaded, tuple(layers)
        self._base = loaded.base_weights(self.layers)
        self._weights = dict(self._base)
        self.state = EditState()

    @property
    def model(self) -> Any:
        """The edited transformers model."""
        return self.loaded.model

    @property
    def tokenizer(self) -> Any:
        return self.loaded.tokenizer

    @property
    def path(self) -> Path:
        """The unedited checkpoint."""
        return self.loaded.path

    @property
    def base_hash(self) -> str:
        return self.loaded.base_hash

    @property
    def tensor_names(self) -> tuple[str, ...]:
        return tuple(self.loaded.tensor_name(layer) for layer in self.layers)

    def weights(self) -> dict[str, Tensor]:
        """Float32 masters [d, d_in] of the edited tensors at the current state."""
        return dict(self._weights)

    def base_weights(self) -> dict[str, Tensor]:
        return dict(self._base)

    def weight_hashes(self) -> dict[str, str]:
        return {name: tensor_sha256(weight) for name, weight in self._weights.items()}

    def restore(self, state: EditState) -> None:
        """Goes to `state`: the weights are the very bits they were there.

        Raises:
            DeltaError: the state belongs to another model; nothing is changed.
        """
        weights: dict[str, Tensor] = {}
        for name in self.tensor_names:
            factors = state.factors.get(name)
            weights[name] = self._base[name] if factors is None else materialise(self._base[name], *factors)
        for layer in self.layers:
            self._set_weight(layer, weights[self.loaded.tensor_name(layer)])
        self.state = state

    @contextmanager
    def _all_or_nothing(self) -> Generator[None]:
        before = self.state
        try:
            yield
        except BaseException:
            self.restore(before)
            raise

    @contextmanager
    def _unedited(self) -> Generator[None]:
        """The model has its base weights meanwhile; the state is left as it is."""
        for layer in self.layers:
            self.loaded.set_weight(layer, self._base[self.loaded.tensor_name(layer)])
        try:
            yield
        finally:
            for layer in self.layers:
                self.loaded.set_weight(layer, self._weights[self.loaded.tensor_name(layer)])

    def _set_weight(self, layer: int, weight: Tensor) -> None:
        self._weights[self.loaded.tensor_name(layer)] = weight
        self.loaded.set_weight(layer, weight)
