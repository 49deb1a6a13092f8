"""What the served model said about corrections, before them and after, in each form that was asked."""

from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, update

from daemon.core.asks import PROMPT, Ask
from daemon.ledger.reading import rows_of
from daemon.ledger.rows import FormAnswer
from daemon.ledger.tables import corrections

When = Literal["before", "after"]
#: id → name of a form that is lost → what was said there instead
Lost = Mapping[str, Mapping[str, str]]


def keep_answers(c: Connection, when: When, told: Mapping[Ask, str]) -> None:
    """Stores answers; those of other forms and of the other time stay."""
    kept = {id: dict(row.answers) for id, row in rows_of(c, sorted({ask.id for ask in told})).items()}
    bare: dict[str, str] = {}
    for ask, text in told.items():
        if ask.form == PROMPT:
            bare[ask.id] = text
            continue
        # A form that now asks with other words has no older answer.
        old = kept[ask.id].get(ask.form)
        answer = FormAnswer(asked=ask.text) if old is None or old["asked"] != ask.text else old.copy()
        answer[when] = text
        kept[ask.id][ask.form] = answer
    _set(c, when, bare)
    _set(c, "answers", {ask.id: kept[ask.id] for ask in told if ask.form != PROMPT})


def keep_lost(c: Connection, found: Lost) -> None:
    """Stores of facts that were asked again what they said in the forms that are lost; {}: all are said."""
    _set(c, "lost", {id: dict(forms) or None for id, forms in found.items()})


def _set(c: Connection, column: str, values: Mapping[str, Any]) -> None:
    if values:
        mine = update(corrections).where(corrections.c.id == bindparam("its_id"))
        rows = [{"its_id": id, "its_value": value} for id, value in values.items()]
        c.execute(mine.values({column: bindparam("its_value", type_=corrections.c[column].type)}), rows)
