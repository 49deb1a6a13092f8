"""What a model makes of records: CounterFact's ES, PS, NS and S, exact match and free answers, in percent.

Of a prompt x and an answer y, NLL(x, y) is the mean over y's tokens. With a competing answer (CounterFact)

    ES, PS = mean [NLL(x, old) > NLL(x, new)] on the prompt, on its paraphrases,
    NS     = mean [NLL(x, old) < NLL(x, new)] on its neighbours,

per record first, then over records; ties fail. Without one (zsRE) each is the share of the answer's tokens
that are the most probable ones. S is the harmonic mean of the three. Source: ROME (arXiv 2202.05262), MEMIT
(arXiv 2210.07229) and their evaluation code.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.data import Record
from monitoring.measurements import Case
from monitoring.measuring.cases import form_results
from monitoring.measuring.scoring import Scorer, TargetScore, perplexity

#: Tokens of a held-out document that are read.
TEXT_TOKENS = 128

Pair = tuple[str, str]
Found = Callable[[Pair], TargetScore]


@dataclass(frozen=True)
class Scores:
    """In percent; see the module. NaN where nothing was asked.

    Attributes:
        exact_match: share of facts whose every target token is the most probable one.
        generation_match: share of facts whose free greedy answer begins with the target.
    """

    es: float
    ps: float
    ns: float
    s: float
    exact_match: float
    generation_match: float


def score(scorer: Scorer, records: Sequence[Record]) -> Scores:
    """Scores records in one pass over all (prompt, answer) pairs."""
    found = ask(scorer, [pair for record in records for pair in pairs(record)])
    es = mean(efficacy(found, record) for record in records)
    ps = mean(paraphrase(found, record) for record in records)
    ns = mean(neighbourhood(found, record) for record in records)
    rewrites = [(record.fact.text, record.fact.target) for record in records]
    exact = [found(pair).exact for pair in rewrites]
    free = answered(scorer, rewrites)
    return Scores(*(100 * x for x in (es, ps, ns, harmonic(es, ps, ns), mean(exact), mean(free))))


def retention(scorer: Scorer, records: Sequence[Record]) -> tuple[float, float]:
    """ES and exact match of the records, in percent."""
    found = ask(scorer, [pair for record in records for pair in _asked(record, [record.fact.text])])
    exact = [found((record.fact.text, record.fact.target)).exact for record in records]
    return 100 * mean(efficacy(found, record) for record in records), 100 * mean(exact)


def pairs(record: Record) -> list[Pair]:
    """All (prompt, answer) pairs that the scores of a record need."""
    prompts = [record.fact.text, *record.paraphrases]
    asked = _asked(record, prompts)
    for neighbour in record.neighbours:
        asked.append((neighbour.prompt, neighbour.answer))
        if record.old is not None:
            asked.append((neighbour.prompt, record.fact.target))
    return asked


def _asked(record: Record, prompts: Sequence[str]) -> list[Pair]:
    answers = [record.fact.target] if record.old is None else [record.fact.target, record.old]
    return [(prompt, answer) for prompt in prompts for answer in answers]


def ask(scorer: Scorer, asked: Sequence[Pair]) -> Found:
    """Scores of all pairs, each asked once."""
    unique = list(dict.fromkeys(asked))
    scored = scorer.score([scorer.encode(*pair) for pair in unique])
    return dict(zip(unique, scored, strict=True)).__getitem__


def efficacy(found: Found, record: Record) -> float:
    return _wins(found, record.fact.text, record.fact.target, record.old)


def paraphrase(found: Found, record: Record) -> float:
    return mean(_wins(found, prompt, record.fact.target, record.old) for prompt in record.paraphrases)


def neighbourhood(found: Found, record: Record) -> float:
    rival = None if record.old is None else record.fact.target
    return mean(_wins(found, n.prompt, n.answer, rival) for n in record.neighbours)


def _wins(found: Found, prompt: str, answer: str, rival: str | None) -> float:
    """Whether the answer is more probable than its rival; without one, the share of its tokens found."""
    told = found((prompt, answer))
    if rival is None:
        return told.hits / told.tokens if told.tokens else math.nan
    return float(told.nll < found((prompt, rival)).nll)


def answered(scorer: Scorer, rewrites: Sequence[Pair]) -> list[bool]:
    """Does the free greedy answer say the target?"""
    cases = [Case("", prompt, target) for prompt, target in rewrites]
    return [form["prompt"].said for form in form_results(scorer, cases)]


def text_perplexity(scorer: Scorer, texts: Sequence[str]) -> float:
    """Perplexity over the first `TEXT_TOKENS` tokens of each text."""
    return perplexity(scorer.score([scorer.encode_text(text, TEXT_TOKENS) for text in texts]))


def harmonic(*values: float) -> float:
    """Harmonic mean; 0 when one is 0."""
    return 0.0 if 0.0 in values else len(values) / math.fsum(1 / value for value in values)


def mean(values: Iterable[float]) -> float:
    """Mean of those that are not NaN (a record without paraphrases has none); NaN when none is left."""
    counted = [value for value in values if not math.isnan(value)]
    return math.fsum(counted) / len(counted) if counted else math.nan
