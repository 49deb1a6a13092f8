"""How a version is told: as its parent, less some facts, plus some; its factors whole, and the new ones."""

import torch

from daemon.versions.store import Draft, Store, _grown_from
from editing.facts import Fact
from editing.memory.delta import joined, read_tensors
from editing.memory.state import FORMS, EditState

ONE = EditState((Fact("a b", "The {} is", "c", "f1"),), columns={"w/keys": torch.ones(3, 1)})


def test_the_last_fact_taken_out_leaves_a_table_that_can_be_written():
    assert _grown_from(ONE.without(["f1"]), EditState()) == 0
    assert _grown_from(ONE.without(["f1"]), ONE) == 0


def test_columns_that_changed_make_a_snapshot():
    changed = EditState(ONE.facts, columns={"w/keys": torch.zeros(3, 1)})
    assert _grown_from(ONE, ONE) == 1
    assert _grown_from(ONE, changed) is None


def test_a_version_that_grew_by_columns_has_them_in_a_file_of_their_own(world):
    files = {}
    for subject in "ABC":
        world.post(subject, "fine")
        world.run()
    world.ledger.intake.request("retract", "id-A-fine", actor="operator")
    world.run()
    for version in world.store.ids():
        manifest = world.store.verify(version)
        names = ["factors.safetensors", "added.safetensors"]
        held = {name: manifest["files"][name] for name in names if name in manifest["files"]}
        path = world.store.path(version)
        files[version] = manifest["grown_from"], {n: read_tensors(path / n, held[n]) for n in held}
    assert [len(found) for _, found in files.values()] == [1, 2, 2, 1]  # taking a fact out rewrites all
    for earlier, version in (("v000001", "v000002"), ("v000002", "v000003")):
        grown_from, found = files[version]
        assert grown_from == world.store.manifest(earlier)["files"]["factors.safetensors"]
        whole = found["factors.safetensors"]
        again = joined(files[earlier][1]["factors.safetensors"], found["added.safetensors"])
        assert whole.keys() == again.keys()
        assert all(torch.equal(whole[name], again[name]) for name in whole)
        assert {columns.shape[1] for columns in found["added.safetensors"].values()} == {1}


def test_facts_with_several_columns_are_written_and_read_back(tmp_path):
    store, state = Store(tmp_path), EditState()
    asked = Fact("a b", "The {} is", "c", "f1", ("Which is {}?",), ("{} is",))
    batches = [
        ([Fact("x y", "The {} was", "z", "f0")], {"w/keys": torch.randn(3, 1)}),
        ([asked], {"w/keys": torch.randn(3, 3), FORMS: torch.tensor([[1, 2, 4]])}),
        ([Fact("u", "The {} was", "v", "f2")], {"w/keys": torch.randn(3, 1)}),
    ]
    states = []
    for number, (facts, columns) in enumerate(batches, 1):
        state = state.with_columns(facts, columns)
        state = EditState(state.facts, {"w": (torch.ones(2, 1), torch.ones(3, 1))}, state.columns)
        parent = f"v{number - 1:06d}"
        store.write(Draft(f"v{number:06d}", parent, "b", "s", {"w": {"sha256": "0"}}, 1, 1.0), state)
        states.append(state)
    # The first has no word of forms, the second tells all again, the third grows by a column.
    assert [store.manifest(f"v{n:06d}")["snapshot"] for n in (1, 2, 3)] == [False, True, False]
    # An older factd reads what has one column a fact, and refuses what it would read wrongly.
    assert [store.manifest(f"v{n:06d}")["schema"] for n in (1, 2, 3)] == [1, 2, 2]
    for number, state in enumerate(states, 1):
        found = store.load_state(f"v{number:06d}")
        assert found.facts == state.facts
        assert found.columns.keys() == state.columns.keys()
        assert all(torch.equal(x, found.columns[name]) for name, x in state.columns.items())
    assert "questions" not in store.manifest("v000001")["facts_added"][0]
    gone = states[2].without(["f1"])
    gone = EditState(gone.facts, states[2].factors, gone.columns)
    manifest = store.write(Draft("v000004", "v000003", "b", "s", {"w": {"sha256": "0"}}, 1, 1.0), gone)
    assert (manifest["facts_removed"], manifest["facts_added"]) == (["f1"], [])
    assert store.load_state("v000004").columns["w/keys"].equal(gone.columns["w/keys"])


def test_columns_that_are_not_those_of_the_facts_are_refused():
    one = (Fact("a b", "The {} is", "c", "f1"),)
    for forms in ([[1, 1]], [[2, 1]], [[2]], [[1, 0]], [[1.0]], [1]):
        table = torch.tensor(forms)
        width = table.shape[-1]
        assert not EditState(one, columns={"w/keys": torch.ones(3, width), FORMS: table}).fits
    assert EditState(one, columns={"w/keys": torch.ones(3, 2), FORMS: torch.tensor([[1, 2]])}).fits
    assert not EditState(one, columns={"w/keys": torch.ones(3, 2)}).fits
    assert not EditState(one, columns={"w/keys": torch.ones(3, 1), FORMS: torch.tensor([[1, 2]])}).fits
