"""What prompts' tokens are at chosen layers: keys, MLP outputs and the residual stream."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editing.model.forward import Entering, Stop, enter, hooks, through
from editing.model.loaded import LoadedModel
from editing.model.tokens import Prompt
from editing.model.tree import Tree
from editing.typed import parts


@dataclass
class Captured:
    """What a pass over prompts recorded at each prompt's subject-last token.

    Attributes:
        keys: layer → [d_in, n] float32, input of the FFN output projection.
        outputs: layer → [d, n] float32, what the MLP adds to the residual stream, bias included.
        hidden: layer → [d, n] float32, the block's output (residual stream).
    """

    keys: dict[int, Tensor]
    outputs: dict[int, Tensor]
    hidden: dict[int, Tensor]


class Ascent:
    """Prompts on their way up, read at their subject's last tokens; nothing behind those is run.

    What the blocks passed gave is kept, so that layers are written one above the other without beginning
    from the embeddings each time: a block passed must not change any more.
    """

    def __init__(
        self, loaded: LoadedModel, prompts: Sequence[Prompt], block: int = 0, rows: int = 128
    ) -> None:
        """Stands before `block`; of the prompts so many `rows` run together."""
        self._loaded, self._block = loaded, block
        read = [replace(prompt, ids=prompt.ids[: prompt.subject_last + 1]) for prompt in prompts]
        # Prompts of like length run together.
        order = sorted(range(len(read)), key=lambda i: len(read[i].ids))
        trees = [
            Tree.of([read[i] for i in order[start : start + rows]]) for start in range(0, len(order), rows)
        ]
        self._order = torch.tensor(order, device=loaded.device)
        self._back = self._order.argsort()
        self._at = [torch.tensor([path[-1] for path in tree.paths], device=loaded.device) for tree in trees]
        with torch.no_grad():
            self._parts = [enter(tree, loaded, block) for tree in trees]

    @torch.no_grad()
    def to(self, block: int) -> None:
        """Through the blocks below `block`, as they are now."""
        while self._block < block:
            self._parts = [through(self._loaded, self._block, part) for part in self._parts]
            self._block += 1

    @torch.no_grad()
    def add(self, change: Tensor) -> None:
        """Adds [d, n] to the residual stream at the subjects' last tokens, where the prompts stand.

        Prompts with the same tokens up to there must get the same. One that begins another changes it too,
        unless each runs alone (`rows` = 1).
        """
        moved = list[Entering]()
        changes = parts(change.to(self._order.device).T[self._order], [len(at) for at in self._at])
        for part, at, own in zip(self._parts, self._at, changes, strict=True):
            hidden = part.hidden.clone()
            hidden[0, at] = part.hidden[0, at] + own.to(hidden.dtype)
            moved.append(replace(part, hidden=hidden))
        self._parts = moved

    @torch.no_grad()
    def capture(self, layers: Sequence[int]) -> Captured:
        """What there is at some layers above, up to the deepest; the prompts stay where they are."""
        found = [self._read(part, at, layers) for part, at in zip(self._parts, self._at, strict=True)]
        return Captured(
            *(
                {layer: torch.cat([part[layer] for part in kind], dim=1)[:, self._back] for layer in layers}
                for kind in zip(*found, strict=True)
            )
        )

    def _read(
        self, part: Entering, at: Tensor, layers: Sequence[int]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor], dict[int, Tensor]]:
        """Fields of `Captured` of the prompts that run together."""
        keys, outputs, hidden = dict[int, Tensor](), dict[int, Tensor](), dict[int, Tensor]()

        def at_subject(x: Tensor) -> Tensor:
            return x[0, at].float().T.contiguous()

        def on_projection(layer: int) -> Callable[..., None]:
            def hook(_module: object, inputs: tuple[Tensor, ...]) -> None:
                keys[layer] = at_subject(inputs[0])

            return hook

        def on_mlp_output(layer: int) -> Callable[..., None]:
            def hook(_module: object, _inputs: object, output: Tensor) -> None:
                outputs[layer] = loaded.multiplier * at_subject(output)

            return hook

        loaded = self._loaded
        handles = [loaded.projection(x).register_forward_pre_hook(on_projection(x)) for x in layers]
        handles += [loaded.mlp_output(x).register_forward_hook(on_mlp_output(x)) for x in layers]
        with hooks(handles):
            for block in range(self._block, max(layers) + 1):
                part = through(loaded, block, part)
                if block in layers:
                    hidden[block] = at_subject(part.hidden)
        return keys, outputs, hidden


def capture(loaded: LoadedModel, prompts: Sequence[Prompt], layers: Sequence[int]) -> Captured:
    """Records keys, MLP outputs and block outputs at the subject's last token, up to the deepest layer."""
    return Ascent(loaded, prompts, min(layers)).capture(layers)


@torch.no_grad()
def each_key(
    loaded: LoadedModel, ids: Tensor, layers: Sequence[int], use: Callable[[int, Tensor], None]
) -> None:
    """Calls `use` with each layer and its keys [rows, length, d_in] at all positions of `ids`."""

    def hook(layer: int) -> Callable[..., None]:
        def on_projection(_module: object, inputs: tuple[Tensor, ...]) -> None:
            use(layer, inputs[0])
            if layer == max(layers):
                raise Stop

        return on_projection

    handles = [loaded.projection(layer).register_forward_pre_hook(hook(layer)) for layer in layers]
    with hooks(handles):
        with suppress(Stop):
            loaded.model.base_model(input_ids=ids.to(loaded.device), use_cache=False)


def mean_keys(keys: Tensor, contexts: int) -> Tensor:
    """[d_in, n · contexts] → [d_in, n]: half the bare prompt's key, half the others' mean (MEMIT)."""
    grouped = keys.reshape(len(keys), -1, contexts).cpu()
    if contexts == 1:
        return grouped[:, :, 0].contiguous()
    return (grouped[:, :, 0] / 2 + grouped[:, :, 1:].mean(dim=2) / 2).contiguous()
