"""The rules that speak against a correction. Each is a function of what is known; none asks a model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from daemon.core.lifecycle import State
from daemon.core.messages import Correction
from daemon.core.trust import Finding, Rule, Told
from daemon.intake.reading.kinds import UNLIKELY, fit
from daemon.intake.reading.lexicon import Relation
from daemon.intake.trust.learned import SURELY_SPREADS, USUAL_SPREADS, Targets
from daemon.intake.trust.policies import Policy, Rules
from daemon.intake.trust.relating import Relations
from daemon.intake.trust.texts import text_strength

DAY_SECONDS = 86400.0
#: Kinds that can be told from a text. Of others ("role", "thing", "job") nearly any words may be.
FIRM = frozenset(
    {"person", "place", "organisation", "club", "date", "time", "number", "money", "percentage"}
    | {"quantity", "language", "version"}
)
#: How surely a target is of the wrong kind: it cannot be of it; words speak for another kind.
CANNOT, UNLIKE = 1.0, 0.6
#: States in which a correction did not change its slot.
_UNDONE = frozenset({State.HELD, State.REJECTED, State.DEAD})


@dataclass(frozen=True)
class Case:
    """A correction with what is known beside it.

    Attributes:
        relation: of its prompt; None when the lexicon does not know it.
        targets: what the targets of live facts look like; None before any are.
        earlier: corrections of the same slot, oldest first. Prompts of one relation are one slot.
    """

    correction: Correction
    policy: Policy
    rules: Rules
    relation: Relation | None
    earlier: Sequence[Told]
    now: float
    targets: Targets | None = None


def group_of(prompt: str, relation: Relation | None) -> str:
    """The name of the prompts whose targets are of one kind, as far as the lexicon knows."""
    if relation is None:
        return prompt
    return relation.object if relation.object in FIRM else relation.name


def findings(case: Case) -> tuple[Finding, ...]:
    """What speaks against the correction, in the order of the rules."""
    return tuple(
        Finding(rule, strength, weight, why)
        for rule, strength, why in _found(case)
        if (weight := case.rules.weights.of(rule)) > 0 and strength > 0
    )


def same_slot(relations: Relations, correction: Correction, about: Sequence[Told]) -> list[Told]:
    """Those earlier corrections of the subject that ask for the same, also in other words.

    They do if the prompt is the same, or if both prompts have one relation of the lexicon, with one answer at
    a time. They also do if the earlier prompt has once had the answer that this correction says was so.
    """
    mine = relations.of(correction.prompt)
    single = mine is not None and mine.single
    same = {correction.prompt, *(one.prompt for one in about if one.target == correction.was)}
    return [one for one in about if one.prompt in same or (single and relations.of(one.prompt) is mine)]


def _found(case: Case) -> Iterator[tuple[Rule, float, str]]:
    if case.policy.policy == "review":
        yield Rule.UNTRUSTED, 1.0, "what this source posts is reviewed"
    yield (Rule.CONTRADICTION, *_contradiction(case))
    yield (Rule.FLIP_FLOP, *_flip_flop(case))
    yield (Rule.WRONG_KIND, *_wrong_kind(case))
    yield (Rule.TEXT, *text_strength(case.correction, case.relation.object if case.relation else None))


def _contradiction(case: Case) -> tuple[float, str]:
    for one in case.earlier:
        other = one.source != case.correction.source
        if one.state is State.LIVE and other and one.target != case.correction.target:
            return 1.0, f"{one.source or 'an unnamed source'} says {one.target!r}, which is live"
    return 0.0, ""


def _flip_flop(case: Case) -> tuple[float, str]:
    since = case.now - case.rules.flip_flop_days * DAY_SECONDS
    targets = [one.target for one in case.earlier if one.received_at >= since and one.state not in _UNDONE]
    told = [*targets, case.correction.target]
    changes = 1 + sum(before != after for before, after in pairwise(told))
    if changes < case.rules.flip_flop_changes or (targets and targets[-1] == case.correction.target):
        return 0.0, ""
    days = f"{case.rules.flip_flop_days:g} days"
    return 1.0, f"change {changes} of the same slot within {days}: {' → '.join(told[-4:])}"


def _wrong_kind(case: Case) -> tuple[float, str]:
    return max(_by_lexicon(case), _by_ledger(case), key=lambda one: one[0])


def _by_lexicon(case: Case) -> tuple[float, str]:
    relation, target = case.relation, case.correction.target
    if relation is None or relation.object not in FIRM:
        return 0.0, ""
    how = fit(relation.object, target)
    why = f"{relation.name} asks for a {relation.object}, and {target[:60]!r} "
    if how is None:
        return CANNOT, f"{why}cannot be one"
    if how <= UNLIKELY:
        return UNLIKE, f"{why}reads like another kind of thing"
    return 0.0, ""


def _by_ledger(case: Case) -> tuple[float, str]:
    if case.targets is None:
        return 0.0, ""
    group = group_of(case.correction.prompt, case.relation)
    spreads, other = case.targets.surprise(group, case.correction.target)
    why = f"among the live facts the target looks like an answer to {other!r}, not to {group!r}"
    beyond = (spreads - USUAL_SPREADS) / (SURELY_SPREADS - USUAL_SPREADS)
    return min(1.0, max(0.0, beyond)), why
