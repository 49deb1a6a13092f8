"""Does a replica compute what the staged model computes? Products and log-probabilities tell; hashes cannot.

A hash says which tensors a replica was given, not what its kernels multiply with: the processor's layout is
packed anew at each swap, and a fused or quantised layer has no tensor to hash. So each replica is asked two
things. Its edited matrices, as they are held, multiply vectors that a seed chooses. And it tells the
log-probability of each token of live facts and of unrelated text.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from daemon.core.errors import ProofError
from daemon.ledger.rows import CorrectionRow
from daemon.publish.proving.challenge import Challenge, Multiplied, heard, multiplied
from daemon.publish.proving.noise import MOST, Noise, NoiseRecord, allowed, within
from daemon.publish.proving.passages import BATCH_FACTS, Edited, Passage, Score, chosen
from daemon.publish.serving import Multiplies, Scores, Serves
from editing.memory.products import SEEDS


class Proof:
    """Compares replicas with the model in memory.

    `challenge` asks the model. The other methods ask replicas, and several threads may call them.

    Args:
        score: of the model in memory as it is when called.
        probes: (prompt, continuation) pairs that no correction is about.
        edited: the editor of that model; None: only the batch and the probes are asked, and no products.
        record: of the noise; None keeps it in memory only.
        draw: a number below its argument, as a seed for the products.

    Attributes:
        proven: name of each replica → the version that it was last proved to compute.
    """

    def __init__(
        self,
        score: Score,
        probes: Sequence[tuple[str, str]],
        edited: Edited | None = None,
        record: NoiseRecord | None = None,
        draw: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self.score, self.probes, self.edited, self.draw = score, tuple(probes), edited, draw
        self.record = record or NoiseRecord()
        self.proven: dict[str, str] = {}

    @property
    def noise(self) -> dict[str, Noise]:
        """Replica → the noise that was measured when it served the unedited model."""
        return self.record.noise

    def tolerance(self, replica: str) -> Noise:
        """How far this replica may be from the model in memory."""
        return allowed(self.noise.get(replica))

    def challenge(self, rows: Sequence[CorrectionRow] = ()) -> Challenge:
        """What the model in memory says of these corrections, of live facts and of the probes."""
        batch = [(row.text, row.target) for row in rows]
        edited = self.edited
        if edited is None:
            return Challenge(self._passages(batch[:BATCH_FACTS]), {}, self.draw(SEEDS))
        facts = chosen(edited.state, edited.tensor_names, batch)
        return Challenge(self._passages(facts), edited.weights(), self.draw(SEEDS))

    def _passages(self, facts: Sequence[tuple[str, str]]) -> list[Passage]:
        probes = [_unrelated(passage) for passage in self.score(self.probes)]
        return [*self.score(facts), *probes]

    def measure(self, replica: Serves, version: str, challenge: Challenge) -> None:
        """Measures the noise of a replica that serves the unedited model, unless that was done before.

        Raises:
            ProofError: the two differ by more than rounding can explain.
            ServingError: the replica does not answer.
        """
        if not isinstance(replica, Scores) or replica.name in self.noise:
            return
        products = self._multiply(replica, version, challenge)
        self._raise(replica.name, products.faults(None))
        found = heard(replica, [passage for passage in challenge.passages if passage.probe]).noise
        if not within(found, MOST):
            most = f"{MOST.passage} and {MOST.token}"
            raise ProofError(
                f"{replica.name} differs from the unedited model by {found.passage:.2f} nats on the probes, "
                f"one token by {found.token:.2f}, more than rounding explains ({most}): "
                "it serves another checkpoint or damaged weights; restart it"
            )
        self.record.keep(replica.name, replace(found, product=products.worst))

    def check(self, replica: Serves, version: str, challenge: Challenge) -> None:
        """Raises ProofError unless the replica multiplies and says the same."""
        noise = self.noise.get(replica.name)
        faults = self._multiply(replica, version, challenge).faults(noise)
        if isinstance(replica, Scores):
            faults += heard(replica, challenge.passages).faults(noise)
        self._raise(replica.name, faults)
        self.proven[replica.name] = version

    def forget(self, replica: str) -> None:
        """The replica was told a version, or may have started anew: what was proved of it is past."""
        self.proven.pop(replica, None)

    def _multiply(self, replica: Serves, version: str, challenge: Challenge) -> Multiplied:
        if not challenge.weights or not isinstance(replica, Multiplies):
            return Multiplied(torch.float32, {}, {})
        return multiplied(replica, version, challenge)

    def _raise(self, name: str, faults: Sequence[str]) -> None:
        if faults:
            raise ProofError(f"{name} does not compute what was staged: {'; '.join(faults)}; see its log")


def _unrelated(passage: Passage) -> Passage:
    return Passage(passage.ids, passage.first, passage.log_probs, probe=True)
