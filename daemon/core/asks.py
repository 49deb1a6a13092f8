"""A question to a replica: one correction in one form."""

from dataclasses import dataclass

#: name of the bare prompt among the forms
PROMPT = "prompt"


@dataclass(frozen=True)
class Ask:
    """What a replica is asked about a correction.

    Attributes:
        id: the correction's id.
        form: name of the form, see `editing.forms.Form`.
        text: with the subject filled in.
        chat: whether it is sent as a chat message; otherwise the model goes on with it.
    """

    id: str
    form: str
    text: str
    chat: bool
