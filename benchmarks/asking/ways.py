"""Ways of asking for a fact: in the posted words, in others, as text and in chat."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.data import Record, Records, read_items
from benchmarks.errors import DataError
from editing.facts import SLOT, Fact
from editing.model.answers import Message

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


def _with_system(one: Asked, hint: str) -> list[Message]:
    system = "You answer for a news agency. Answer in a few words."
    return [_message("system", system), _message("user", hint + one.question)]


def _long_chat(one: Asked, hint: str) -> list[Message]:
    told = (
        ("Can you help me to plan a weekend?", "Of course. You could see a museum and take a long walk."),
        ("What should I pack?", "Good shoes, a light jacket, a bottle of water and something to read."),
    )
    turns = ((_message("user", asked), _message("assistant", answer)) for asked, answer in told)
    return [*(message for turn in turns for message in turn), _message("user", hint + one.question)]


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

#: The question of `chat_question` as askers vary it.
VARIED: Mapping[str, Way] = {
    "system_prompt": Way(True, _with_system),
    "long_chat": Way(True, _long_chat),
    "lower_case": Way(True, lambda one, hint: hint + one.question.lower()),
    "trailing_blank": Way(True, lambda one, hint: f"{hint}{one.question} "),
}


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
