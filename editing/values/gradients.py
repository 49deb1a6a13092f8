"""How likely the answers of prompts are, and what would make them likelier: the gradient at a projection."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from editing.model.forward import hooks, nudged
from editing.model.loaded import LoadedModel
from editing.model.tokens import Prompt, pad
from editing.typed import backward

#: Prompts in one forward and backward pass.
ROWS = 32
#: Layer → k [d_in, n] and g [d, n] float32 of n prompts.
Gradients = dict[int, tuple[Tensor, Tensor]]


def surprise(loaded: LoadedModel, prompts: Sequence[Prompt]) -> Tensor:
    """Mean negative log-likelihood of the tokens from each prompt's `target_start` on, nats [n]."""
    ids, mask = pad([p.ids for p in prompts], loaded.tokenizer.pad_token_id, loaded.device)
    log_p = loaded.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
    found = -log_p[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    start = torch.tensor([p.target_start for p in prompts], device=ids.device)
    # The prediction of token i stands at position i − 1.
    of_target = (torch.arange(1, ids.shape[1], device=ids.device)[None] >= start[:, None]) & mask[:, 1:]
    return (found * of_target).sum(1) / of_target.sum(1)


def gradients(
    loaded: LoadedModel, prompts: Sequence[Prompt], layers: Sequence[int]
) -> tuple[Gradients, Tensor]:
    """Where the answer of each prompt begins: the input k of the projections, and the gradient g of the
    answer's mean negative log-likelihood by their output. All layers in one pass.

    Returns:
        k and g of each layer, and the losses in nats [n].
    """
    found = [_gradients(loaded, part, layers) for part in _batches(prompts)]
    return {
        layer: (
            torch.cat([own[layer][0] for own, _ in found], dim=1),
            torch.cat([own[layer][1] for own, _ in found], dim=1),
        )
        for layer in layers
    }, torch.cat([losses for _, losses in found])


def _batches(prompts: Sequence[Prompt]) -> list[Sequence[Prompt]]:
    return [prompts[start : start + ROWS] for start in range(0, len(prompts), ROWS)]


def _gradients(
    loaded: LoadedModel, prompts: Sequence[Prompt], layers: Sequence[int]
) -> tuple[Gradients, Tensor]:
    # The token before the answer predicts its first one.
    at = torch.arange(len(prompts)), torch.tensor([p.target_start - 1 for p in prompts])
    keys = dict[int, Tensor]()

    def hook(layer: int) -> Callable[..., None]:
        def on_projection(_module: object, inputs: tuple[Tensor, ...]) -> None:
            keys[layer] = inputs[0].detach()[at].float().T.cpu()

        return on_projection

    handles = [loaded.projection(layer).register_forward_pre_hook(hook(layer)) for layer in layers]
    with hooks(handles), nudged(loaded, layers) as nudges:
        losses = surprise(loaded, prompts)
    # Prompts do not see each other: the sum's gradient at one is that of its own loss.
    backward(losses.sum())
    found: Gradients = {}
    for layer, nudge in nudges.items():
        assert nudge.grad is not None
        found[layer] = keys[layer], nudge.grad[at].float().T.cpu()
    return found, losses.detach().cpu()
