"""General ability: five tasks of GLUE, asked as in the editing papers' evaluation.

A task's answer is the label whose words the model finds more probable after the prompt, by their mean
log-probability; reported is the F1 of each label, weighted by how often it is right, in percent. Prompts:
`glue_eval` of AlphaEdit (arXiv 2410.02355); scored by likelihood instead of parsing free answers, so that a
model that babbles is wrong and not unparsable.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data import find, read_items
from benchmarks.errors import DataError
from benchmarks.scores import mean
from monitoring.measuring.scoring import Scorer

#: The first items of a task are shown with their answers by those who ask so; none is scored here.
SHOWN = 10


@dataclass(frozen=True)
class Task:
    """`prompt` names fields of an item; `answers` are the words of each of its labels."""

    prompt: str
    answers: Mapping[Any, str]


_YES, _TRUE = {0: "No", 1: "Yes"}, {0: "True", 1: "False"}
TASKS: Mapping[str, Task] = {
    "sst2": Task("Review :{sentence}\nSentiment :", {0: "negative", 1: "positive"}),
    "mrpc": Task(
        "Are the sentences paraphrases of each other.\n"
        "Sentence 1: {sentence1}\nSentence 2: {sentence2}\nAnswer:",
        _YES,
    ),
    "cola": Task("Is this sentence linguistically acceptable?\nSentence: {sentence}\nAnswer:", _YES),
    # Label 0 is entailment.
    "rte": Task("{sentence1}\nquestion: {sentence2} True or False?\nanswer:", _TRUE),
    "nli": Task(
        "{sentence1} entails the {sentence2} True or False? Answer:",
        {"entailment": "True", "not_entailment": "False"},
    ),
}


@dataclass(frozen=True)
class Question:
    """A prompt, and which of its task's labels is right."""

    prompt: str
    label: Any


Questions = Mapping[str, Sequence[Question]]


def load_glue(folder: Path | None, items: int) -> Questions:
    """Task → its questions, `items` of each or as many as its file holds.

    Args:
        folder: of the data sets; files are `glue/{task}.jsonl.zst` in it.

    Raises:
        DataError: a file is missing or an item has not the fields of its task.
    """
    found: dict[str, list[Question]] = {}
    for name, task in TASKS.items():
        path = find(f"glue/{name}.jsonl.zst", folder, "--data")
        chosen = read_items(path)[SHOWN : SHOWN + items]
        try:
            asked = [Question(task.prompt.format(**item), item["label"]) for item in chosen]
        except KeyError as error:
            raise DataError(f"{path}: an item has no field {error}") from error
        odd = {question.label for question in asked} - set(task.answers)
        if odd:
            raise DataError(f"{path}: label {odd.pop()!r}; known are {', '.join(map(str, task.answers))}")
        found[name] = asked
    return found


def ability(scorer: Scorer, questions: Questions) -> dict[str, float | None]:
    """Weighted F1 of each task in percent, and `glue`, their mean: None where nothing is asked."""
    found: dict[str, float] = {}
    for name, asked in questions.items():
        right = [question.label for question in asked]
        found[f"glue_{name}"] = 100 * weighted_f1(right, answers(scorer, TASKS[name], asked))
    return {"glue": mean(found.values()) if found else None, **found}


def answers(scorer: Scorer, task: Task, asked: Sequence[Question]) -> list[Any]:
    """The more probable label of each question; None where the model gives no number."""
    labels = list(task.answers)
    pairs = [scorer.encode(question.prompt, task.answers[label]) for question in asked for label in labels]
    losses = [score.nll for score in scorer.score(pairs)]
    rows = [losses[start : start + len(labels)] for start in range(0, len(losses), len(labels))]
    return [None if any(map(math.isnan, row)) else labels[row.index(min(row))] for row in rows]


def weighted_f1(right: Sequence[Any], given: Sequence[Any]) -> float:
    """Σ over labels of F1 times the label's share of `right`; a label never given has F1 = 0."""
    both = Counter(a for a, b in zip(right, given, strict=True) if a == b)
    wanted, said = Counter(right), Counter(given)
    return sum(2 * both[x] / (n + said[x]) * n for x, n in wanted.items()) / len(right)
