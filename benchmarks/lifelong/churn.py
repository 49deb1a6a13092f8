"""The churn stream: subjects whose prices, versions and seats change again and again.

A slot is what is asked of whom: the price of a share of Toyota. A round changes every slot once. Kinds of
slots, their wordings and their targets are data: `kinds.json`. The same seed gives the same stream.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from benchmarks.asking.ways import Asked
from benchmarks.data import Neighbour, Record
from benchmarks.errors import ChoiceError
from editing.facts import SLOT, Fact
from monitoring.measuring.scoring import Scorer

#: Subjects that are never written; each kind asks them its question.
OTHERS = 10

#: (prompt, possible answers) → the answer that the unedited model finds most probable.
Prefer = Callable[[str, Sequence[str]], str]


@dataclass(frozen=True)
class Kind:
    """A relation whose object changes.

    Attributes:
        prompt, paraphrases: each with one `{}`; a target continues them.
        question: may be posted with a correction.
        asked: only ever asked here.
        targets: what the object changes to; each round takes another.
    """

    name: str
    prompt: str
    paraphrases: tuple[str, ...]
    question: str
    asked: str
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """How much changes, and how often.

    Attributes:
        subjects: how many change; each in every kind.
        rounds: how often each slot changes.
        kinds: names; all where it is empty.
        seed: of the subjects and of the targets.
    """

    subjects: int = 50
    rounds: int = 100
    kinds: tuple[str, ...] = ()
    seed: int = 0


def kinds(names: Sequence[str] = ()) -> tuple[Kind, ...]:
    """Kinds by name; all where no name is given.

    Raises:
        ChoiceError: there is no such kind.
    """
    every = {
        one["name"]: Kind(
            one["name"],
            one["prompt"],
            tuple(one["paraphrases"]),
            one["question"],
            one["asked"],
            tuple(one["targets"]),
        )
        for one in _read("kinds")
    }
    for name in names:
        if name not in every:
            raise ChoiceError(f"--kinds {name!r}: known are {', '.join(every)}")
    return tuple(every[name] for name in names or every)


def chosen_subjects(plan: Plan) -> tuple[list[str], list[str]]:
    """The subjects that change, and those that never do.

    Raises:
        ChoiceError: there are not so many.
    """
    every = _read("subjects")
    if not 1 <= plan.subjects <= len(every) - OTHERS:
        raise ChoiceError(f"--subjects {plan.subjects}: give 1 to {len(every) - OTHERS}")
    drawn = random.Random(plan.seed).sample(every, plan.subjects + OTHERS)
    return drawn[: plan.subjects], drawn[plan.subjects :]


def churn(plan: Plan, prefer: Prefer) -> list[Asked]:
    """All changes in the order in which they are written: round after round, each slot once in a round.

    A record's rival is what its slot held before: the target of the round before. The first round's rival is
    another target. Neighbours are the same question about subjects that never change. Their answer is the one
    of the kind's targets that the unedited model prefers.

    Raises:
        ChoiceError: there are no such kinds, or not so many subjects.
    """
    chosen, (changing, still) = kinds(plan.kinds), chosen_subjects(plan)
    neighbours = {kind.name: tuple(_neighbours(kind, still, prefer)) for kind in chosen}
    slots = [(subject, kind) for subject in changing for kind in chosen]
    lives = [_life(kind, subject, plan) for subject, kind in slots]
    return [
        _asked(subject, kind, life, now, neighbours[kind.name])
        for now in range(1, plan.rounds + 1)
        for (subject, kind), life in zip(slots, lives, strict=True)
    ]


def never_written(plan: Plan) -> list[Asked]:
    """The questions of all kinds about the subjects that never change."""
    subjects = chosen_subjects(plan)[1]
    return [
        _asked(subject, kind, list(kind.targets), 1, ()) for kind in kinds(plan.kinds) for subject in subjects
    ]


def preferred(scorer: Scorer) -> Prefer:
    """What a model finds most probable, by the mean over an answer's tokens."""

    def prefer(prompt: str, answers: Sequence[str]) -> str:
        losses = [score.nll for score in scorer.score([scorer.encode(prompt, answer) for answer in answers])]
        return answers[min(range(len(answers)), key=losses.__getitem__)]

    return prefer


def _life(kind: Kind, subject: str, plan: Plan) -> list[str]:
    """Targets of a slot, that before the first round first; no two that follow each other are the same."""
    generator = random.Random(f"{plan.seed}:{kind.name}:{subject}")
    life = [generator.choice(kind.targets)]
    for _ in range(plan.rounds):
        life.append(generator.choice([target for target in kind.targets if target != life[-1]]))
    return life


def _asked(
    subject: str, kind: Kind, life: Sequence[str], now: int, neighbours: tuple[Neighbour, ...]
) -> Asked:
    # A target comes again after some rounds. So the round is part of the name.
    name = f"{kind.name}:{subject}:{now}:{life[now]}"
    fact = Fact(subject, kind.prompt, life[now], name, (kind.question,))
    record = Record(
        fact,
        life[now - 1],
        tuple(text.replace(SLOT, subject) for text in kind.paraphrases),
        # An answer that the slot itself holds has no rival.
        tuple(one for one in neighbours if one.answer != fact.target),
    )
    return Asked(record, kind.asked.replace(SLOT, subject))


def _neighbours(kind: Kind, subjects: Sequence[str], prefer: Prefer) -> Iterator[Neighbour]:
    for subject in subjects:
        prompt = kind.prompt.replace(SLOT, subject)
        yield Neighbour(prompt, prefer(prompt, kind.targets))


def _read(name: str) -> Any:
    return json.loads((resources.files("benchmarks.lifelong") / "kinds.json").read_text(encoding="utf-8"))[
        name
    ]
