"""The replicas under one fence: staged together, flipped together, or brought back together."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from daemon.core.asks import Ask
from daemon.core.errors import ProofError, PublishError, SlowError
from daemon.core.publication import BASE_VERSION
from daemon.ledger.rows import CorrectionRow
from daemon.publish.proof import Proof
from daemon.publish.serving import (
    Chats,
    PublishResult,
    Served,
    Serves,
    ServingError,
    timed_out,
)
from daemon.versions.manifests import Manifests

T = TypeVar("T")


class Publisher:
    """Acts on all replicas at once. Methods raise ServingError or PublishError.

    A replica that hangs or stops answering is taken out, and the others go on without it. If a healthy
    replica fails, the publication ends for all: clients reach the old version everywhere, or the new one
    everywhere. A replica that was taken out comes back with the next `synchronise`.

    Args:
        manifests: of the versions.
        proof: compares what replicas compute with the model in memory; None compares hashes only. So does
            it with a replica that neither scores nor multiplies.

    Attributes:
        out: name of each replica that was taken out → why.
        disproved: of those, the ones that do not compute what they say.
    """

    def __init__(
        self, replicas: Sequence[Serves], manifests: Manifests, fence: int, proof: Proof | None = None
    ) -> None:
        self.replicas, self.manifests, self.fence, self.proof = tuple(replicas), manifests, fence, proof
        self.out: dict[str, str] = {}
        self.disproved: dict[str, str] = {}

    @property
    def names(self) -> list[str]:
        """Names of the replicas that were not taken out."""
        return [replica.name for replica in self.present]

    @property
    def present(self) -> list[Serves]:
        """The replicas that were not taken out."""
        return [replica for replica in self.replicas if replica.name not in self.out]

    def find_present(self) -> None:
        """Takes out the replicas that do not answer; raises PublishError when none is left."""
        self._each(_look, lenient=True)

    def publish(
        self, version: str, staged: Callable[[], None] = lambda: None, *, but: str | None = None
    ) -> PublishResult:
        """Stages on all replicas before any is flipped, so that a damaged version harms none.

        Args:
            staged: called between the two.
            but: name of a replica that serves the version already and is left alone.

        Returns:
            Of each time, the longest that a replica tells.
        """
        self._each(lambda replica: replica.stage(version, self.fence), but=but)
        staged()
        flipped = self._each(lambda replica: self._tell(replica, version), but=but)
        names = ("seconds", "pause_seconds", "swap_seconds", "drain_seconds")
        longest = {name: max((getattr(one, name) for one in flipped), default=0.0) for name in names}
        return PublishResult(version, **longest)

    def confirm(self, version: str) -> None:
        """Raises PublishError unless every replica serves the version with the manifest's hashes."""
        wanted = self.manifests.weight_sha256(version)
        self._each(lambda replica: _confirm(replica, version, wanted))

    def prove(self, version: str, rows: Sequence[CorrectionRow] = ()) -> None:
        """Raises ProofError unless every replica computes what the model in memory does at this version."""
        proof = self.proof
        if proof is not None and self.present:
            challenge = proof.challenge(rows)
            self._each(lambda replica: proof.check(replica, version, challenge))

    def synchronise(self, version: str) -> list[str]:
        """Brings every replica to the version, which the model in memory must be at.

        Whatever was told a version since it was proved last is proved: after a restart, and after the old
        version was brought back. A replica that cannot be brought there is taken out, healthy or not, and the
        others go on.

        Returns:
            Names of the replicas that did not serve it before.
        """
        wanted = self.manifests.weight_sha256(version)

        def bring(replica: Serves) -> str | None:
            behind = not serves(replica.served(), version, wanted)
            if behind:
                # A version is absolute: one publication, however far behind the replica is.
                self._tell(replica, version)
                _confirm(replica, version, wanted)
            return replica.name if behind else None

        behind = [name for name in self._each(bring, lenient=True) if name is not None]
        self._prove_those_due(version, behind)
        return behind

    def _prove_those_due(self, version: str, told: Sequence[str]) -> None:
        """Proves each replica unless this version was proved of it.

        One that computes something else is told the version once more, unless that was done now.
        """
        proof = self.proof
        if proof is None or all(proof.proven.get(name) == version for name in self.names):
            return
        challenge, wanted = proof.challenge(), self.manifests.weight_sha256(version)

        def check(replica: Serves) -> None:
            if proof.proven.get(replica.name) == version:
                return
            if version == BASE_VERSION:
                proof.measure(replica, version, challenge)
            try:
                proof.check(replica, version, challenge)
            except ProofError:
                if replica.name in told:
                    raise
                self._tell(replica, version)
                _confirm(replica, version, wanted)
                proof.check(replica, version, challenge)

        self._each(check, lenient=True)

    def push_back(self, version: str) -> None:
        """Brings the version back; takes out the replicas where that fails."""
        self._each(lambda replica: self._tell(replica, version), lenient=True, empty=True)

    def prove_back(self, version: str) -> dict[str, str]:
        """Proves a version that was brought back, once the model in memory is there too.

        Returns:
            Name of each replica that was taken out, because it does not compute it → why.
        """
        before = set(self.out)
        proof = self.proof
        if proof is not None and self.present:
            challenge = proof.challenge()
            self._each(lambda replica: proof.check(replica, version, challenge), lenient=True, empty=True)
        return {name: why for name, why in self.out.items() if name not in before}

    def _tell(self, replica: Serves, version: str) -> PublishResult:
        """Has a replica serve a version. What was proved of it before is past, also if that fails."""
        if self.proof is not None:
            self.proof.forget(replica.name)
        return replica.publish(version, self.fence)

    def answers(self, asks: Sequence[Ask]) -> dict[Ask, str]:
        """What one replica says; empty without replicas. One that cannot chat is not asked in chat."""
        for replica in self.present:
            bare, chats = ([ask for ask in asks if ask.chat == chat] for chat in (False, True))
            # At once: people wait for both.
            with ThreadPoolExecutor(1) as pool:
                messages = [ask.text for ask in chats]
                chatted = pool.submit(replica.chat, messages) if isinstance(replica, Chats) else None
                told = dict(zip(bare, replica.complete([ask.text for ask in bare]), strict=True))
                return told | dict(zip(chats, chatted.result(), strict=True)) if chatted else told
        return {}

    def _each(
        self,
        act: Callable[[Serves], T],
        *,
        but: str | None = None,
        lenient: bool = False,
        empty: bool = False,
    ) -> list[T]:
        """Acts on all replicas at once and returns the results of those that did not fail.

        Args:
            but: name of a replica that is left alone.
            lenient: a healthy replica that fails is taken out too, instead of raising.
            empty: it is no error when no replica is left.

        Raises:
            ServingError, PublishError: of the first healthy replica that failed; or none is left
                (SlowError, when that is because one took too long).
        """
        present = [replica for replica in self.present if replica.name != but]
        if not present and not self.replicas:
            return []
        with ThreadPoolExecutor(max(1, len(present))) as pool:
            running = [pool.submit(act, replica) for replica in present]
        results: list[T] = []
        slow = False
        for replica, done in zip(present, running, strict=True):
            error = done.exception()
            if error is None:
                results.append(done.result())
            elif not isinstance(error, ServingError | PublishError):
                raise error
            # vLLM's health check still answers while its engine or a disk hangs: it cannot clear such a one.
            elif lenient or timed_out(error) or not replica.healthy():
                self.out[replica.name] = str(error)
                if isinstance(error, ProofError):
                    self.disproved[replica.name] = str(error)
                slow = slow or timed_out(error)
            else:
                raise error
        if not self.present and not empty:
            kind = SlowError if slow else PublishError
            raise kind("no replica can be used: " + "; ".join(self.out.values()))
        return results


def _look(replica: Serves) -> None:
    # The health check has the shortest deadline: a replica that hangs must not delay each run.
    if not replica.healthy():
        raise PublishError(f"{replica.name} does not answer its health check; is vLLM running?")


def serves(served: Served, version: str, wanted: Mapping[str, str]) -> bool:
    """Whether a replica serves the version with these hashes.

    "default" is no version, not even the base: the replica has started anew, and nobody told it a version.
    """
    return served.version == version and all(served.sha256.get(n) == sha for n, sha in wanted.items())


def _confirm(replica: Serves, version: str, wanted: Mapping[str, str]) -> None:
    served = replica.served()
    if not serves(served, version, wanted):
        raise PublishError(
            f"{replica.name} should serve {version} but says {served.version} "
            f"(hashes {'differ' if served.version == version else 'not compared'}); see its log"
        )
