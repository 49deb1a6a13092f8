"""Intake's half of the ledger: corrections are submitted or refused, operations are asked for."""

import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, insert, update

from daemon.core.errors import CorrectionError, Problem, TransitionError, UnknownIdError
from daemon.core.lifecycle import OperationKind, State, VersionState
from daemon.core.messages import Correction, shortened
from daemon.core.publication import BASE_VERSION
from daemon.core.times import seconds_of
from daemon.core.trust import Gate, Judge, Judgement, accept
from daemon.ledger.chain import ledger_id
from daemon.ledger.database import Database
from daemon.ledger.reading import find_correction, find_version, rows_of
from daemon.ledger.record.past import LedgerPast
from daemon.ledger.record.repetition import Known
from daemon.ledger.record.transitions import Transitions, entry
from daemon.ledger.tables import aliases, corrections

#: (kind, target, actor, why) → number of the operation
Ask = Callable[[OperationKind, str | None, str, str | None], int]


class Intake:
    """What producers and operators may write. It brings no version further."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._transitions = Transitions(database.clock)
        #: decides what may be planned; None accepts everything. Set once, by whoever opens the ledger to
        #: take posts
        self.gate: Gate | None = None

    # -- corrections ----------------------------------------------------------------------------

    def submit(self, correction: Correction, id: str | None = None, *, actor: str = "submit") -> str:
        """Records a correction as pending and returns its id.

        A repetition (same id or same key, equal content) returns the id of the first post.

        Raises:
            ConflictError: the id or the key is known with other content.
            CorrectionError: its source may not post it.
        """
        return self.submit_many([(id, correction)], actor=actor)[0]

    def submit_many(
        self, posts: Sequence[tuple[str | None, Correction]], *, actor: str = "submit"
    ) -> list[str]:
        """Records all or none; returns one id a post."""
        # An id that was made up just now needs no look-up.
        known_ids = [ledger_id(id) for id, _ in posts if id]
        rows: list[dict[str, Any]] = []
        repeats: list[dict[str, str]] = []
        firsts: list[str] = []
        with self._database.writing() as c:
            known = Known(c, known_ids, [post.key for _, post in posts if post.key is not None])
            now = self._database.clock()
            _check_parents(c, {post.parent for _, post in posts if post.parent is not None})
            judge = self._judging(c, posts, actor, now)
            for given, correction in posts:
                id = ledger_id(given) if given else str(uuid.uuid4())
                content_hash = correction.content_hash
                first, fresh = known.first(id, correction, content_hash)
                if first is None:
                    rows.append(_row(id, judge(correction), content_hash, now))
                elif fresh:
                    repeats.append({"id": id, "correction": first})
                known.add(id, correction.key, first or id, content_hash)
                firsts.append(first or id)
            if rows:
                c.execute(insert(corrections), rows)
                arrived = [each for row in rows for each in _arrival(row, actor)]
                self._transitions.note_all(c, arrived)
            if repeats:
                c.execute(insert(aliases), repeats)
        return firsts

    def _judging(
        self, c: Connection, posts: Sequence[tuple[str | None, Correction]], actor: str, now: float
    ) -> Judge:
        if self.gate is None:
            return accept
        return self.gate.judging(LedgerPast(c, [post.subject for _, post in posts]), actor, now)

    def refuse(self, id: str, reason: str, *, actor: str = "submit") -> None:
        """Records that a message with this id was refused; does nothing when the id is known."""
        id = ledger_id(id)
        with self._database.writing() as c:
            try:
                find_correction(c, id)
            except UnknownIdError:
                refused = _blank() | {"id": id, "state": State.REJECTED, "reason": reason}
                c.execute(insert(corrections).values(**refused, received_at=self._database.clock()))
                told = entry("correction", id, State.RECEIVED, State.REJECTED, actor, reason)
                arrived = entry("correction", id, None, State.RECEIVED, actor)
                self._transitions.note_all(c, [arrived, told])

    # -- operations -----------------------------------------------------------------------------

    def request(
        self, kind: OperationKind | str, target: str | None = None, *, actor: str, why: str | None = None
    ) -> int:
        """Asks the applier for an operation and returns its number; `Questions.operation` tells the result.

        Args:
            kind: retract, retry, drop (target: correction id), rollback (target: version), compact, pause,
                resume.
            actor: who asks: ``operator`` or ``alert``, or ``operator:<name>`` and so on. What the guard asks
                for is written by the journal.

        Raises:
            UnknownIdError: there is no such correction or version.
            TransitionError: the version was never live, or the correction to retry or drop is not dead.
        """
        kind = OperationKind(kind)
        if kind in (OperationKind.RETRY, OperationKind.DROP):
            return self.decide_dead(kind, [target or ""], actor=actor, why=why)[0]
        with self.asking() as ask:
            return ask(kind, target, actor, why)

    @contextmanager
    def asking(self) -> Generator[Ask]:
        """Holds the write lock: nobody else asks for anything between the look and the request."""
        with self._database.writing() as c:
            yield lambda kind, target, actor, why: self._ask(c, kind, target, actor, why)

    def _ask(
        self, c: Connection, kind: OperationKind, target: str | None, actor: str, why: str | None
    ) -> int:
        if kind is OperationKind.RETRACT:
            target = find_correction(c, target or "").id
        elif kind is OperationKind.ROLLBACK:
            _check_rollback_target(c, target or "")
        return self._transitions.request(c, kind, target, actor, why)

    def decide_dead(
        self, kind: OperationKind | str, ids: Sequence[str], *, actor: str, why: str | None = None
    ) -> list[int]:
        """Retries or drops dead corrections, all or none, at once: the applier has no part in it.

        A retried one waits again and is tried alone, with its attempts counted anew. A dropped one ends
        rejected. Each is an operation of its own.

        Args:
            kind: retry or drop.

        Returns:
            The numbers of the operations.

        Raises:
            UnknownIdError: there is no such correction.
            TransitionError: one of them is not dead.
        """
        kind = OperationKind(kind)
        with self._database.writing() as c:
            return [self._decide_dead(c, kind, id, actor, why) for id in ids]

    def _decide_dead(self, c: Connection, kind: OperationKind, id: str, actor: str, why: str | None) -> int:
        row = find_correction(c, id)
        if row.state is not State.DEAD:
            raise TransitionError(f"correction {row.id} is {row.state}; {kind} is for dead ones")
        if kind is OperationKind.RETRY:
            state, done = State.VALIDATED, "waits again"
            changes: dict[str, Any] = {"attempts": 0, "batch_limit": 1, "not_before": 0.0}
        else:
            state, done, changes = State.REJECTED, f"dropped; it had died: {row.reason}", {}
        number = self._transitions.request(c, kind, row.id, actor, why, done)
        reason = f"{done} (operation {number}" + (f": {why})" if why else ")")
        self._transitions.advance(c, [row.id], state, actor, reason, version=None, **changes)
        return number


def _row(id: str, judged: Judgement, content_hash: str, now: float) -> dict[str, Any]:
    correction, follows = judged.correction, judged.consequences()
    times = {"valid_from": _seconds(correction.valid_from), "valid_until": _seconds(correction.valid_until)}
    ahead = (times["valid_from"] or now) > now
    row = {
        "id": id,
        "content_hash": content_hash,
        "state": State.RECEIVED if ahead else State.VALIDATED,
        "reason": f"waits until {correction.valid_from}" if ahead else None,
        "attempts": 0,
        "not_before": 0.0,
        "received_at": now,
        "score": judged.score,
        "findings": [one.to_json() for one in judged.findings] or None,
        "consequences": follows,
        "following": "due" if follows else None,
        **times,
    }
    held = {"state": State.HELD, "reason": judged.held} if judged.held is not None else {}
    return correction.model_dump() | row | held


def _seconds(moment: str | None) -> float | None:
    return None if moment is None else seconds_of(moment)


def _blank() -> dict[str, Any]:
    """What stands in the row of a message that could not be read."""
    blank: dict[str, Any] = dict.fromkeys(("subject", "prompt", "target", "content_hash"), "")
    lists: dict[str, Any] = {"paraphrases": [], "neighbours": [], "questions": []}
    return blank | lists | {"priority": 0, "attempts": 0, "not_before": 0.0}


def _arrival(row: Mapping[str, Any], actor: str) -> Iterator[dict[str, Any]]:
    waits = row["state"] is State.RECEIVED
    yield entry("correction", row["id"], None, State.RECEIVED, actor, row["reason"] if waits else None)
    if not waits:
        yield entry("correction", row["id"], State.RECEIVED, row["state"], actor, row["reason"])


def _check_parents(c: Connection, parents: set[str]) -> None:
    """Raises CorrectionError for a parent that there is not; those that there are will be looked after."""
    known = rows_of(c, sorted(parents))
    problems = [
        Problem("parent", shortened(id), "no correction has this id; post the parent before its children")
        for id in sorted(parents - known.keys())
    ]
    if problems:
        raise CorrectionError(problems)
    for id, row in known.items():
        # "ended": its children were taken out with it, and this one shall be as well.
        if row.following in (None, "ended"):
            c.execute(update(corrections).where(corrections.c.id == id).values(following="done"))


def _check_rollback_target(c: Connection, target: str) -> None:
    version = find_version(c, target)
    served = (VersionState.LIVE, VersionState.PAST, VersionState.ROLLED_BACK)
    if version.state not in served or (version.live_at is None and target != BASE_VERSION):
        raise TransitionError(
            f"version {target} is {version.state} and was never live; `factd versions` lists those that were"
        )
