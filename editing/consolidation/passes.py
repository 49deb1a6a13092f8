"""Prompts run through the layers that change, again and again, and through those below them once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from editing.model.forward import enter, through
from editing.model.loaded import LoadedModel
from editing.model.tokens import Prompt
from editing.model.tree import Tree
from editing.typed import applied
from editing.values.objective import Surprise


class Pass:
    """Some prompts before block `first`; below it no weight changes.

    Attributes:
        tokens: [k] what is predicted: each prompt's tokens from `target_start` on.
        owner: [k] index of the prompt that it belongs to.
        shares: [k] of a token in its prompt's mean.
    """

    def __init__(self, loaded: LoadedModel, prompts: Sequence[Prompt], first: int) -> None:
        self._loaded, self._first, self.count = loaded, first, len(prompts)
        # The last token is predicted, never read.
        read = [Prompt(p.ids[:-1], min(p.subject_last, len(p.ids) - 2), p.target_start) for p in prompts]
        tree = Tree.of(read)
        with torch.no_grad():
            self._entering = enter(tree, loaded, first)
        at, tokens, owner, shares = list[int](), list[int](), list[int](), list[float]()
        for i, (prompt, path) in enumerate(zip(prompts, tree.paths, strict=True)):
            told = prompt.ids[prompt.target_start :]
            # The prediction of token t stands at t − 1.
            at += path[prompt.target_start - 1 :]
            tokens += told
            owner += [i] * len(told)
            shares += [1 / len(told)] * len(told)
        self._at, self.tokens, self.owner = (
            torch.tensor(x, device=loaded.device) for x in (at, tokens, owner)
        )
        self.shares = torch.tensor(shares, device=loaded.device)

    def logits(self) -> Tensor:
        """Of the tokens predicted [k, vocabulary], with the weights as they are."""
        entering = self._entering
        for index in range(self._first, len(self._loaded.layers)):
            entering = through(self._loaded, index, entering)
        return self._loaded.logits(entering.hidden[0, self._at])

    def mean(self, each: Tensor) -> Tensor:
        """Of each prompt the mean over its tokens [count], of `each` [k]."""
        return torch.zeros(self.count, device=each.device).index_add(0, self.owner, each * self.shares)

    def surprise(self) -> tuple[Tensor, Tensor]:
        """Of each prompt the mean negative log-likelihood, nats [count], and whether all its tokens are the
        most probable ones [count]."""
        logits = self.logits()
        missed = (logits.detach().argmax(1) != self.tokens).float()
        return self.mean(applied(Surprise, logits, self.tokens)), self.mean(missed) == 0


def divergence(before: Tensor, logits: Tensor) -> Tensor:
    """KL(p₀ ‖ p) of each row [k], from log p₀ [k, vocabulary] and logits of p.

    Its gradient by the logits is p − p₀: made here, it takes two matrices less than autograd's.
    """
    with torch.no_grad():
        log_p, share = logits.float().log_softmax(-1), before.exp()
        told = (share * (before - log_p)).sum(-1)
        change = log_p.exp_().sub_(share).to(logits.dtype)
    carried = (change * logits).sum(-1).float()
    return told + (carried - carried.detach())
