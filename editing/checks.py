"""What is refused before anything is computed."""

from collections.abc import Sequence
from typing import get_args

from editing.errors import EditError, FactError, OptionError
from editing.facts import Fact
from editing.forms import PROMPT_ONLY, Columns
from editing.methods.method import Method
from editing.model.loaded import LoadedModel
from editing.values.options import Ends, ValueOptions


def check_recorded(method: Method, operation: str) -> None:
    """Raises EditError where the method keeps no keys and values."""
    if method.tuned and not method.whole:
        raise EditError(
            f"cannot {operation}: a method that tunes weights records no keys and values of its facts; "
            "restore an earlier version, or open the editor with another method, such as memit-seq"
        )


def check_facts(
    ids: Sequence[str],
    facts: Sequence[Fact],
    remove: Sequence[str],
    loaded: LoadedModel,
    contexts: Sequence[str],
) -> None:
    """Raises EditError or FactError unless `facts` can join the live ids and `remove` can leave them."""
    live = set(ids)
    for id in remove:
        if id not in live:
            raise EditError(f"no live fact has id {id!r}; see editor.state.ids")
    seen = live - set(remove)
    for fact in facts:
        if fact.id in seen:
            raise FactError("id", fact.id, "it is live already or twice in the batch; use another id")
        seen.add(fact.id)
        for context in contexts:
            loaded.encode(fact, context)


def check_forms(method: str, tuned: bool, values: ValueOptions, columns: str) -> None:
    """Raises OptionError where a choice about forms is unknown or does not combine with the method."""
    for option, value, known in (
        ("columns", columns, get_args(Columns)),
        ("ends", values.ends, get_args(Ends)),
    ):
        if value not in known:
            raise OptionError(f"{option} = {value!r}: use {', '.join(known)}")
    if tuned and values.forms != PROMPT_ONLY:
        raise OptionError(
            f"forms = {values.forms!r} does not combine with method = {method!r}, which has no values; "
            "leave forms out, or use another method, such as memit-seq"
        )
