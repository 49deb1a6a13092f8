"""How a version is told: as its parent, less some facts, plus some; its factors whole, and the new ones."""

import torch

from daemon.versions.store import _grown_from
from editing.facts import Fact
from editing.memory.delta import joined, read_tensors
from editing.memory.state import EditState

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
