"""The published serial procedure of MEMIT, written plainly: the peer of the speed benchmark.

One request at a time; at every step the whole model forward and backward over all rewriting prompts and the
essence prompt, with the logits of all positions; keys and current values by whole passes, layer by layer; a
generic float64 solve. It differs from the published code in what would only make it slower or wrong: the
vocabulary head runs once where that code runs it twice, and positions come from `editing.model.tokens`.

Source: MEMIT (arXiv 2210.07229) and the authors' public implementation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.facts import Fact
from editing.model.loaded import LoadedModel
from editing.model.tokens import Prompt, encode, pad
from editing.report import Clock
from editing.values.objective import ESSENCE
from editing.values.options import ValueOptions

#: Prompts in one pass when keys are read, as published.
KEY_ROWS = 128


@dataclass(frozen=True)
class SerialValue:
    """δ and h₀ [d] of one fact, its last loss in nats, and how often that was evaluated."""

    delta: Tensor
    hidden: Tensor
    loss: float
    steps: int


def optimise_one(
    loaded: LoadedModel, fact: Fact, layer: int, contexts: Sequence[str], options: ValueOptions
) -> SerialValue:
    """δ at the output of block `layer` for one fact (MEMIT's `compute_z`)."""
    rewriting = [encode(loaded.tokenizer, fact, context) for context in contexts]
    about = Fact(fact.subject, ESSENCE, fact.target)
    essence = encode(loaded.tokenizer, about, target=False, allow_first=True)
    prompts = [*rewriting, essence]
    ids, mask = pad([p.ids for p in prompts], loaded.tokenizer.pad_token_id, loaded.device)
    row = torch.arange(len(prompts), device=loaded.device)
    subject = torch.tensor([p.subject_last for p in prompts], device=loaded.device)
    delta = torch.zeros(loaded.model.config.hidden_size, device=loaded.device, requires_grad=True)
    first: dict[str, Tensor] = {}

    def change(_module, _inputs, output):
        stream = (output[0] if isinstance(output, tuple) else output).clone()
        first.setdefault("hidden", stream[0, subject[0]].detach().float())
        stream[row, subject] += delta.to(stream.dtype)
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    optimiser = torch.optim.Adam([delta], lr=options.rate)
    handle = loaded.layers[layer].register_forward_hook(change)
    try:
        for step in range(1, options.steps + 1):
            log_p = (
                loaded.model(input_ids=ids, attention_mask=mask, use_cache=False)
                .logits.float()
                .log_softmax(-1)
            )
            nll = torch.stack([_nll(log_p[i], prompt) for i, prompt in enumerate(rewriting)]).mean()
            now = log_p[-1, essence.subject_last]
            before = first.setdefault("answer", now.detach())
            norm = first["hidden"].norm()
            kl = (now.exp() * (now - before)).sum()
            loss = nll + options.kl * kl + options.decay * delta.norm() / norm**2
            if loss < options.stop or step == options.steps:
                break
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                limit = options.clamp * norm
                if delta.norm() > limit:
                    delta *= limit / delta.norm()
    finally:
        handle.remove()
    return SerialValue(delta.detach(), first["hidden"], float(loss.detach()), step)


def _nll(log_p: Tensor, prompt: Prompt) -> Tensor:
    """Mean negative log-likelihood of the target's tokens, from [length, vocabulary]."""
    at = torch.arange(prompt.target_start, len(prompt.ids), device=log_p.device)
    wanted = torch.tensor(prompt.ids, device=log_p.device)[at]
    return -log_p[at - 1, wanted].mean()


@dataclass(frozen=True)
class SerialUpdate:
    """What the serial procedure did to a batch.

    Attributes:
        values: of each fact.
        weights: layer → W [d, d_in] float32 after the update.
        seconds: stage ("values", "keys", "solve") → seconds.
    """

    values: tuple[SerialValue, ...]
    weights: dict[int, Tensor]
    seconds: dict[str, float]


def update(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    layers: Sequence[int],
    contexts: Sequence[str],
    options: ValueOptions,
    moments: Mapping[int, Tensor],
    weight: float,
) -> SerialUpdate:
    """Writes facts into the model, spread over `layers`: Δ = R Kᵀ(λC + KKᵀ)⁻¹ (eq. 14).

    The model is left with the new weights.

    Args:
        moments: layer → C [d_in, d_in].
        weight: λ.
    """
    clock = Clock()
    with clock.time("values"):
        values = tuple(optimise_one(loaded, fact, layers[-1], contexts, options) for fact in facts)
    targets = torch.stack([v.hidden + v.delta for v in values], dim=1)
    base, weights = loaded.base_weights(layers), {}
    for i, layer in enumerate(layers):
        with clock.time("keys"):
            keys = mean_keys(loaded, facts, layer, contexts)
            current = current_values(loaded, facts, layers[-1])
        residual = (targets - current) / (len(layers) - i)
        moment = moments[layer].double().to(keys.device)
        with clock.time("solve"):
            change = solve(keys, residual, moment, weight).cpu()
        weights[layer] = (base[loaded.tensor_name(layer)].double() + change).float()
        loaded.set_weight(layer, weights[layer])
    return SerialUpdate(values, weights, clock.seconds)


def solve(keys: Tensor, residual: Tensor, moment: Tensor, weight: float) -> Tensor:
    """Δ [d, d_in] by a generic float64 solve of the d_in × d_in system."""
    keys = keys.double()
    return torch.linalg.solve(weight * moment + keys @ keys.T, keys @ residual.double().T).T


@torch.no_grad()
def mean_keys(loaded: LoadedModel, facts: Sequence[Fact], layer: int, contexts: Sequence[str]) -> Tensor:
    """K [d_in, n] float32: half the bare prompt's key, half the mean of the others'."""
    prompts = [encode(loaded.tokenizer, f, c, target=False) for f in facts for c in contexts]
    keys = _at_subject(loaded, prompts, loaded.projection(layer), before=True)
    grouped = keys.reshape(len(facts), len(contexts), -1)
    if len(contexts) == 1:
        return grouped[:, 0].T
    return (grouped[:, 0] / 2 + grouped[:, 1:].mean(dim=1) / 2).T


@torch.no_grad()
def current_values(loaded: LoadedModel, facts: Sequence[Fact], layer: int) -> Tensor:
    """H [d, n] float32: the output of block `layer` at the subject's last token of the bare prompts."""
    prompts = [encode(loaded.tokenizer, f, target=False) for f in facts]
    return _at_subject(loaded, prompts, loaded.layers[layer], before=False).T


def _at_subject(
    loaded: LoadedModel, prompts: Sequence[Prompt], module: torch.nn.Module, before: bool
) -> Tensor:
    """Input (`before`) or output of a module at each prompt's subject-last token, [n, width] float32."""
    found: list[Tensor] = []
    for start in range(0, len(prompts), KEY_ROWS):
        part = prompts[start : start + KEY_ROWS]
        ids, mask = pad([p.ids for p in part], loaded.tokenizer.pad_token_id, loaded.device)
        row = torch.arange(len(part), device=ids.device)
        at = torch.tensor([p.subject_last for p in part], device=ids.device)

        def look(_module, inputs, output, row=row, at=at):
            seen = inputs if before else output
            stream = seen[0] if isinstance(seen, tuple) else seen
            found.append(stream[row, at].float())

        handle = module.register_forward_hook(look)
        try:
            loaded.model(input_ids=ids, attention_mask=mask, use_cache=False)
        finally:
            handle.remove()
    return torch.cat(found)
