"""What is served now, asked of the replicas, beside what the ledger says is live. No torch."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from daemon.core.publication import BASE_VERSION, UNPUBLISHED
from daemon.ledger.rows import Sign
from daemon.publish.serving import Reports, ServingError

T = TypeVar("T")
#: in_sync: it serves the live version; publishing: a version on its way to the replicas; behind: another
#: one; disproved: it says the live version and computes something else; silent: it does not say.
ReplicaState = Literal["in_sync", "publishing", "behind", "disproved", "silent"]

#: What stands still without a worker of a kind, and how one is started.
WITHOUT = {
    "intake": ("what is posted to the queue waits in the broker", "factd worker --queue corrections"),
    "apply": (
        "nothing is written, and a replica that restarts stays on the unedited model",
        "factd worker --queue apply",
    ),
}
UNKNOWN = "what is served is not known: no replica is named; start `factd up`, or set FACTD_REPLICAS"


@dataclass(frozen=True)
class Told:
    """What a replica says that it serves.

    Attributes:
        version: a version, or "default"; None when it did not say.
        why: why it did not say.
    """

    name: str
    version: str | None
    why: str | None = None


@dataclass(frozen=True)
class Truth:
    """The ledger's word and the replicas'.

    Attributes:
        live: the version that the ledger says is live.
        begun: a version on its way to the replicas, if there is one: some may serve it already.
        disproved: replica whose last proof failed → why.
    """

    live: str
    told: tuple[Told, ...]
    workers: Mapping[str, Sign]
    begun: str | None = None
    disproved: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def mismatches(self) -> list[str]:
        """What an operator must know before anything else, a sentence each; the worst first."""
        wrong = [each for each in self.told if self.state(each) in ("behind", "disproved", "silent")]
        told = [_difference(self.live, each, self.disproved.get(each.name)) for each in wrong]
        return [*told, *absences(self.workers)]

    def state(self, told: Told) -> ReplicaState:
        """How what a replica serves compares with what it should."""
        if told.version is None:
            return "silent"
        # A server that has just started has the base weights, which is right where nothing is live.
        if told.version == self.live and told.name in self.disproved:
            return "disproved"
        if told.version == self.live or (told.version, self.live) == (UNPUBLISHED, BASE_VERSION):
            return "in_sync"
        return "publishing" if told.version == self.begun else "behind"

    def view(self) -> dict[str, Any]:
        """As JSON. `in_sync` is what the metric says: "default" is no version, not even the base."""
        replicas = [
            {
                "name": each.name,
                "serves": each.version,
                "state": self.state(each),
                "in_sync": each.version == self.live and each.name not in self.disproved,
            }
            for each in self.told
        ]
        return {"mismatches": self.mismatches, "replicas": replicas}


def absences(workers: Mapping[str, Sign]) -> list[str]:
    """A sentence for each kind of worker that gives no sign of life."""
    return [_absence(kind) for kind, sign in workers.items() if not sign.alive]


def ask(replicas: Sequence[Reports]) -> tuple[Told, ...]:
    """What each replica serves now. Several that hang take no longer than one."""
    return tuple(ask_all(_ask, replicas))


def ask_all(what: Callable[[Reports], T], replicas: Sequence[Reports]) -> list[T]:
    """Asks all at once."""
    with ThreadPoolExecutor(max(1, len(replicas))) as pool:
        return list(pool.map(what, replicas))


def _ask(replica: Reports) -> Told:
    # Ask `healthy` first: of a replica that hangs it finds that out in seconds, not minutes.
    if not replica.healthy():
        return Told(replica.name, None, "does not answer its health check")
    try:
        return Told(replica.name, replica.served().version)
    except ServingError as error:
        return Told(replica.name, None, f"does not say what it serves: {error}")


def _difference(live: str, told: Told, disproved: str | None) -> str:
    if told.version is None:
        return f"the ledger's live version is {live}, replica {told.name} {told.why}"
    if told.version == live:
        return f"replica {told.name} says that it serves {live} and computes something else: {disproved}"
    default = " (the unedited model: it was started anew, and nobody has told it a version)"
    said = f"{told.version}{default if told.version == UNPUBLISHED else ''}"
    return f"the ledger's live version is {live}, replica {told.name} serves {said}"


def _absence(kind: str) -> str:
    follows, command = WITHOUT[kind]
    return f"no {kind} worker gives a sign of life, so {follows}; start `{command}`, or see its log"
