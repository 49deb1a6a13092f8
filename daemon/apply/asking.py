"""In which forms corrections are written, asked and judged."""

from collections.abc import Mapping, Sequence

from daemon.apply.editor import Editor
from daemon.core.asks import PROMPT, Ask
from daemon.core.settings import Settings
from daemon.ledger.rows import CorrectionRow
from editing.facts import SLOT, Fact
from editing.forms import Form, Kind, chosen_forms
from editing.said import said
from monitoring.measurements import Case, CaseForm


def asking_of(settings: Settings, editor: Editor) -> "Asking":
    return Asking(editor.forms, settings.require_forms, editor.chats)


class Asking:
    """Turns a correction into what the editor writes, what monitoring judges, and what replicas are asked.

    Args:
        kinds: of the forms that a fact is written for.
        required: of those that a fact must be said in to go live.
        chats: whether the model has a chat template.
    """

    def __init__(self, kinds: Sequence[Kind], required: Sequence[Kind], chats: bool) -> None:
        self.kinds, self.required, self.chats = tuple(kinds), frozenset(required), chats

    def fact(self, row: CorrectionRow) -> Fact:
        """What the editor writes."""
        wanted = {"paraphrases", "chat paraphrases"} & set(self.kinds)
        # A paraphrase may be any text that the target continues. Only one with a slot is a form.
        paraphrases = tuple(text for text in row.paraphrases if wanted and text.count(SLOT) == 1)
        return Fact(row.subject, row.prompt, row.target, row.id, row.questions, paraphrases)

    def forms(self, row: CorrectionRow) -> tuple[Form, ...]:
        """The forms that the correction is written for, the bare prompt first."""
        return chosen_forms(self.fact(row), self.kinds, self.chats)

    def asks(self, rows: Sequence[CorrectionRow]) -> list[Ask]:
        """What a replica is asked: the bare prompt, and each form in chat."""
        return [
            Ask(row.id, form.name, form.text.replace(SLOT, row.subject), form.chat)
            for row in rows
            for form in self.forms(row)
            if form.chat or form.name == PROMPT
        ]

    def unasked(self, rows: Sequence[CorrectionRow]) -> list[Ask]:
        """What was not asked before these corrections."""
        by_id = {row.id: row for row in rows}

        def known(ask: Ask) -> bool:
            row = by_id[ask.id]
            if ask.form == PROMPT:
                return row.before is not None
            told = row.answers.get(ask.form)
            return told is not None and told["asked"] == ask.text and "before" in told

        return [ask for ask in self.asks(rows) if not known(ask)]

    def lost(self, rows: Sequence[CorrectionRow], told: Mapping[Ask, str]) -> dict[str, dict[str, str]]:
        """Of each correction what a replica answers in the forms that it must be said in and is not.

        The gate asks the model in memory. A replica rounds otherwise, and a near tie may fall the other way.
        """
        found: dict[str, dict[str, str]] = {row.id: {} for row in rows}
        required = {(row.id, form.name) for row in rows for form in self.case(row).forms if form.required}
        targets = {row.id: row.target for row in rows}
        for ask, answer in told.items():
            if (ask.id, ask.form) in required and not said(answer, targets[ask.id]):
                found[ask.id][ask.form] = answer
        return found

    def case(self, row: CorrectionRow) -> Case:
        """A correction as monitoring asks about it; paraphrases and neighbours may hold the slot."""

        def fill(text: str) -> str:
            return text.replace(SLOT, row.subject)

        forms = tuple(
            CaseForm(form.name, fill(form.text), form.chat, form.kind in self.required)
            for form in self.forms(row)
        )
        paraphrases = tuple(fill(text) for text in row.paraphrases)
        neighbours = tuple((fill(n["prompt"]), n["answer"]) for n in row.neighbours)
        return Case(row.id, row.text, row.target, row.was, paraphrases, neighbours, forms, row.subject)

    def earlier(self, row: CorrectionRow) -> Case:
        """A live fact as it is asked again: in the forms that it must be said in and was said in.

        A fact that went live before there were forms has no column for them.
        """
        case = self.case(row)
        kept = tuple(form for form in case.forms if form.required and _was_said(row, form))
        return Case(row.id, row.text, row.target, forms=kept, subject=row.subject)


def _was_said(row: CorrectionRow, form: CaseForm) -> bool:
    if form.name == PROMPT:
        return True
    told = row.answers.get(form.name)
    after = told.get("after") if told is not None else None
    return after is not None and said(after, row.target)
