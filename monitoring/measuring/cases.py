"""How corrections are answered: those of a batch with their paraphrases and neighbours, and earlier ones."""

import hashlib
import math
from collections.abc import Mapping, Sequence, Set

from editing.said import said
from monitoring.measurements import Case, CaseResult, FormResult
from monitoring.measuring.baseline import EditedModel
from monitoring.measuring.scoring import ANSWER_TOKENS, Scorer
from monitoring.shares import Counted

#: Whether the base model gives an answer: (prompt, answer) → bool. Filled as it is asked, and kept.
Known = dict[tuple[str, str], bool]
#: Tokens generated behind a target, to see whether the word or number goes on: "3.16" and then ".1".
BEHIND_TOKENS = 3
#: So many earlier corrections of the batch's own subjects are asked beside the samples, at most.
MOST_BESIDE = 32
Shares = dict[str, float | None]
Counts = dict[str, Counted]


def batch_results(
    editor: EditedModel, scorer: Scorer, batch: Sequence[Case], known: Known
) -> tuple[dict[str, CaseResult], Shares, Counts]:
    """Results by correction, the batch's shares, and what those are counted from.

    Answers are generated freely. Paraphrases and neighbours are scored in one go. A neighbour counts if it
    is still answered or if the base model knew it: what the base never knew, no edit can damage.
    """
    paraphrases = [(p, c.target) for c in batch for p in c.paraphrases]
    neighbours = [pair for c in batch for pair in c.neighbours]
    hits = iter(scorer.exact(paraphrases + neighbours))
    paraphrase_hits = [[next(hits) for _ in c.paraphrases] for c in batch]
    all_neighbours = [[(pair, next(hits)) for pair in c.neighbours] for c in batch]
    _ask_base(editor, [pair for told in all_neighbours for pair, hit in told if not hit], known)
    neighbour_hits = [[hit for pair, hit in told if hit or known[pair]] for told in all_neighbours]
    answered = form_results(scorer, batch, ANSWER_TOKENS)
    found = {
        case.id: CaseResult(
            efficacy=all(form.said for form in answered[i].values() if form.required),
            answer=next(iter(answered[i].values())).answer,
            paraphrase=mean(paraphrase_hits[i]),
            neighbourhood=mean(neighbour_hits[i]),
            target=case.target,
            forms=answered[i],
        )
        for i, case in enumerate(batch)
    }
    results = list(found.values())
    in_chat = [
        answered[i][form.name].said for i, case in enumerate(batch) for form in case.asked if form.chat
    ]
    shares = {
        "efficacy_ratio": mean([r.efficacy for r in results]),
        "chat_efficacy_ratio": mean(in_chat),
        "paraphrase_ratio": mean([r.paraphrase for r in results if r.paraphrase is not None]),
        "neighbourhood_ratio": mean([r.neighbourhood for r in results if r.neighbourhood is not None]),
    }
    asked = {
        "efficacy_ratio": [r.efficacy for r in results],
        "chat_efficacy_ratio": in_chat,
        "paraphrase_ratio": [hit for told in paraphrase_hits for hit in told],
        "neighbourhood_ratio": [hit for told in neighbour_hits for hit in told],
    }
    return found, shares, counted(asked)


def form_results(scorer: Scorer, cases: Sequence[Case], tokens: int = 0) -> list[dict[str, FormResult]]:
    """Of each case, name of a form → its free answer and whether that says the target.

    Args:
        tokens: so long the answers are at least; they are always long enough to see where the target ends.
    """
    asked = [(i, form) for i, case in enumerate(cases) for form in case.asked]
    found: list[dict[str, FormResult]] = [{} for _ in cases]
    for chat in (False, True):
        part = [(i, form) for i, form in asked if form.chat == chat]
        long = max([tokens, *(_length(scorer, cases[i].target) for i, _ in part)])
        targets = [cases[i].target for i, _ in part]
        told = scorer.answers([form.text for _, form in part], long, chat=chat, targets=targets)
        for (i, form), text in zip(part, told, strict=True):
            line = (text.strip().splitlines() or [""])[0].strip()
            found[i][form.name] = FormResult(line, said(text, cases[i].target), form.required)
    return [
        {form.name: told[form.name] for form in case.asked} for case, told in zip(cases, found, strict=True)
    ]


def _length(scorer: Scorer, target: str) -> int:
    return len(scorer.tokenizer(target, add_special_tokens=False)["input_ids"]) + BEHIND_TOKENS


def retention(
    scorer: Scorer, earlier: Sequence[Case], size: int, batch: Sequence[Case] = ()
) -> tuple[Shares, Counts, dict[str, dict[str, str]]]:
    """Shares of `size` earlier corrections that are still said, what those are counted from, and of each its
    lost forms with what is said there now.

    The shares of the oldest, the newest and those between are of the first form of each, the bare prompt.
    Those of a subject that the batch is about have got another value with it. They are asked as well, and
    are in no share.
    """
    samples = retention_samples(earlier, size)
    cases = [case for sample in samples.values() for case in sample]
    mates = _beside(earlier, batch, {case.id for case in cases})
    told = form_results(scorer, [*cases, *mates])
    bare = iter([next(iter(forms.values())).said for forms in told])
    asked = {f"retention_{which}_ratio": [next(bare) for _ in sample] for which, sample in samples.items()}
    asked["retention_ratio"] = [hit for kept in asked.values() for hit in kept]
    asked["retention_chat_ratio"] = [
        told[i][form.name].said for i, case in enumerate(cases) for form in case.asked if form.chat
    ]
    lost = {
        case.id: {name: form.answer for name, form in forms.items() if not form.said}
        for case, forms in zip([*cases, *mates], told, strict=True)
    }
    return {name: mean(kept) for name, kept in asked.items()}, counted(asked), lost


def _beside(earlier: Sequence[Case], batch: Sequence[Case], asked: Set[str]) -> list[Case]:
    """The newest earlier corrections of the batch's subjects that are not asked yet."""
    subjects = {case.subject for case in batch} - {""}
    found = [case for case in earlier if case.subject in subjects and case.id not in asked]
    return found[-MOST_BESIDE:]


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


def _ask_base(editor: EditedModel, missed: Sequence[tuple[str, str]], known: Known) -> None:
    """Completes `known` for answers that are missed now, each asked once. An answer that is still given needs
    no question: it was not damaged."""
    new = [pair for pair in dict.fromkeys(missed) if pair not in known]
    if new:
        base = Scorer(editor.model, editor.tokenizer, editor.base_weights())
        known |= dict(zip(new, base.exact(new), strict=True))


def mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def counted(asked: Mapping[str, Sequence[bool]]) -> Counts:
    return {name: Counted(sum(hits), len(hits)) for name, hits in asked.items() if hits}
