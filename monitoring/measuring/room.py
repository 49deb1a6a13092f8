"""How many facts a prepared model is expected to hold."""

from editing.editor import Editor
from editing.methods import named
from monitoring.capacity import Room, room

#: The method that the law was measured with.
MEASURED = "memit-seq"


def room_of(editor: Editor) -> Room | None:
    """The estimate for an editor's model; None for a method that no law was measured with."""
    if editor.method is not named(MEASURED):
        return None
    return room(len(editor.layers), editor.loaded.ffn_width, columns_of(editor))


def columns_of(editor: Editor) -> float:
    """Columns a fact: of those that are live, or before there are any, one for each kind of form."""
    if editor.state.facts:
        return editor.state.forms.numel() / len(editor.state.facts)
    kinds = [kind for kind in editor.forms if editor.loaded.chat.exists or kind != "chat"]
    return float(len(kinds)) if editor.numbers.columns == "each" else 1.0
