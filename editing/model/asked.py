"""Facts as they are asked: their forms as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass

from editing.errors import FactError
from editing.facts import Fact
from editing.forms import PROMPT, Form, Kind, chosen_forms, every_form
from editing.model.loaded import LoadedModel
from editing.model.tokens import Prompt


@dataclass(frozen=True)
class Asked:
    """One form of a fact.

    Attributes:
        prompts: the form behind each context, followed by the target; the first stands alone. Only the bare
            prompt has contexts.
    """

    form: Form
    prompts: tuple[Prompt, ...]


def asked(
    loaded: LoadedModel, fact: Fact, contexts: Sequence[str] = ("",), kinds: Sequence[Kind] = ("prompt",)
) -> list[Asked]:
    """The fact's forms of the given kinds, the bare prompt first. One that cannot be encoded is left out.

    Raises:
        FactError: the bare prompt cannot be encoded.
    """
    forms = chosen_forms(fact, kinds, loaded.chats(kinds))
    placed = [forms[0], *(form for form in forms[1:] if _refusal(loaded, fact, form) is None)]
    return [in_form(loaded, fact, form, contexts) for form in placed]


def left_out(loaded: LoadedModel, fact: Fact, kinds: Sequence[Kind]) -> tuple[tuple[str, str], ...]:
    """Names of the forms that `asked` leaves out, each with the reason."""
    forms = chosen_forms(fact, kinds, loaded.chats(kinds))[1:]
    refused = ((form.name, _refusal(loaded, fact, form)) for form in forms)
    return tuple((name, why) for name, why in refused if why is not None)


def numbered(loaded: LoadedModel, fact: Fact, number: int, contexts: Sequence[str]) -> Asked:
    """The form of a fact that has the number `number`.

    Raises:
        FactError: the fact has no such form any more, or it cannot be encoded.
    """
    forms = every_form(fact)
    if number >= len(forms):
        raise FactError("questions", fact.questions, f"a column was written for form {number}; give it back")
    return in_form(loaded, fact, forms[number], contexts)


def in_form(loaded: LoadedModel, fact: Fact, form: Form, contexts: Sequence[str]) -> Asked:
    """Raises FactError when the form cannot be encoded."""
    behind = contexts if form.number == PROMPT else ("",)
    return Asked(form, tuple(loaded.encode(fact, context, form=form) for context in behind))


def _refusal(loaded: LoadedModel, fact: Fact, form: Form) -> str | None:
    try:
        loaded.encode(fact, form=form)
    except FactError as error:
        return str(error)
    return None
