"""The rule that needs the model: a correction is held when the base model is sure of the old answer.

Intake has no model. So this rule runs in the applier, between planning and writing, on the model in memory:
it costs one short pass a correction and asks no server. It is asked only of slots without a live fact. Where
a live fact stands, the model is sure of it because factd has written it, and intake's rules know more.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from daemon.apply.planning import Plan
from daemon.core.trust import Finding, Rule
from daemon.intake.trust.policies import Rules
from daemon.ledger.journal import Journal
from daemon.ledger.record.reviews import hold
from daemon.ledger.record.transitions import Transitions
from daemon.ledger.rows import CorrectionRow
from monitoring.measuring.scoring import Scorer

#: Who holds a correction here, in the audit chain.
ACTOR = "applier"
#: For each (prompt, answer) the model's log-probability of the answer, in nats.
Believes = Callable[[Sequence[tuple[str, str]]], Sequence[float]]


def believes_of(scorer: Scorer) -> Believes:
    """Asks a model in memory."""

    def believes(pairs: Sequence[tuple[str, str]]) -> list[float]:
        scores = scorer.score([scorer.encode(prompt, answer) for prompt, answer in pairs])
        return [-score.nll * score.tokens if score.tokens else -math.inf for score in scores]

    return believes


@dataclass(frozen=True)
class Screen:
    """Asks the model before a correction is written.

    Attributes:
        answers: the model's own greedy answers to prompts, for corrections that do not say what was.
    """

    rules: Rules
    believes: Believes
    answers: Callable[[Sequence[str]], Sequence[str]]

    def doubts(self, rows: Sequence[CorrectionRow]) -> dict[str, Finding]:
        """Id → the finding, of those corrections whose old answer the model is sure of."""
        weight = self.rules.weights.sure
        if not rows or weight == 0:
            return {}
        own = [row for row in rows if row.was is None]
        told = dict(zip((row.id for row in own), self.answers([row.text for row in own]), strict=True))
        olds = {row.id: row.was or told[row.id] for row in rows}
        asked = [row for row in rows if olds[row.id] and olds[row.id] != row.target]
        found: dict[str, Finding] = {}
        believed = self.believes([(row.text, olds[row.id]) for row in asked])
        for row, log_probability in zip(asked, believed, strict=True):
            sure = math.exp(min(0.0, log_probability))
            if sure >= self.rules.sure_from:
                why = f"the model says {olds[row.id]!r} with a probability of {sure:.2f}"
                found[row.id] = Finding(Rule.SURE, 1.0, weight, why)
        return found


def screened(screen: Screen | None, journal: Journal, plan: Plan) -> bool:
    """Holds those of a plan that the model speaks against; whether there were any: then plan anew."""
    if screen is None or not plan.added:
        return False
    replaced = {row.slot for row in journal.questions.rows(plan.removed)}
    rows = [row for row in journal.questions.rows([one.id for one in plan.added]) if _asked_of(row)]
    doubts = screen.doubts([row for row in rows if row.slot not in replaced])
    held = [(row, doubts[row.id]) for row in rows if row.id in doubts]
    held = [(row, one) for row, one in held if (row.score or 0.0) + one.points >= screen.rules.hold_at]
    for row, doubt in held:
        _hold(journal, row, doubt)
    return bool(held)


def _asked_of(row: CorrectionRow) -> bool:
    """Not of what came before there were sources, of what somebody approved, nor of what follows from it."""
    return row.score is not None and row.reviewed_by is None and row.parent is None


def _hold(journal: Journal, row: CorrectionRow, doubt: Finding) -> None:
    with journal.writing() as c:
        hold(
            c,
            Transitions(journal.clock),
            row.id,
            actor=ACTOR,
            score=round((row.score or 0.0) + doubt.points, 4),
            findings=[*row.findings, doubt.to_json()],
            why=f"held for review: {doubt.rule}: {doubt.why}",
        )
