"""What the applier relies on, of the fake editor that most tests use and of the real one alike."""

from collections.abc import Iterator

import pytest
import torch

from daemon.apply.editor import Editor, complete_state, tensor_entries
from daemon.versions.store import Draft, Store
from editing.editor import Editor as RealEditor
from editing.errors import EditError
from editing.facts import Fact
from editing.memory.delta import materialise, tensor_sha256
from editing.memory.state import EditState
from tests.tiny_models import save_checkpoint

MILL = Fact("the old mill", "The owner of {} is", "Ada", "f1")
LAKE = Fact("Blue Lake", "We know that {} lies near", "Oslo", "f2")
ZOE = Fact("Zoë", "The friend of {} lives in", "Rome", "f3")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint, and the folder of its statistics."""
    return save_checkpoint(tmp_path_factory.mktemp("tiny")), tmp_path_factory.mktemp("state")


@pytest.fixture(params=["fake", "real"])
def editor(request, tiny, world_at, tmp_path) -> Iterator[Editor]:
    if request.param == "fake":
        world = world_at(tmp_path)
        yield world.editor
        world.close()
        return
    model, state = tiny
    yield RealEditor.open(str(model), state_dir=state, dtype="float32", method="memit-seq", anchor="none")


def test_it_starts_as_the_base_and_names_its_tensors(editor):
    assert editor.state.ids == ()
    assert set(editor.tensor_names) == set(editor.base_weights()) == set(editor.weight_hashes())
    assert editor.weight_hashes() == {n: tensor_sha256(w) for n, w in editor.base_weights().items()}
    assert len(editor.base_hash) == len(editor.settings_hash) == 64


def test_a_batch_is_written_and_told_in_its_order(editor):
    report = editor.apply([MILL, LAKE])
    assert [(outcome.id, outcome.written, outcome.reason) for outcome in report.outcomes] == [
        ("f1", True, None), ("f2", True, None),
    ]  # fmt: skip
    assert editor.state.ids == ("f1", "f2")
    changed = {
        n for n, sha in editor.weight_hashes().items() if sha != tensor_sha256(editor.base_weights()[n])
    }
    assert changed


def test_the_weights_follow_from_base_and_factors(editor):
    editor.apply([MILL, LAKE])
    for name, (a, b) in editor.state.factors.items():
        assert torch.equal(materialise(editor.base_weights()[name], a, b), editor.weights()[name])


def test_facts_are_removed_and_added_in_one_step_and_a_state_never_changes(editor):
    editor.apply([MILL, LAKE])
    before, ids = editor.state, editor.state.ids
    editor.apply([ZOE], remove=["f1"])
    assert editor.state.ids == ("f2", "f3")
    assert editor.state is not before
    assert before.ids == ids


def test_restoring_a_state_gives_its_very_bits(editor):
    editor.apply([MILL])
    one, hashes = editor.state, editor.weight_hashes()
    editor.apply([LAKE])
    editor.restore(one)
    assert editor.state is one
    assert editor.weight_hashes() == hashes
    editor.restore(EditState())
    assert editor.weight_hashes() == {n: tensor_sha256(w) for n, w in editor.base_weights().items()}


@pytest.mark.parametrize(("facts", "remove"), [([MILL], ()), ([LAKE], ("nobody",))])
def test_what_cannot_be_done_changes_nothing(editor, facts, remove):
    editor.apply([MILL])
    state, hashes = editor.state, editor.weight_hashes()
    with pytest.raises(EditError):
        editor.apply(facts, remove)
    assert editor.state.ids == state.ids
    assert editor.weight_hashes() == hashes


def test_a_compaction_keeps_the_facts(editor):
    editor.apply([MILL])
    editor.apply([LAKE])
    before = editor.state
    editor.compact()
    assert editor.state.ids == ("f1", "f2")
    assert editor.state is not before


def test_what_is_written_down_of_it_leads_back_to_its_bits(editor, tmp_path):
    editor.apply([MILL, LAKE])
    hashes, entries = editor.weight_hashes(), tensor_entries(editor)
    assert {name: entry["sha256"] for name, entry in entries.items()} == hashes
    store = Store(tmp_path / "store")
    draft = Draft("v000001", "v000000", editor.base_hash, editor.settings_hash, entries, 1, 0.0)
    store.write(draft, complete_state(editor))
    editor.restore(EditState())
    editor.restore(store.load_state("v000001"))
    assert editor.weight_hashes() == hashes == store.weight_sha256("v000001")
    assert editor.state.ids == ("f1", "f2")
