"""Forms: the ways in which a fact is asked.

A value that is found for one form alone fits that form and lowers the others. One value is found over all
forms of a fact, and each form has its own key.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal, get_args

from editing.errors import OptionError
from editing.facts import Fact

#: What a caller may ask for. In a model without a chat template questions are asked as text.
Kind = Literal["prompt", "chat", "questions", "plain questions", "paraphrases", "chat paraphrases"]
#: Kind → the field of a fact that the form's text stands in.
FIELDS: dict[Kind, str] = {
    "prompt": "prompt",
    "chat": "prompt",
    "questions": "questions",
    "plain questions": "questions",
    "paraphrases": "paraphrases",
    "chat paraphrases": "paraphrases",
}
#: The bare prompt alone.
PROMPT_ONLY: tuple[Kind, ...] = ("prompt",)
#: A column for each form of a fact; one for all, with the mean of their keys and targets; or one for the bare
#: prompt and one for each form that is not said once that is written.
Columns = Literal["each", "averaged", "needed"]
#: Number of the bare prompt among a fact's forms.
PROMPT = 0


@dataclass(frozen=True)
class Form:
    """One way to ask a fact.

    Attributes:
        name: what people read: "prompt", "chat", "question 1".
        kind: what a caller asks for to get it.
        number: its place among all forms of its fact; follows from the fact alone.
        text: with one ``{}`` for the subject.
        chat: whether it is asked as a chat message; the target is then the whole answer.
    """

    name: str
    kind: Kind
    number: int
    text: str
    chat: bool

    @property
    def field(self) -> str:
        """The field of a fact that its text stands in."""
        return FIELDS[self.kind]


def every_form(fact: Fact) -> tuple[Form, ...]:
    """All forms of a fact, in an order that follows from the fact alone."""
    found: list[tuple[str, Kind, str, bool]] = [
        ("prompt", "prompt", fact.prompt, False),
        ("chat", "chat", fact.prompt, True),
    ]
    for i, text in enumerate(fact.questions, 1):
        found.append((f"question {i}", "questions", text, True))
        found.append((f"question {i} as text", "plain questions", text, False))
    for i, text in enumerate(fact.paraphrases, 1):
        found.append((f"paraphrase {i}", "paraphrases", text, False))
        found.append((f"paraphrase {i} in chat", "chat paraphrases", text, True))
    return tuple(Form(name, kind, n, text, chat) for n, (name, kind, text, chat) in enumerate(found))


def chosen_forms(fact: Fact, kinds: Sequence[Kind], chats: bool) -> tuple[Form, ...]:
    """The forms of a fact that are of the given kinds, each wording once, the bare prompt first.

    Args:
        chats: whether the model has a chat template. Without one nothing is asked in chat.
    """
    wanted = set(kinds) | {"prompt"}
    if not chats and "questions" in wanted:
        wanted |= {"plain questions"}
    found: dict[tuple[str, bool], Form] = {}
    for form in every_form(fact):
        if form.kind in wanted and (chats or not form.chat):
            found.setdefault((form.text, form.chat), form)
    return tuple(found.values())


def checked_kinds(kinds: Sequence[str]) -> tuple[Kind, ...]:
    """Kinds of forms that a caller gave.

    Raises:
        OptionError: one is unknown, or the bare prompt is missing.
    """
    known = get_args(Kind)
    if isinstance(kinds, str) or not set(kinds) <= set(known):
        raise OptionError(f"forms = {kinds!r}: give a list of {', '.join(map(repr, known))}")
    if "prompt" not in kinds:
        raise OptionError(f"forms = {kinds!r}: the bare prompt is always asked; add 'prompt'")
    return tuple(kind for kind in known if kind in kinds)


def units(facts: Sequence[Fact]) -> list[list[int]]:
    """Indices of the facts, those of one subject together.

    What comes before and after a subject hardly moves its key, in whatever form: two keys of a subject have
    a cosine of 0.9 and more, those of two subjects 0.0 to 0.4 (docs/log/subjects.md). So only one value can
    be written for all that is said of a subject (MEMIT-Merge, arXiv 2502.07322).
    """
    found: dict[str, list[int]] = {}
    for i, fact in enumerate(facts):
        found.setdefault(fact.subject, []).append(i)
    return list(found.values())


def mates(live: Sequence[Fact], facts: Sequence[Fact], remove: Sequence[str], stay: Set[str]) -> list[Fact]:
    """Live facts that share a subject, and so a value, with a fact to be written or removed.

    They are written again with the new ones, or without the removed one, whose answer their value holds.
    None of the ids `stay` is among them.
    """
    removed = set(remove)
    subjects = {fact.subject for fact in [*live, *facts] if fact.id in removed}
    subjects |= {fact.subject for fact in facts}
    changed = {fact.id for fact in facts} | removed
    return [fact for fact in live if fact.subject in subjects and fact.id not in changed | stay]
