"""The boundaries between steps of the applier; a process may die at any of them."""

from enum import StrEnum


class Stage(StrEnum):
    """Named after what has just been done."""

    LEASED = "leased"
    RECONCILED = "reconciled"
    PLANNED = "planned"  # batch journaled
    COUNTED = "counted"  # attempt counted
    EDITED = "edited"  # weights changed in this process
    COMPACTED = "compacted"  # weights changed in this process: all facts written anew from the base
    MEASURED = "measured"
    JUDGED = "judged"
    RESTORED = "restored"  # refused: weights of this process are the old ones again
    REFUSED = "refused"  # refusal in the ledger
    WRITING = "writing"  # files complete under the temporary name
    STORED = "stored"  # renamed; the ledger does not know yet
    WRITTEN = "written"  # ledger knows; from here on recovery rolls forward
    CANARY_FLIPPED = "canary_flipped"  # the canary serves it; its state in the ledger is still `written`
    SOAKING = "soaking"  # ledger knows; the canary is watched from here on
    SOAKED = "soaked"  # time over, proved again; no other replica was told
    STAGED = "staged"  # every replica has read and verified it
    FLIPPED = "flipped"  # every replica serves it
    PUBLISHED = "published"  # ledger knows
    CONFIRMED = "confirmed"  # read back from the replicas
    LIVE = "live"  # committed
    ROLLBACK_RESTORED = "rollback_restored"  # old weights in this process, hashes equal
    ROLLBACK_FLIPPED = "rollback_flipped"  # on every replica, read back
    ROLLED_BACK = "rolled_back"  # committed
    WATCHED = "watched"  # the live version measured and judged again; not in the ledger yet
    CONDEMNED = "condemned"  # the ledger has the verdict, and the rollback that the guard asks for
    FORESEEN = "foreseen"  # forecast of the live version in the ledger
    COMPACT_ASKED = "compact_asked"  # the guard's request to compact or consolidate is in the ledger
    PAUSED = "paused"  # the guard has paused the queue: the model takes no more
