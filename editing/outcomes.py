"""What became of the facts of a batch, from their values or from a training of the weights."""

from collections.abc import Sequence

from torch import Tensor

from editing.facts import Fact
from editing.report import Outcome
from editing.typed import entries
from editing.values.anchor import outlier_reason
from editing.values.search import Values


def outcomes(
    facts: Sequence[Fact], values: Values, norms: Tensor, outliers: Tensor, anchor: float, longest: float
) -> dict[str, Outcome]:
    """Outcomes by id of facts whose values were found and, but for outliers, will be written."""
    columns = map(entries, (norms, outliers, values.loss, values.steps))
    return {
        fact.id: Outcome(
            fact.id,
            not bad,
            outlier_reason(norm, anchor, longest) if bad else None,
            norm,
            norm / anchor,
            loss,
            steps,
        )
        for fact, norm, bad, loss, steps in zip(facts, *columns, strict=True)
    }


def trained(facts: Sequence[Fact], losses: Tensor, steps: int) -> dict[str, Outcome]:
    """Outcomes by id of facts that the weights were trained on."""
    nan = float("nan")
    return {
        fact.id: Outcome(fact.id, True, None, nan, nan, loss, steps)
        for fact, loss in zip(facts, entries(losses), strict=True)
    }
