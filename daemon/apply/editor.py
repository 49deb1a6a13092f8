"""What the applier needs of an editor, and what it writes down of one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from daemon.core.progress import Progress
from daemon.versions.format import TensorEntry
from editing.facts import Fact
from editing.forms import Kind
from editing.memory.delta import tensor_sha256
from editing.memory.state import EditState
from editing.report import Report


class Editor(Protocol):
    """A model whose edited weights follow from a state; `editing.Editor` is the real one.

    Attributes:
        base_hash: of the unedited checkpoint.
        settings_hash: of the method and its numbers; for the record.
        tensor_names: of the weights that are edited.
        state: the live facts and what follows from them; immutable, replaced by each change.
        forms: kinds of forms that a fact is written for.
        chats: whether forms can be asked in chat.
    """

    @property
    def base_hash(self) -> str: ...
    @property
    def settings_hash(self) -> str: ...
    @property
    def tensor_names(self) -> tuple[str, ...]: ...
    @property
    def state(self) -> EditState: ...
    @property
    def forms(self) -> tuple[Kind, ...]: ...
    @property
    def chats(self) -> bool: ...

    def apply(self, facts: Sequence[Fact], remove: Sequence[str] = ()) -> Report:
        """Writes facts and drops those of ids `remove`, all or nothing; tells what became of each fact.

        Raises:
            EditError: nothing was changed.
        """
        ...

    def compact(
        self, folder: Path | None = None, progress: Progress = lambda _stage, _fraction: None
    ) -> None:
        """Writes all live facts anew from the base weights.

        Args:
            folder: keeps what was found so far, for a call after one that was killed.

        Raises:
            EditError: nothing was changed.
        """
        ...

    def consolidate(
        self, folder: Path | None = None, progress: Progress = lambda _stage, _fraction: None
    ) -> None:
        """The same, and trains the weights on from there.

        Raises:
            EditError: nothing was changed.
        """
        ...

    def rebase(self, start: EditState, compacted: EditState) -> None:
        """Goes to `compacted`, made of `start`, with all that has changed since `start` taken over.

        Raises:
            EditError: nothing was changed.
        """
        ...

    def restore(self, state: EditState) -> None:
        """Goes to a state: the weights are the very bits they were there.

        Raises:
            EditError: the state is of another model; nothing was changed.
        """
        ...

    def base_weights(self) -> dict[str, Tensor]:
        """Tensor name → unedited float32 weight [d, d_in]."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """Tensor name → float32 weight [d, d_in] at the current state."""
        ...

    def weight_hashes(self) -> dict[str, str]:
        """Tensor name → sha256 of the weight at the current state."""
        ...


def tensor_entries(editor: Editor) -> dict[str, TensorEntry]:
    """The manifest's table of edited tensors."""
    base, hashes = editor.base_weights(), editor.weight_hashes()
    return {
        name: {
            "shape": list(base[name].shape),
            "dtype": "float32",
            "base_sha256": tensor_sha256(base[name]),
            "sha256": hashes[name],
        }
        for name in editor.tensor_names
    }


def complete_state(editor: Editor) -> EditState:
    """The editor's state with factors for every edited tensor: an unchanged one has rank 0."""
    state, base = editor.state, editor.base_weights()
    factors = dict(state.factors)
    for name in editor.tensor_names:
        if name not in factors:
            d_out, d_in = base[name].shape
            factors[name] = (base[name].new_zeros(d_out, 0), base[name].new_zeros(d_in, 0))
    return EditState(facts=state.facts, factors=factors, columns=state.columns)
