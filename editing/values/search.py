"""Value optimisation: the residual-stream change δ that makes the model say a fact.

Source: MEMIT (arXiv 2210.07229) eq. 16 with the KL and weight-decay terms of its implementation. Other
methods differ in when they stop, what they hold δ to (`editing.values.descent`), and PMET in a second change.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editing.facts import Fact
from editing.forms import units
from editing.model.asked import asked
from editing.model.capture import capture
from editing.model.loaded import LoadedModel
from editing.model.tokens import Prompt
from editing.typed import norms as lengths
from editing.values.descent import DENSE_STEPS, Barred, Compressed, Objective, Restraint, descend
from editing.values.objective import rows_of
from editing.values.options import ValueOptions
from editing.values.turns import Turns


@dataclass(frozen=True)
class Values:
    """Result for n facts: δ, h₀ and v₀ are [d, n] float32; loss in nats and steps (evaluations) are [n].

    h₀ is the residual stream and v₀ the MLP's output at the subject's last token of the fact's own bare
    prompt, also where facts share their δ. Of prompts asked in turn the loss is the mean of what each group
    said when last asked; `losses` asks all.
    """

    delta: Tensor
    hidden: Tensor
    output: Tensor
    loss: Tensor
    steps: Tensor

    def of_outputs(self) -> "Values":
        """The same as if the residual stream were the MLP's output alone."""
        return replace(self, hidden=self.output)

    def select(self, facts: Tensor) -> "Values":
        """The facts given, in that order."""
        return Values(*(getattr(self, name)[..., facts] for name in _VALUE_FIELDS))

    @staticmethod
    def joined(parts: Sequence["Values"]) -> "Values":
        return Values(*(torch.cat([getattr(part, name) for part in parts], dim=-1) for name in _VALUE_FIELDS))


_VALUE_FIELDS = ("delta", "hidden", "output", "loss", "steps")

#: (name of a part of the facts, what finds its values) → its values.
Keep = Callable[[str, Callable[[], Values]], Values]


def optimise(  # noqa: PLR0913 (each is a choice that a caller makes by name)
    loaded: LoadedModel,
    facts: Sequence[Fact],
    layer: int,
    contexts: Sequence[str],
    options: ValueOptions,
    done: Callable[[float], None] = lambda _fraction: None,
    *,
    barred: Barred | None = None,
    merged: bool = False,
    keep: Keep = lambda _part, find: find(),
) -> Values:
    """δ at the output of block `layer` for each fact.

    Args:
        contexts: texts put before the prompt; the first must be empty (the bare prompt).
        done: called with the fraction of facts done.
        barred: directions that some facts' δ must avoid.
        merged: whether facts of one unit get one value that serves all (MEMIT-Merge), in as many more steps.
        keep: finds the values of each part, or has them from an earlier call that was cut short.

    Raises:
        FactError: a fact cannot be tokenised as needed.
    """
    options = options.asked_in(loaded.chats(options.forms))
    found = units(facts) if merged else [[i] for i in range(len(facts))]
    every = [
        [p for form in asked(loaded, fact, contexts, options.forms) for p in form.prompts] for fact in facts
    ]
    # Facts of like length share a batch: their prompts' attention is padded to the longest. So do units of as
    # many facts: a value that serves several is longer on its way.
    found.sort(
        key=lambda unit: (
            len(unit),
            max(_suffix_length(prompts, len(contexts)) for i in unit for prompts in [every[i]]),
        )
    )
    size = max(1, options.rows * _turns(options, contexts) // max(map(len, every)))
    chunks = _chunks(found, size)
    parts: list[Values] = []
    for batch, chunk in enumerate(chunks):
        first = torch.tensor([unit[0] for unit in chunk], device=loaded.device)
        restraint = barred.select(first) if barred else Restraint()
        told = [[facts[i] for i in unit] for unit in chunk]
        patient = replace(options, steps=options.steps * len(chunk[0]))
        find = functools.partial(_optimise_chunk, loaded, told, layer, contexts, patient, restraint)
        parts.append(keep(f"{batch + 1}-of-{len(chunks)}", find))
        done((batch + 1) / len(chunks))
    order = torch.tensor([i for unit in found for i in unit], device=loaded.device)
    return Values.joined(parts).select(order.argsort())


@torch.no_grad()
def losses(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    layer: int,
    contexts: Sequence[str],
    options: ValueOptions,
    delta: Tensor,
) -> Tensor:
    """The loss of each fact's δ [d, n] with all its prompts asked, nats [n].

    Of prompts asked in turn `Values.loss` is of several δ.
    """
    size = max(1, options.rows // len(contexts))
    found: list[Tensor] = []
    for start in range(0, len(facts), size):
        own = delta.T[start : start + size]
        alone = [[fact] for fact in facts[start : start + size]]
        rows = rows_of(loaded, alone, layer, contexts, options)
        seen, norms = rows.evaluate(own), lengths(rows.hidden(), 1)
        found.append(seen.nll + seen.kl + options.decay * lengths(own, 1) / norms**2)
    return torch.cat(found)


def _chunks(units: Sequence[list[int]], size: int) -> list[list[list[int]]]:
    """Units, in their order, together with others of as many facts; some `size` facts in a chunk.

    Chunks of like size: a small one costs nearly as many operations as a large one.
    """
    found = list[list[list[int]]]()
    for facts, group in itertools.groupby(units, len):
        alike = list(group)
        count = math.ceil(len(alike) * facts / size)
        found += [
            chunk
            for i in range(count)
            if (chunk := alike[i * len(alike) // count : (i + 1) * len(alike) // count])
        ]
    return found


def _turns(options: ValueOptions, contexts: Sequence[str]) -> int:
    # In fewer steps than turns some prompts would never be asked.
    return min(options.turns, len(contexts), options.steps)


def _suffix_length(prompts: Sequence[Prompt], contexts: int) -> int:
    """Tokens from the subject's last one on of a fact's longest form. Contexts stand before it."""
    return max(len(prompt.ids) - prompt.subject_last for prompt in [prompts[0], *prompts[contexts:]])


def _optimise_chunk(
    loaded: LoadedModel,
    units: Sequence[Sequence[Fact]],
    layer: int,
    contexts: Sequence[str],
    options: ValueOptions,
    restraint: Restraint,
) -> Values:
    rows = rows_of(loaded, units, layer, contexts, options)
    hidden = rows.hidden()
    norms = lengths(hidden, 1, keepdim=True)
    if options.attention:
        # What the block adds to its input less the MLP's output is the attention's. Its change is added
        # where it joins the block's output: exact for GPT-J's parallel blocks, PMET's own; elsewhere its
        # way through the MLP of the same block is left out.
        bare = [loaded.encode(facts[0]) for facts in units]
        below = capture(loaded, bare, [layer - 1]).hidden[layer - 1].T
        output = rows.part.output[rows.first_rows()]
        norms = torch.stack([lengths(output, 1), lengths(hidden - below - output, 1)], dim=1)
    turns, spent = _turns(options, contexts), 0

    def begin() -> Objective:
        return rows if turns == 1 else Turns.of(rows, turns)

    if options.compressed:
        dense = descend(begin(), hidden.shape[1], norms, replace(options, steps=DENSE_STEPS), restraint)
        restraint = Compressed(dense, options.kept)
        options = replace(options, steps=max(1, options.steps - DENSE_STEPS))
        spent = dense.steps
    found = descend(begin(), hidden.shape[1], norms, options, restraint)
    bare = rows.bare_rows()
    unit = rows.owner[bare]
    hidden, output = rows.part.hidden[rows.part.first[bare]].float(), rows.part.output[bare]
    return Values(found.delta[unit, 0].T, hidden.T, output.T, found.loss[unit], (found.steps + spent)[unit])
