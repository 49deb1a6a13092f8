"""What the ledger tells the gate of earlier corrections (`daemon.core.trust.Past`)."""

from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from daemon.core.lifecycle import State
from daemon.core.text import spellings
from daemon.core.trust import Told
from daemon.ledger.reading import chunks
from daemon.ledger.status import corrections_by_state
from daemon.ledger.tables import corrections

_TOLD = [corrections.c[name] for name in ("subject", "prompt", "target", "source", "state", "received_at")]


class LedgerPast:
    """Asks on the connection of the transaction that records the posts.

    Args:
        subjects: of all posts of the transaction: they are asked for together, since a bulk post is slowed
            down by one question a post.
    """

    def __init__(self, c: Connection, subjects: Sequence[str]) -> None:
        self._c = c
        self._about: dict[str, list[Told]] = {}
        for chunk in chunks(spellings(*set(subjects))):
            query = select(*_TOLD).where(corrections.c.subject.in_(chunk)).order_by(corrections.c.seq)
            for row in c.execute(query).mappings():
                told = Told(
                    row["prompt"], row["target"], row["source"], State(row["state"]), row["received_at"]
                )
                self._about.setdefault(row["subject"], []).append(told)

    def about(self, subject: str) -> Sequence[Told]:
        found = [one for spelling in spellings(subject) for one in self._about.get(spelling, ())]
        return sorted(found, key=lambda one: one.received_at)

    def posted_since(self, source: str | None, at: float) -> int:
        mine = corrections.c.source.is_(None) if source is None else corrections.c.source == source
        recent = select(func.count()).select_from(corrections).where(mine, corrections.c.received_at >= at)
        return self._c.scalar(recent) or 0

    def last(self) -> int:
        return self._c.scalar(select(func.max(corrections.c.seq))) or 0

    def live(self, most: int) -> Sequence[tuple[str, str]]:
        query = select(corrections.c.prompt, corrections.c.target).where(corrections.c.state == State.LIVE)
        newest = query.order_by(corrections.c.seq.desc()).limit(most)
        return [(row[0], row[1]) for row in self._c.execute(newest)]

    def held(self) -> int:
        return corrections_by_state(self._c)[State.HELD]
