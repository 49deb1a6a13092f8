"""States of corrections, versions and operations, and the changes that are allowed. Pure."""

from enum import StrEnum

from daemon.core.errors import TransitionError


class State(StrEnum):
    """Where a correction stands."""

    RECEIVED = "received"  # journaled; waits for the time from which it holds
    HELD = "held"  # waits for a review, before it may be planned
    VALIDATED = "validated"  # pending: waits for a batch
    STAGED = "staged"  # part of a planned version
    VERIFIED = "verified"  # its version was accepted and is durable on disk
    PUBLISHED = "published"  # the replicas were told; answers not read back yet
    LIVE = "live"  # served and read back
    REJECTED = "rejected"  # with a reason; the model holds nothing of it
    ALREADY_KNOWN = "already_known"  # a live fact says the same
    SUPERSEDED = "superseded"  # a newer correction of the same subject and prompt took its place
    RETRACTED = "retracted"  # removed on request
    ROLLED_BACK = "rolled_back"  # its version was rolled back
    DEAD = "dead"  # gave up after too many attempts; an operator retries or drops it


class VersionState(StrEnum):
    """Where a version stands."""

    PLANNED = "planned"  # batch journaled, before any work; redone after a crash
    WRITTEN = "written"  # accepted, files fsynced; rolled forward after a crash
    CANARY = "canary"  # on one replica, which is watched; the trial begins again after a crash
    PUBLISHED = "published"  # on every replica, not read back yet; rolled forward after a crash
    LIVE = "live"  # the one that is served
    PAST = "past"  # was live, a newer one grew from it; can be rolled back to
    DISCARDED = "discarded"  # never live: rejected, inconclusive, or could not be published
    ROLLED_BACK = "rolled_back"  # a rollback went back past it; if it was live, a rollback can return to it


class OperationState(StrEnum):
    """Where an operation stands."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


class OperationKind(StrEnum):
    """What an operator, an alert or the guard can ask of the applier."""

    RETRACT = "retract"
    ROLLBACK = "rollback"
    COMPACT = "compact"  # all live facts written anew from the base weights
    CONSOLIDATE = "consolidate"  # the same, and trained on from there
    PAUSE = "pause"
    RESUME = "resume"
    EXPIRE = "expire"  # live facts whose time is over leave together; the clock asks for it
    RETRY = "retry"  # a dead correction waits again; done by the ledger at once
    DROP = "drop"  # a dead correction is given up for good; done by the ledger at once


#: Write all live facts anew: prepared in the background, one after the other.
REWRITING = frozenset({OperationKind.COMPACT, OperationKind.CONSOLIDATE})


class ReasonCode(StrEnum):
    """Reasons that programs count. The sentence for people stands beside the code; most have no code."""

    SKIPPED_OUTLIER = "skipped_outlier"  # not written: its value is too far from the anchor
    PUBLISH_FAILED = "publish_failed"  # a version that the replicas could not be brought to
    CANARY_FAILED = "canary_failed"  # the same, and only the canary was told
    EXPIRED = "expired"  # a correction whose time (valid_until) was over


PENDING = (State.RECEIVED, State.VALIDATED)
IN_FLIGHT = (State.STAGED, State.VERIFIED, State.PUBLISHED)
#: A correction leaves these states only on request, or by a rollback.
FINAL = frozenset(State) - {*PENDING, *IN_FLIGHT, State.HELD}

_S = State
#: From a later state back to VALIDATED: the correction is tried again. From an exit to LIVE: a rollback went
#: back to a version in which the fact was live.
TRANSITIONS: dict[State, frozenset[State]] = {
    _S.RECEIVED: frozenset({_S.VALIDATED, _S.HELD, _S.REJECTED, _S.RETRACTED, _S.DEAD}),
    _S.HELD: frozenset({_S.RECEIVED, _S.REJECTED}),
    _S.VALIDATED: frozenset(
        {_S.STAGED, _S.HELD, _S.REJECTED, _S.ALREADY_KNOWN, _S.SUPERSEDED, _S.RETRACTED, _S.DEAD}
    ),
    _S.STAGED: frozenset({_S.VERIFIED, _S.VALIDATED, _S.REJECTED, _S.DEAD}),
    _S.VERIFIED: frozenset({_S.PUBLISHED, _S.VALIDATED, _S.ROLLED_BACK, _S.DEAD}),
    _S.PUBLISHED: frozenset({_S.LIVE, _S.VALIDATED, _S.ROLLED_BACK, _S.DEAD}),
    _S.LIVE: frozenset({_S.SUPERSEDED, _S.RETRACTED, _S.ROLLED_BACK}),
    _S.REJECTED: frozenset(),
    _S.ALREADY_KNOWN: frozenset(),
    _S.SUPERSEDED: frozenset({_S.LIVE}),
    _S.RETRACTED: frozenset({_S.LIVE}),
    _S.ROLLED_BACK: frozenset({_S.LIVE}),
    _S.DEAD: frozenset({_S.VALIDATED, _S.REJECTED}),
}

_V = VersionState
VERSION_TRANSITIONS: dict[VersionState, frozenset[VersionState]] = {
    _V.PLANNED: frozenset({_V.WRITTEN, _V.DISCARDED}),
    _V.WRITTEN: frozenset({_V.CANARY, _V.PUBLISHED, _V.DISCARDED}),
    _V.CANARY: frozenset({_V.PUBLISHED, _V.ROLLED_BACK, _V.DISCARDED}),
    _V.PUBLISHED: frozenset({_V.LIVE, _V.ROLLED_BACK, _V.DISCARDED}),
    _V.LIVE: frozenset({_V.PAST, _V.ROLLED_BACK}),
    _V.PAST: frozenset({_V.LIVE, _V.ROLLED_BACK}),
    _V.DISCARDED: frozenset(),
    _V.ROLLED_BACK: frozenset({_V.LIVE, _V.PAST}),
}


def check_transition(what: str, old: State | VersionState, new: State | VersionState) -> None:
    """Raises TransitionError unless `old` → `new` is in the table. `what` names the row for the message."""
    after = TRANSITIONS[old] if isinstance(old, State) else VERSION_TRANSITIONS[old]
    if new not in after:
        allowed = ", ".join(sorted(after)) or "nothing: it is final"
        raise TransitionError(f"{what} is {old} and cannot become {new}; from {old} it may become {allowed}")
