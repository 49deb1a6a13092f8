"""The streams of `factd bench lifelong`: three data sets, and subjects that change again and again."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.asking.asked import taken
from benchmarks.asking.ways import QUESTIONS, Asked, asked_records
from benchmarks.configuration import Model
from benchmarks.data import find, load_records
from benchmarks.errors import ChoiceError
from benchmarks.glue import Questions
from benchmarks.lifelong.asks import FreeAnswers
from benchmarks.lifelong.beliefs import Beliefs
from benchmarks.lifelong.churn import Plan, churn, never_written, preferred
from benchmarks.lifelong.laws import COLLAPSE_S, Ending
from benchmarks.runs import Stream
from monitoring.measuring.scoring import Scorer

#: Data sets, and what is written of them once.
DATA_SETS = ("counterfact", "zsre", "wikifactdiff")
#: Each change takes the place of the one before: what was written for that is taken out.
CHURN = "churn"
#: Each change is written on top of the one before, as published methods have it.
CHURN_KEPT = "churn-kept"
STREAMS = (*DATA_SETS, CHURN, CHURN_KEPT)


@dataclass(frozen=True)
class Numbers:
    """How long streams are, and what is asked of them.

    Attributes:
        checkpoints: numbers of edits of the data sets.
        batch: facts written at once; of the churn streams no more than a round has.
        sample: facts asked at a checkpoint; 0 for all that hold.
        others: subjects of a data set that are never written, and asked in chat.
        compact_every: edits after which the model is compacted; 0: never.
        churn: what changes.
        every: rounds between two checkpoints of the churn streams.
        collapse: whether a stream ends when the model has collapsed.
        seconds: of writing, after which a configuration ends.
        beliefs: facts that are audited at a checkpoint; 0: none.
        glue: questions of general ability, asked at each checkpoint.
    """

    checkpoints: tuple[int, ...] = (100, 300, 1000)
    batch: int = 20
    sample: int = 300
    others: int = 100
    compact_every: int = 0
    churn: Plan = field(default_factory=Plan)
    every: int = 5
    collapse: bool = True
    seconds: float = math.inf
    beliefs: int = 0
    glue: Questions = field(default_factory=dict[str, Any])

    def ending(self, name: str) -> Ending:
        """Of a stream. S tells of collapse only where it is high to begin with."""
        if not self.collapse:
            return Ending(math.inf, 0.0, self.seconds)
        s = COLLAPSE_S if name in (CHURN, CHURN_KEPT) else 0.0
        return Ending(s=s, seconds=self.seconds)


def named(names: str) -> list[str]:
    """Names of streams from a list with commas.

    Raises:
        ChoiceError: there is no such stream.
    """
    chosen = list(dict.fromkeys(names.split(",")))
    for name in chosen:
        if name not in STREAMS:
            raise ChoiceError(f"--streams {name!r}: known are {', '.join(STREAMS)}")
    return chosen


def built(name: str, model: Model, numbers: Numbers, data: Path | None, texts: Sequence[str]) -> Stream:
    """A stream by name. Call on unedited weights.

    Raises:
        ChoiceError: the churn plan asks for what there is not.
        DataError: a file is missing, or has too few facts.
    """
    return _BUILDERS[name](name, model, numbers, data, texts)


def _data_set(name: str, model: Model, numbers: Numbers, data: Path | None, texts: Sequence[str]) -> Stream:
    path, last = find(name, data, "--data"), numbers.checkpoints[-1]
    records = load_records(path)
    if name == "counterfact":
        every = asked_records(records, path, find(QUESTIONS, data, "--data"))
    else:
        # Asked in chat in the posted words: a question already (zsRE), or a sentence to complete.
        every = [Asked(record, record.fact.text) for record in records.records]
    # From the end, so that a longer run has the same ones.
    others = taken(every[::-1], model, numbers.others)
    still = {one.fact.subject for one in others}
    facts = taken([one for one in every if one.fact.subject not in still], model, last)
    return _stream(name, model, numbers, texts, facts, others, numbers.checkpoints)


def _churning(name: str, model: Model, numbers: Numbers, _data: Path | None, texts: Sequence[str]) -> Stream:
    plan = numbers.churn
    facts = churn(plan, preferred(Scorer(model.loaded.model, model.loaded.tokenizer)))
    slots = len(facts) // plan.rounds
    ends = sorted({*range(numbers.every, plan.rounds + 1, numbers.every), plan.rounds})
    checkpoints = tuple(slots * rounds for rounds in ends)
    return _stream(name, model, numbers, texts, facts, never_written(plan), checkpoints, slots)


def _stream(
    name: str,
    model: Model,
    numbers: Numbers,
    texts: Sequence[str],
    facts: Sequence[Asked],
    others: Sequence[Asked],
    checkpoints: tuple[int, ...],
    most: int | None = None,
) -> Stream:
    """`most`: facts of a batch; a slot must not come twice in one."""
    if numbers.beliefs:
        asks = Beliefs(model.loaded, facts, others, numbers.beliefs)
    else:
        asks = FreeAnswers(model.loaded, facts, others)
    return Stream(
        [one.record for one in facts],
        texts,
        dataset=name,
        batch=min(numbers.batch, most or numbers.batch),
        checkpoints=checkpoints,
        sample=numbers.sample,
        compact_every=numbers.compact_every,
        glue=numbers.glue,
        keeps=name == CHURN_KEPT,
        reference=checkpoints[-1:],
        asks=asks,
        ends=numbers.ending(name),
    )


_BUILDERS: Mapping[str, Callable[[str, Model, Numbers, Path | None, Sequence[str]], Stream]] = {
    **dict.fromkeys(DATA_SETS, _data_set),
    **dict.fromkeys((CHURN, CHURN_KEPT), _churning),
}
