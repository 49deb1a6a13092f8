"""What a model says to the probes, in as few forward passes as possible."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from monitoring.measuring.activations import Activations, Recording, recorded
from monitoring.measuring.probes import ProbeSet
from monitoring.measuring.scoring import Scorer, TargetScore, perplexity

#: Tokens of each text that are read. Perplexity is compared token by token with the base's on the same
#: text, so some 170 tokens in all settle a change of a few per cent.
TEXT_TOKENS = 24

#: Length of a free answer.
FREE_TOKENS = 8


@dataclass(frozen=True)
class Behaviour:
    """One reading of the probes.

    Attributes:
        scores: of each text.
        log_probs: of the token after each watched prompt, float32 [prompts, vocabulary].
        activations: over the tokens of all of them.
    """

    scores: tuple[TargetScore, ...]
    log_probs: Tensor
    activations: Activations

    @property
    def perplexity(self) -> float:
        return perplexity(self.scores)


def behaviour(scorer: Scorer, probes: ProbeSet, tensor_names: Sequence[str]) -> Behaviour:
    """Reads the probes: two forward passes of some 170 and 130 tokens with the shipped ones.

    The head runs on scored tokens only; the activations cost O(layers · n² d) flops beside it, n the
    `SUBSPACE_STATES` of a layer.
    """
    with recorded(scorer.model, tensor_names) as recording:
        return read_probes(scorer, probes, recording)


def read_probes(scorer: Scorer, probes: ProbeSet, recording: Recording) -> Behaviour:
    """`behaviour` inside a recording that the caller has opened."""
    scores = scorer.score([scorer.encode_text(text, TEXT_TOKENS) for text in probes.texts])
    log_probs = scorer.next_log_probs(probes.watched)
    return Behaviour(tuple(scores), log_probs, recording.summary())


def free_answers_kept(base: Sequence[str], now: Sequence[str]) -> float:
    """Mean over free answers of the share of the base's words that each repeats before it departs."""
    kept = [_kept(before.split(), after.split()) for before, after in zip(base, now, strict=True)]
    return sum(kept) / len(kept)


def _kept(before: Sequence[str], after: Sequence[str]) -> float:
    if not before:
        return float(not after)
    same = 0
    for one, other in zip(before, after, strict=False):
        if one != other:
            break
        same += 1
    return same / len(before)
