"""How people ask: corrections said in the posted words, in others, and in chat, by free generation.

The rows tell of each form how many answers hold the target as words of its own, before the edits and after
them. The ceiling is what prompting does: the unedited model is told the fact in its prompt. `said` is
stricter: the answer is the target, and ends there. A row's shares are of all facts written so far; intervals
are Wilson's. Questions come from a file of templates: `given` may be posted with a correction, `asked` is
only ever asked here.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.asking.ways import VARIED, WAYS, Asked
from benchmarks.configuration import Configuration, Model
from benchmarks.data import Records, writable
from benchmarks.files import write_json
from benchmarks.intervals import wilson
from benchmarks.scores import text_perplexity
from editing.editor import Editor
from editing.model.answers import answers
from editing.model.loaded import LoadedModel
from editing.said import holds, said
from monitoring.measuring.scoring import Scorer

#: The longest target of CounterFact has six tokens; some more show where an answer goes on.
TOKENS = 16
#: An answer about another subject counts as unchanged when so many of its first words are.
SAME_WORDS = 4
#: Held-out documents that perplexity is measured on.
TEXTS = 24


@dataclass(frozen=True)
class Row:
    """One form after so many edits; shares between 0 and 1, `low` and `high` of `after`."""

    edits: int
    form: str
    before: float
    after: float
    ceiling: float
    neighbour_same: float
    asked: int
    low: float
    high: float
    seconds_per_correction: float
    perplexity_ratio: float
    said: float
    exact_match: float | None
    columns: float
    configuration: str


@dataclass(frozen=True)
class Plan:
    """What is written and asked.

    Attributes:
        facts: written, in this order, `batch` at a time.
        others: about other subjects; never written.
        texts: perplexity is measured on them.
        marks: after so many edits everything is asked.
        varied: whether questions are also asked as askers vary them.
    """

    facts: Sequence[Asked]
    others: Sequence[Asked]
    texts: Sequence[str]
    marks: Sequence[int]
    batch: int
    varied: bool = False


class Asking:
    """Asks one model of facts, in every way that it can be asked."""

    def __init__(self, loaded: LoadedModel, varied: bool = False) -> None:
        self._loaded = loaded
        every = {**WAYS, **(VARIED if varied else {})}
        self.ways = {name: way for name, way in every.items() if loaded.chat.exists or not way.chat}

    def held(self, name: str, facts: Sequence[Asked], hinted: bool = False) -> list[bool]:
        """Of each fact whether the answer holds its target; `hinted`: the fact stands before the question."""
        told = self.told(name, facts, hinted)
        return [holds(answer, one.fact.target) for answer, one in zip(told, facts, strict=True)]

    def told(
        self, name: str, facts: Sequence[Asked], hinted: bool = False, tokens: int = TOKENS
    ) -> list[str]:
        way = self.ways[name]
        texts = [way.asks(one, f"{one.told} " if hinted else "") for one in facts]
        return answers(self._loaded.speaker, texts, tokens, chat=way.chat)

    def exact(self, name: str, facts: Sequence[Asked], scorer: Scorer) -> float | None:
        """Share of facts whose target tokens are all the most probable ones, each told those before it; the
        literature's measure. None in chat, where it has none."""
        way = self.ways[name]
        if way.chat:
            return None
        texts = [way.asks(one, "") for one in facts]
        pairs = [(t, one.fact.target) for t, one in zip(texts, facts, strict=True) if isinstance(t, str)]
        return mean(scorer.exact(pairs))


def same(before: Sequence[str], after: Sequence[str]) -> list[bool]:
    """Of each answer whether its first words are what they were."""
    pairs = zip(before, after, strict=True)
    return [a.split()[:SAME_WORDS] == b.split()[:SAME_WORDS] for a, b in pairs]


def mean(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)


@dataclass(frozen=True)
class Unedited:
    """What the unedited model says, by form."""

    before: Mapping[str, list[bool]]
    ceiling: Mapping[str, list[bool]]
    others: Mapping[str, list[str]]
    perplexity: float

    @classmethod
    def of(cls, model: Model, plan: Plan) -> "Unedited":
        asking = Asking(model.loaded, plan.varied)
        scorer = Scorer(model.loaded.model, model.loaded.tokenizer)
        facts = plan.facts[: plan.marks[-1]]
        return cls(
            {name: asking.held(name, facts) for name in asking.ways},
            {name: asking.held(name, facts, hinted=True) for name in asking.ways},
            {name: asking.told(name, plan.others) for name in asking.ways},
            text_perplexity(scorer, plan.texts),
        )


def asked(
    model: Model,
    plan: Plan,
    configurations: Sequence[Configuration],
    out: Path,
    say: Callable[[str], None] = lambda _text: None,
) -> list[dict[str, Any]]:
    """Writes the facts with each configuration and asks at each mark; writes OUT/asked.json as it goes."""
    say("asking the unedited model")
    unedited, rows = Unedited.of(model, plan), list[dict[str, Any]]()
    for configuration in configurations:
        with model.editor(configuration) as editor:
            for row in measured(editor, plan, unedited, str(configuration), say):
                rows.append(asdict(row))
                write_json(out / "asked.json", rows)
    return rows


def measured(
    editor: Editor, plan: Plan, unedited: Unedited, name: str, say: Callable[[str], None]
) -> Iterator[Row]:
    """Rows of one configuration."""
    asking = Asking(editor.loaded, plan.varied)
    scorer, seconds = Scorer(editor.model, editor.tokenizer), 0.0
    for first, mark in itertools.pairwise((0, *plan.marks)):
        start = time.perf_counter()
        for batch in range(first, mark, plan.batch):
            editor.apply([one.fact for one in plan.facts[batch : min(batch + plan.batch, mark)]])
        seconds += time.perf_counter() - start
        facts = plan.facts[:mark]
        ratio = text_perplexity(scorer, plan.texts) / unedited.perplexity
        say(f"{name}: {mark} written, {seconds / mark:.2f} s each, perplexity x{ratio:.3f}")
        for form in asking.ways:
            told = list(zip(asking.told(form, facts), facts, strict=True))
            after = mean([holds(answer, one.fact.target) for answer, one in told])
            yield Row(
                mark,
                form,
                mean(unedited.before[form][:mark]),
                after,
                mean(unedited.ceiling[form][:mark]),
                mean(same(unedited.others[form], asking.told(form, plan.others))),
                mark,
                *wilson(after, mark),
                seconds / mark,
                ratio,
                mean([said(answer, one.fact.target) for answer, one in told]),
                asking.exact(form, facts, scorer),
                editor.state.forms.numel() / mark,
                name,
            )


def taken(every: Sequence[Asked], model: Model, count: int) -> list[Asked]:
    """The first `count` that the editor can encode."""
    records = Records(tuple(one.record for one in every), {})
    kept = writable(records, model.loaded.tokenizer, model.install.contexts(), count).records
    slots = {record.slot for record in kept}
    return [one for one in every if one.record.slot in slots][:count]


#: Titles of `table`'s columns.
COLUMNS = (
    "configuration",
    "edits",
    "form",
    "before",
    "after",
    "said",
    "ceiling",
    "others same",
    "EM",
    "s",
    "perplexity",
)


def table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows for people: shares in percent, with the interval."""

    def percent(share: float | None) -> str:
        return "" if share is None else f"{100 * share:.0f}"

    return [
        [
            row["configuration"],
            str(row["edits"]),
            row["form"],
            percent(row["before"]),
            f"{percent(row['after'])} ({percent(row['low'])}–{percent(row['high'])})",
            percent(row["said"]),
            percent(row["ceiling"]),
            percent(row["neighbour_same"]),
            percent(row["exact_match"]),
            f"{row['seconds_per_correction']:.2f}",
            f"×{row['perplexity_ratio']:.3f}",
        ]
        for row in rows
    ]
