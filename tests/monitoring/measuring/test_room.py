"""The room that an operator is told of follows from what the editor writes."""

from types import SimpleNamespace

import pytest
import torch

from editing.facts import Fact
from editing.memory.state import EditState
from editing.methods import named
from monitoring.capacity import room
from monitoring.measuring.room import columns_of, room_of


def editor(method="memit-seq", forms=("prompt",), chat=True, columns="each", state=None):
    loaded = SimpleNamespace(ffn_width=1536, chat=SimpleNamespace(exists=chat))
    told = {"method": named(method), "layers": (4, 5, 6, 7, 8), "forms": forms, "loaded": loaded}
    return SimpleNamespace(
        **told, state=state or EditState(), numbers=SimpleNamespace(columns=columns), chats=chat
    )


def test_before_any_fact_each_kind_of_form_is_a_column():
    shipped = ("prompt", "chat", "questions")
    assert columns_of(editor(forms=shipped)) == 3
    # Without a chat template questions are asked as text, and nothing in chat.
    assert columns_of(editor(forms=shipped, chat=False)) == 2
    assert columns_of(editor(forms=shipped, columns="averaged")) == 1


def test_of_live_facts_the_columns_are_counted():
    forms = torch.tensor([[1, 2, 4, 1, 2]])
    facts = tuple(Fact("a", "{} is", target) for target in ("b", "c"))
    assert columns_of(editor(state=EditState(facts, columns={"forms": forms}))) == 2.5


def test_the_room_is_that_of_layers_and_key_directions():
    assert room_of(editor(forms=("prompt", "chat"))) == room(5, 1536, 2.0)


@pytest.mark.parametrize("method", ["memit", "alphaedit", "locft"])
def test_of_methods_that_were_not_measured_nothing_is_told(method):
    assert room_of(editor(method)) is None
