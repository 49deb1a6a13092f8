"""How a value is optimised: what a caller may choose."""

from dataclasses import dataclass, fields, replace
from typing import Literal

from editing.forms import PROMPT_ONLY, Kind

#: When a fact is done; each is a condition of `editing.values.descent.FINISHED`.
Finish = Literal["loss", "argmax", "preserved", "probable"]
#: What must follow the target while a value is optimised: nothing; a full stop in text and the end of the
#: turn in chat; or the tokenizer's end in text and the end of the turn in chat.
Ends = Literal["open", "stop", "eos"]


@dataclass(frozen=True, repr=False)
class ValueOptions:
    """How δ is optimised. Defaults: MEMIT's for GPT-2 XL, the smallest model with published ones.

    Attributes:
        steps: evaluations of the loss at most (one update less).
        rate: Adam's learning rate.
        clamp: ‖δ‖ is held below `clamp` · ‖h₀‖.
        decay: weight of ‖δ‖ / ‖h₀‖².
        kl: weight of KL(now ‖ before) on the essence prompt.
        stop: a fact is done when its loss is below this (nats).
        finish: when a fact is done: "loss" (below `stop`), or the conditions of ENCORE ("argmax"), PMET
            ("preserved") and DeltaEdit ("probable").
        extra: updates still made after a fact is done.
        attention: whether a second change, beside the attention's output and not written, helps (PMET).
        compressed: whether δ moves few dimensions only, found in a first descent (EAC).
        kept: share of the dimensions that it then moves.
        unedited: whether a value is found on the unedited model, so that it follows from its fact alone
            (NSE's code), or on the model as it is (MEMIT).
        turns: into how many groups the prompts of a fact are divided, of which an evaluation asks the next:
            the contexts evenly, the essence prompt with the last ones. What counts is then the mean of what
            the groups said when last asked; its gradient is that of the group just asked. 1: all at once.
        forms: the kinds of forms over which one value is found, each form weighed the same.
        ends: what must follow the target in each form.
        lead: nats by which a target token must be more probable than any other one to count as the most
            probable. Who serves the model rounds otherwise, and a near tie may fall the other way there.
        chat_steps: steps besides `steps` where facts are asked in chat: a value carries more wordings there.
        chat_ends: `ends` where facts are asked in chat.
        rows: how many prompts an evaluation runs at once; bounds memory, does not change results.
    """

    steps: int = 20
    rate: float = 0.5
    clamp: float = 0.75
    decay: float = 0.5
    kl: float = 0.0625
    stop: float = 0.05
    finish: Finish = "loss"
    extra: int = 0
    attention: bool = False
    compressed: bool = False
    kept: float = 0.05
    unedited: bool = False
    turns: int = 1
    rows: int = 96
    forms: tuple[Kind, ...] = PROMPT_ONLY
    ends: Ends = "open"
    lead: float = 0.0
    chat_steps: int = 0
    chat_ends: Ends = "open"

    def asked_in(self, chats: bool) -> "ValueOptions":
        """The options for facts that are asked in chat too, or not."""
        if not chats:
            return self
        ends = self.chat_ends if self.ends == "open" else self.ends
        return replace(self, steps=self.steps + self.chat_steps, chat_steps=0, ends=ends)

    def __repr__(self) -> str:
        """Names values and anchors on disk, so options that came later show only where they are used."""
        changed = [f.name for f in fields(self) if f.name in _LATER and getattr(self, f.name) != f.default]
        later = changed if self.forms != PROMPT_ONLY else [n for n in changed if not n.startswith("chat_")]
        told = [f.name for f in fields(self) if f.name not in _LATER] + later
        return f"ValueOptions({', '.join(f'{name}={getattr(self, name)!r}' for name in told)})"


_LATER = ("forms", "ends", "lead", "chat_steps", "chat_ends")
