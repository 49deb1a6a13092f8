"""How people ask: corrections said in the posted words, in others, and in chat, by free generation.

    python -m benchmarks.asked --edits 100 --forms prompt,chat,questions --out DIR

writes ``asked.json``: of each form before and after the edits, and when the unedited model is told the fact
in its prompt (the ceiling of what prompting does). A row's shares are of all facts written; intervals are
Wilson's. Questions come from a file of templates: `given` may be posted with a correction, `asked` is only
ever asked here.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.data import (
    DEFAULT_FOLDER,
    TEXT,
    Record,
    Records,
    find,
    held_out,
    load_records,
    load_texts,
    read_items,
    writable,
)
from benchmarks.errors import DataError
from benchmarks.intervals import wilson
from benchmarks.scores import text_perplexity
from editing.editor import Editor
from editing.facts import SLOT, Fact
from editing.methods.published import parameters
from editing.model.answers import Message, answers
from editing.model.loaded import LoadedModel
from editing.said import said
from monitoring.measuring.scoring import Scorer

#: The longest target of CounterFact has six tokens; some more show where an answer goes on.
TOKENS = 12
#: An answer about another subject counts as unchanged when so many of its first words are.
SAME_WORDS = 4
#: Held-out documents that perplexity is measured on.
TEXTS = 24
QUESTIONS = "questions_dev.json"


@dataclass(frozen=True)
class Asked:
    """A record with the question that only the benchmark asks."""

    record: Record
    question: str

    @property
    def fact(self) -> Fact:
        return self.record.fact

    @property
    def told(self) -> str:
        """The fact as a sentence."""
        return f"{self.fact.text.strip()} {self.fact.target}."


@dataclass(frozen=True)
class Way:
    """A form of asking: the text or the chat that it makes of a fact; `hint` stands before the question."""

    chat: bool
    asks: Callable[[Asked, str], str | list[Message]]


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _second_turn(one: Asked, hint: str) -> list[Message]:
    greeting = [_message("user", "Hello!"), _message("assistant", "Hello! How can I help you today?")]
    return [*greeting, _message("user", hint + one.question)]


def _old_in_context(one: Asked, hint: str) -> str:
    return f"{hint}Somebody told me: {one.fact.text.strip()} {one.record.old}. {one.question}"


WAYS: Mapping[str, Way] = {
    "prompt": Way(False, lambda one, hint: hint + one.fact.text),
    "paraphrase": Way(False, lambda one, hint: hint + one.record.paraphrases[0]),
    "chat_prompt": Way(True, lambda one, hint: hint + one.fact.text),
    "chat_question": Way(True, lambda one, hint: hint + one.question),
    "question": Way(False, lambda one, hint: f"{hint}Q: {one.question}\nA:"),
    "old_in_context": Way(True, _old_in_context),
    "second_turn": Way(True, _second_turn),
}


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


def asked_records(records: Records, facts: Path, questions: Path) -> list[Asked]:
    """The records whose relation has questions; the fact of each has the question that may be posted.

    Raises:
        DataError: a file cannot be read.
    """
    templates = json.loads(questions.read_text(encoding="utf-8"))
    relation = {
        (one["subject"], one["prompt"]): one["relation_id"]
        for one in (item.get("requested_rewrite") for item in read_items(facts))
        if one
    }
    found = []
    for record in records.records:
        known = templates.get(relation.get(record.slot))
        if known and record.paraphrases and record.old:
            fact = replace(record.fact, questions=tuple(known["given"][:1]))
            question = known["asked"][0].replace(SLOT, fact.subject)
            found.append(Asked(replace(record, fact=fact), question))
    if not found:
        raise DataError(f"no fact of {facts} has a question in {questions}; give CounterFact")
    return found


class Asking:
    """Asks one model of two sets of facts, those written and others, in every way."""

    def __init__(self, loaded: LoadedModel, ours: Sequence[Asked], others: Sequence[Asked]) -> None:
        self._loaded, self._ours, self._others = loaded, ours, others
        self.ways = {name: way for name, way in WAYS.items() if loaded.chat.exists or not way.chat}

    def shares(self, hinted: bool = False) -> dict[str, float]:
        """Of each form the share of facts that are said; `hinted`: the fact stands before the question."""
        found = {}
        for name, way in self.ways.items():
            told = self._told(way, self._ours, hinted)
            right = [said(a, one.fact.target) for a, one in zip(told, self._ours, strict=True)]
            found[name] = sum(right) / len(right)
        return found

    def neighbours(self) -> dict[str, list[str]]:
        """Answers about the other subjects, by form."""
        return {name: self._told(way, self._others, False) for name, way in self.ways.items()}

    def _told(self, way: Way, every: Sequence[Asked], hinted: bool) -> list[str]:
        texts = [way.asks(one, f"{one.told} " if hinted else "") for one in every]
        return answers(self._loaded.speaker, texts, TOKENS, chat=way.chat)


def same(before: Sequence[str], after: Sequence[str]) -> float:
    """Share of answers whose first words are what they were."""
    pairs = [(a.split()[:SAME_WORDS], b.split()[:SAME_WORDS]) for a, b in zip(before, after, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


def measure(
    editor: Editor,
    facts: Sequence[Asked],
    others: Sequence[Asked],
    texts: Sequence[str],
    batch: int,
    say: Callable[[str], None] = lambda _text: None,
) -> list[Row]:
    """Writes all facts, `batch` at a time, and asks for all of them."""
    asking, scorer = Asking(editor.loaded, facts, others), Scorer(editor.model, editor.tokenizer)
    before, ceiling, neighbours = asking.shares(), asking.shares(hinted=True), asking.neighbours()
    base = text_perplexity(scorer, texts)
    say(f"asked the unedited model: {before}")
    start = time.perf_counter()
    for first in range(0, len(facts), batch):
        editor.apply([one.fact for one in facts[first : first + batch]])
    seconds = (time.perf_counter() - start) / len(facts)
    after, changed = asking.shares(), asking.neighbours()
    ratio = text_perplexity(scorer, texts) / base
    return [
        Row(
            len(facts),
            name,
            before[name],
            after[name],
            ceiling[name],
            same(neighbours[name], changed[name]),
            len(facts),
            *wilson(after[name], len(facts)),
            seconds,
            ratio,
        )
        for name in asking.ways
    ]


def main() -> None:
    given = _arguments()
    editor = _opened(given)
    path, questions = find("counterfact", given.data, "--facts"), find(QUESTIONS, given.data, "--questions")
    every = asked_records(load_records(path), path, questions)
    every = every[given.skip : given.skip + 3 * given.edits]
    kept = {record.slot for record in _writable(editor, every)}
    every = [one for one in every if one.record.slot in kept]
    texts = held_out(load_texts(find(TEXT, given.data, "--text")))[:TEXTS]
    facts, others = every[: given.edits], every[given.edits : 2 * given.edits]
    rows = measure(editor, facts, others, texts, given.batch, lambda text: print(text, file=sys.stderr))
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "asked.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    width = editor.state.forms.numel() / max(1, len(editor.state.facts))
    print(f"{len(editor.state.facts)} facts written, {width:.2f} columns a fact")
    for row in rows:
        print(
            f"{row.form:15} {row.before:.2f} → {row.after:.2f} ({row.low:.2f}–{row.high:.2f}), "
            f"ceiling {row.ceiling:.2f}, others same {row.neighbour_same:.2f}"
        )
    print(f"{rows[0].seconds_per_correction:.2f} s a correction, perplexity × {rows[0].perplexity_ratio:.3f}")


def _writable(editor: Editor, every: Sequence[Asked]) -> Sequence[Record]:
    records = Records(tuple(one.record for one in every), {})
    return writable(records, editor.tokenizer, editor.contexts).records


def _opened(given: argparse.Namespace) -> Editor:
    plain = Editor.open(given.model, state_dir=given.state)
    numbers = parameters("memit-seq", plain.loaded, "spread")
    # A number is of the type that it has.
    changes = {name: type(numbers.get(name))(float(value)) for name, value in given.numbers}
    numbers = numbers.changed(
        columns=given.columns, values=replace(numbers.values, ends=given.ends), **changes
    )
    return Editor(plain.loaded, plain.install, numbers=numbers, forms=given.forms.split(","))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--state", type=Path, default=None, help="where statistics are kept")
    parser.add_argument("--data", type=Path, default=None, help=f"folder of the data sets; {DEFAULT_FOLDER}")
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--batch", type=int, default=20, help="facts written at once")
    parser.add_argument("--skip", type=int, default=0, help="facts left out at the beginning")
    parser.add_argument("--forms", default="prompt", help="prompt,chat,questions,…")
    parser.add_argument("--columns", default="each", choices=["each", "averaged", "needed"])
    parser.add_argument("--ends", default="open", choices=["open", "stop", "eos"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--number",
        dest="numbers",
        action="append",
        default=[],
        type=lambda text: text.split("=", 1),
        help="NAME=VALUE of the method's numbers, such as anchor_factor=1.2",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
