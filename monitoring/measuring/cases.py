"""How corrections are answered: those of a batch with their paraphrases and neighbours, and earlier ones."""

import hashlib
import math
from collections.abc import Mapping, Sequence

from monitoring.measurements import Case, CaseResult
from monitoring.measuring.baseline import EditedModel
from monitoring.measuring.scoring import Scorer
from monitoring.shares import Counted

#: Whether the base model gives an answer: (prompt, answer) → bool. Filled as it is asked, and kept.
Known = dict[tuple[str, str], bool]
Shares = dict[str, float | None]
Counts = dict[str, Counted]


def batch_results(
    editor: EditedModel, scorer: Scorer, batch: Sequence[Case], known: Known
) -> tuple[dict[str, CaseResult], Shares, Counts]:
    """Results by correction, the batch's shares, and what those are counted from.

    All prompts, paraphrases and neighbours are scored in one go. A neighbour counts if it is still answered
    or if the base model knew it: what the base never knew, no edit can damage.
    """
    rewrites = [(c.prompt, c.target) for c in batch]
    paraphrases = [(p, c.target) for c in batch for p in c.paraphrases]
    neighbours = [pair for c in batch for pair in c.neighbours]
    hits = iter(scorer.exact(rewrites + paraphrases + neighbours))
    exact = [next(hits) for _ in batch]
    paraphrase_hits = [[next(hits) for _ in c.paraphrases] for c in batch]
    all_neighbours = [[(pair, next(hits)) for pair in c.neighbours] for c in batch]
    _ask_base(editor, [pair for told in all_neighbours for pair, hit in told if not hit], known)
    neighbour_hits = [[hit for pair, hit in told if hit or known[pair]] for told in all_neighbours]
    answers = _answers(scorer, rewrites, exact)
    found = {
        case.id: CaseResult(
            efficacy=exact[i] and starts_with(answers[i], case.target),
            answer=answers[i],
            paraphrase=mean(paraphrase_hits[i]),
            neighbourhood=mean(neighbour_hits[i]),
            target=case.target,
        )
        for i, case in enumerate(batch)
    }
    results = list(found.values())
    shares = {
        "efficacy_ratio": mean([r.efficacy for r in results]),
        "paraphrase_ratio": mean([r.paraphrase for r in results if r.paraphrase is not None]),
        "neighbourhood_ratio": mean([r.neighbourhood for r in results if r.neighbourhood is not None]),
    }
    asked = {
        "efficacy_ratio": [r.efficacy for r in results],
        "paraphrase_ratio": [hit for told in paraphrase_hits for hit in told],
        "neighbourhood_ratio": [hit for told in neighbour_hits for hit in told],
    }
    return found, shares, counted(asked)


def retention(scorer: Scorer, earlier: Sequence[Case], size: int) -> tuple[Shares, Counts]:
    """Shares of `size` earlier corrections that are still answered, and what those are counted from."""
    samples = retention_samples(earlier, size)
    hits = iter(scorer.exact([(c.prompt, c.target) for cases in samples.values() for c in cases]))
    asked = {f"retention_{which}_ratio": [next(hits) for _ in cases] for which, cases in samples.items()}
    asked["retention_ratio"] = [hit for kept in asked.values() for hit in kept]
    return {name: mean(kept) for name, kept in asked.items()}, counted(asked)


def retention_samples(cases: Sequence[Case], size: int) -> dict[str, list[Case]]:
    """The oldest and the newest quarter of `size` cases, and a sample by hash of those between.

    `cases` are given oldest first; no case is in two samples.
    """
    quarter = min(size, len(cases)) // 4
    between = cases[quarter : len(cases) - quarter]
    return {
        "oldest": list(cases[:quarter]),
        "random": sample_cases(between, min(size, len(cases)) - 2 * quarter, seed=0),
        "newest": list(cases[len(cases) - quarter :]),
    }


def sample_cases(cases: Sequence[Case], size: int, seed: int) -> list[Case]:
    """`size` cases chosen by hash of seed and id: the same whatever the order they are given in,
    and a new case displaces at most one other."""

    def rank(case: Case) -> bytes:
        return hashlib.sha256(f"{seed}:{case.id}".encode()).digest()

    return sorted(cases, key=rank)[:size]


def _answers(scorer: Scorer, rewrites: Sequence[tuple[str, str]], exact: Sequence[bool]) -> list[str]:
    """The beginning of the greedy answer to each prompt.

    Teacher forcing often settles it. An answer is generated only where the target was missed, or where the
    target's first token holds the end of the prompt too.
    """
    encoded = [scorer.encode(*pair) for pair in rewrites]
    settled = [
        hit and scorer.answers_in_full(prompt, item)
        for hit, (prompt, _), item in zip(exact, rewrites, encoded, strict=True)
    ]
    open_ = iter(scorer.greedy([p for (p, _), done in zip(rewrites, settled, strict=True) if not done]))
    pairs = zip(encoded, settled, strict=True)
    return [scorer.decode(item) if done else next(open_) for item, done in pairs]


def _ask_base(editor: EditedModel, missed: Sequence[tuple[str, str]], known: Known) -> None:
    """Completes `known` for answers that are missed now, each asked once. An answer that is still given needs
    no question: it was not damaged."""
    new = [pair for pair in dict.fromkeys(missed) if pair not in known]
    if new:
        base = Scorer(editor.model, editor.tokenizer, editor.base_weights())
        known |= dict(zip(new, base.exact(new), strict=True))


def starts_with(answer: str, target: str) -> bool:
    """Does the answer begin with the target, white space and case aside?"""
    return " ".join(answer.split()).casefold().startswith(" ".join(target.split()).casefold())


def mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def counted(asked: Mapping[str, Sequence[bool]]) -> Counts:
    return {name: Counted(sum(hits), len(hits)) for name, hits in asked.items() if hits}
