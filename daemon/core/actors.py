"""Who asks and acts. An actor is a kind, or a kind and a name behind a colon: `operator:ann`."""

from enum import StrEnum

#: Asks for what follows from the time alone: a fact goes live or leaves.
CLOCK = "clock"


class ActorKind(StrEnum):
    """The kinds that can ask for an operation; metrics and policies tell them apart."""

    OPERATOR = "operator"
    ALERT = "alert"
    GUARD = "guard"


def actor_kind(actor: str) -> ActorKind:
    """The kind of an actor. Whoever is not an alert and not the guard counts as an operator."""
    kind = actor.partition(":")[0]
    return next((known for known in ActorKind if known == kind), ActorKind.OPERATOR)
