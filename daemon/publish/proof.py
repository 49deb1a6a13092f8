"""Does a replica compute what the staged model computes? Log-probabilities tell; hashes cannot.

A hash says which tensors a replica was given, not what its kernels multiply with: the processor's layout is
packed anew at each swap, and a fused or quantised layer has no tensor to hash.

Replica and model differ a little even when all is well: they round in other places, in another dtype, with
other kernels. This noise is measured on fixed probes, with both at the same proven version. Afterwards every
passage may differ by `MARGIN` times the noise. The mean over the tokens of a passage is compared, because
single improbable tokens are the noisiest.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from daemon.core.errors import ProofError
from daemon.ledger.rows import CorrectionRow
from daemon.publish.serving import Scores

#: (prompt, continuation) pairs → what the model in memory says of them
Score = Callable[[Sequence[tuple[str, str]]], "Sequence[Passage]"]

#: A batch's targets are improbable text for the model, sometimes a single token; the probes are not.
MARGIN = 4.0
#: Nats. Two float32 implementations agree so well on the probes that their noise alone would be too strict.
LEAST = 0.05
#: Nats. More noise than this is not rounding: the replica runs another model. So much is also allowed while
#: no noise was measured. A fact that was not written differs by several nats.
MOST = 0.75
#: Facts compared for a batch at most, so that the one request stays below a second.
FACTS = 16


@dataclass(frozen=True)
class Passage:
    """Tokens, and what the model in memory says of them.

    Attributes:
        ids: all tokens.
        first: index of the first one that is compared.
        log_prob: mean log-probability of the compared ones, nats.
    """

    ids: tuple[int, ...]
    first: int
    log_prob: float


class Proof:
    """Compares replicas with the model in memory.

    `passages` asks the model. The other methods ask replicas, and several threads may call them.

    Args:
        score: of the model in memory as it is when called.
        probes: (prompt, continuation) pairs that no correction is about.
    """

    def __init__(self, score: Score, probes: Sequence[tuple[str, str]]) -> None:
        self.score, self.probes = score, tuple(probes)
        self.noise: dict[str, float] = {}

    def tolerance(self, replica: str) -> float:
        """Nats that a passage may differ on this replica."""
        noise = self.noise.get(replica)
        return MOST if noise is None else min(MOST, max(LEAST, MARGIN * noise))

    def calibrate(self, replica: Scores, passages: Sequence[Passage]) -> None:
        """Measures the noise of a replica that serves what the model in memory is.

        Args:
            passages: the probes, as the model in memory says them.

        Raises:
            ProofError: the two differ by more than rounding can explain.
            ServingError: the replica does not answer.
        """
        noise = max(_differences(replica, passages), default=0.0)
        if not noise <= MOST:
            raise ProofError(
                f"{replica.name} differs from the model by {noise:.2f} nats on the probes, more than "
                f"rounding explains ({MOST}): it serves another checkpoint or damaged weights; restart it"
            )
        self.noise[replica.name] = noise

    def passages(self, rows: Sequence[CorrectionRow]) -> list[Passage]:
        """What the model in memory says of these corrections' targets and of the probes."""
        facts = [(row.text, row.target) for row in rows[:FACTS]]
        return list(self.score([*facts, *self.probes]))

    def check(self, replica: Scores, passages: Sequence[Passage]) -> None:
        """Raises ProofError unless the replica says the same of each passage."""
        found = _differences(replica, passages)
        worst, allowed = max(found, default=0.0), self.tolerance(replica.name)
        if not worst <= allowed:
            wrong = sum(not difference <= allowed for difference in found)
            raise ProofError(
                f"{replica.name} does not compute what was staged: {wrong} of {len(found)} passages differ, "
                f"the worst by {worst:.2f} nats ({allowed:.2f} allowed); see its log"
            )


def _differences(replica: Scores, passages: Sequence[Passage]) -> list[float]:
    """|mean log-probability there − here| of each passage; infinite where it is no number."""
    told = replica.log_probs([passage.ids for passage in passages])
    found: list[float] = []
    for passage, there in zip(passages, told, strict=True):
        compared = there[passage.first :]
        difference = abs(sum(compared) / len(compared) - passage.log_prob) if compared else 0.0
        found.append(difference if math.isfinite(difference) else math.inf)
    return found
