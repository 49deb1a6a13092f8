"""The one way back to a version: from memory where that suffices, from disk where not, proved either way."""

import pytest

from daemon.core.errors import StoreError
from editing.memory.state import EditState


@pytest.fixture
def live(world):
    """A world with one live version."""
    world.post("A", "B")
    assert world.run().live == "v000001"
    return world


def doubled(state: EditState) -> EditState:
    factors = {name: (2 * a, b) for name, (a, b) in state.factors.items()}
    return EditState(state.facts, factors, state.columns)


def test_after_a_refusal_the_live_weights_are_back_without_reading_a_file(live, monkeypatch):
    read = []
    monkeypatch.setattr(live.store, "load_state", read.append)
    live.post("C", "bad")
    live.run()
    assert live.states()["id-C-bad"] == "rejected"
    assert live.editor.weight_hashes() == live.store.weight_sha256("v000001")
    assert read == []


@pytest.mark.parametrize("target", ["bad", "unwritable", "outlier", "foggy"])
def test_weights_that_came_back_wrong_are_read_from_disk(live, monkeypatch, target):
    restore, apply, found, edited = live.editor.restore, live.editor.apply, [], []

    def wrong_once(state):
        restore(state if found else doubled(state))
        found.append(live.editor.weight_hashes())

    def told(facts, remove=()):
        edited.append(live.editor.weight_hashes())
        return apply(facts, remove)

    monkeypatch.setattr(live.editor, "restore", wrong_once)
    monkeypatch.setattr(live.editor, "apply", told)
    monkeypatch.setattr(live.editor, "state", doubled(live.editor.state))  # a fault left it so
    live.post("C", target)
    live.run()
    wanted = live.store.weight_sha256("v000001")
    assert found[0] != wanted
    assert edited == [wanted]
    assert live.editor.weight_hashes() == wanted


def test_weights_that_come_back_wrong_from_disk_too_stop_the_run(live, monkeypatch):
    restore = live.editor.restore
    monkeypatch.setattr(live.editor, "restore", lambda state: restore(doubled(state)))
    live.post("C", "bad")
    with pytest.raises(StoreError, match="v000001 was rebuilt with other bits"):
        live.run()
    assert live.states()["id-C-bad"] == "staged"  # nothing is told of it that was not proved


def test_facts_written_again_beside_a_new_one_stand_in_another_order_than_in_the_ledger(live, monkeypatch):
    live.post("C", "D")
    live.run()
    apply = live.editor.apply

    def with_the_first_again(facts, remove=()):
        first = live.editor.state.facts[0]
        apply([], remove=[first.id])
        apply([first])
        return apply(facts, remove)

    monkeypatch.setattr(live.editor, "apply", with_the_first_again)
    live.post("E", "F")
    live.run()
    assert live.store.load_state("v000003").ids == ("id-C-D", "id-A-B", "id-E-F")
    assert live.ledger.questions.fact_ids("v000003") == ["id-A-B", "id-C-D", "id-E-F"]
    live.open()
    assert live.run().live == "v000003"
    assert live.editor.weight_hashes() == live.store.weight_sha256("v000003")
