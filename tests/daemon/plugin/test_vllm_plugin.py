"""Staging refuses whatever is not exactly the version that was written; no vLLM needed."""

import importlib.util
import json
import shutil
import sys
from unittest.mock import MagicMock

import pytest
import torch
from safetensors.torch import save_file

from daemon.core.publication import BASE_VERSION
from daemon.plugin.staging import Checkpoint, Held, StagingError, admit, stage_version
from editing.errors import DeltaError
from editing.memory.delta import materialise, tensor_sha256, write_tensors

NAME = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture
def store(tmp_path):
    base = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    (tmp_path / "model").mkdir()
    save_file({NAME: base}, tmp_path / "model" / "model.safetensors")
    write(tmp_path, base, torch.ones(6, 2), torch.ones(8, 2))
    return tmp_path


def write(root, base, a, b, **changes):
    directory = root / "versions" / "v000001"
    directory.mkdir(parents=True, exist_ok=True)
    digest = write_tensors(directory / "factors.safetensors", {f"{NAME}/A": a, f"{NAME}/B": b}, {})
    try:
        result = tensor_sha256(materialise(base, a, b))
    except DeltaError:  # a hostile version: its factors do not fit or are not finite
        result = "0" * 64
    entry = {
        "shape": list(base.shape),
        "dtype": "float32",
        "base_sha256": tensor_sha256(base),
        "sha256": result,
    }
    manifest = {
        "schema": 1, "version": "v000001", "parent": "v000000", "base_hash": "b", "tensors": {NAME: entry},
        "files": {"factors.safetensors": digest}, "fence": 3,
        "snapshot": False, "facts_added": [], "facts_removed": [],
    }  # fmt: skip
    (directory / "manifest.json").write_text(json.dumps(manifest | changes))


def stage(store, version="v000001", base_hash="b", dtype=torch.bfloat16, held=None):
    manifest = admit(store, version, 3, base_hash, set())
    return stage_version(store, manifest, Checkpoint(store / "model"), dtype, held)


def test_a_sound_version_is_cast_to_the_served_dtype(store):
    staged = stage(store)
    base = Checkpoint(store / "model").read(NAME)
    assert torch.equal(staged.tensors[NAME], (base.double() + 2).float().bfloat16())
    assert list(staged.sha256) == [NAME]


def test_the_base_version_needs_no_directory(store):
    assert stage(store, BASE_VERSION).tensors == {}


@pytest.mark.parametrize("version", ["../v000001", "v1", "v0000001", "", "v000001/", "v000001\n"])
def test_ids_that_are_not_version_ids_are_refused(store, version):
    with pytest.raises(StagingError) as error:
        stage(store, version)
    assert error.value.code == "refused"


def test_a_missing_version_is_named_so(store):
    with pytest.raises(StagingError) as error:
        stage(store, "v000002")
    assert error.value.code == "missing"


def test_another_base_model_is_refused(store):
    with pytest.raises(StagingError, match="made for base"):
        stage(store, base_hash="other")


@pytest.mark.parametrize(
    "changes",
    [{"schema": 3}, {"version": "v000009"}, {"tensors": []}, {"tensors": {NAME: {}}},
     {"tensors": {NAME: None}},
     {"tensors": {}}, {"files": {}}, {"files": {"factors.safetensors": "0" * 64}}],
)  # fmt: skip
def test_a_malformed_manifest_is_refused(store, changes):
    base = Checkpoint(store / "model").read(NAME)
    write(store, base, torch.ones(6, 2), torch.ones(8, 2), **changes)
    with pytest.raises(StagingError):
        stage(store)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(store, value):
    base = Checkpoint(store / "model").read(NAME)
    write(store, base, torch.full((6, 2), value), torch.ones(8, 2))
    with pytest.raises(StagingError):
        stage(store)


def with_whole(store, weight):
    """v000001 with its weight sent whole, and factors that lead elsewhere."""
    base = Checkpoint(store / "model").read(NAME)
    master = materialise(base, torch.ones(6, 2), torch.ones(8, 2))
    directory = store / "versions" / "v000001"
    files = {
        "factors.safetensors": write_tensors(
            directory / "factors.safetensors", {f"{NAME}/{part}": torch.zeros(n, 1) for part, n in
                                                (("A", 6), ("B", 8))}, {}
        ),
        "weights.safetensors": write_tensors(directory / "weights.safetensors", weight, {}),
    }  # fmt: skip
    manifest = json.loads((directory / "manifest.json").read_text()) | {"files": files}
    manifest["tensors"][NAME]["sha256"] = tensor_sha256(master)
    (directory / "manifest.json").write_text(json.dumps(manifest))


def test_a_weight_sent_whole_is_served_bit_for_bit_whatever_the_factors_give(store):
    master = materialise(Checkpoint(store / "model").read(NAME), torch.ones(6, 2), torch.ones(8, 2))
    with_whole(store, {NAME: master})
    assert torch.equal(stage(store, dtype=torch.float32).tensors[NAME], master)


@pytest.mark.parametrize("change", ["one bit", "another name", "another shape"])
def test_a_whole_weight_that_is_not_the_manifests_is_refused(store, change):
    master = materialise(Checkpoint(store / "model").read(NAME), torch.ones(6, 2), torch.ones(8, 2))
    weights = {NAME: master + 1e-6} if change == "one bit" else {NAME: master, "other": master.clone()}
    with_whole(store, {NAME: master[:3].clone()} if change == "another shape" else weights)
    with pytest.raises(StagingError) as error:
        stage(store)
    assert error.value.code == "refused"


def test_the_served_weight_is_within_one_unit_of_the_master_and_the_same_each_time(store):
    base = Checkpoint(store / "model").read(NAME)
    a, b = (torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (6, 8))
    write(store, base, a, b)
    exact = base.double() + a.double() @ b.double().T
    first, again = stage(store).tensors[NAME], stage(store).tensors[NAME]
    assert torch.equal(first, again)
    unit = torch.finfo(torch.bfloat16).eps * exact.abs()
    assert bool(((first.double() - exact).abs() <= unit).all())


def test_overflow_in_the_served_dtype_is_refused(store):
    base = Checkpoint(store / "model").read(NAME)
    write(store, base, torch.full((6, 2), 1e5), torch.ones(8, 2))
    stage(store, dtype=torch.bfloat16)
    with pytest.raises(StagingError, match="not finite as"):
        stage(store, dtype=torch.float16)


def test_symbolic_links_are_refused(store):
    (store / "versions" / "v000002").symlink_to(store / "versions" / "v000001")
    with pytest.raises(StagingError, match="symbolic link"):
        stage(store, "v000002")
    manifest = store / "versions" / "v000001" / "manifest.json"
    manifest.rename(store / "elsewhere.json")
    manifest.symlink_to(store / "elsewhere.json")
    with pytest.raises(StagingError, match="symbolic link"):
        stage(store)


def grown(store, added=None, **changes):
    """v000002: v000001 and a column, with a file of that column alone; or with these tensors in it."""
    directory, earlier = store / "versions" / "v000002", store / "versions" / "v000001"
    directory.mkdir()
    base = Checkpoint(store / "model").read(NAME)
    a, b = (torch.cat([torch.ones(n, 2), torch.full((n, 1), 0.3)], dim=1) for n in (6, 8))
    added = added or {f"{NAME}/A": a[:, 2:], f"{NAME}/B": b[:, 2:]}
    files = {
        "factors.safetensors": write_tensors(
            directory / "factors.safetensors", {f"{NAME}/A": a, f"{NAME}/B": b}, {}
        ),
        "added.safetensors": write_tensors(directory / "added.safetensors", added, {}),
    }
    parent = json.loads((earlier / "manifest.json").read_text())
    manifest = parent | {"version": "v000002", "parent": "v000001", "files": files}
    manifest["tensors"][NAME]["sha256"] = tensor_sha256(materialise(base, a, b))
    manifest |= {"grown_from": parent["files"]["factors.safetensors"]} | changes
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def test_of_a_version_that_grew_only_the_new_columns_are_read_and_the_weight_is_the_same_bits(store):
    directory, held = grown(store), Held()
    whole = stage(store, "v000002").tensors[NAME]
    stage(store, held=held)
    (directory / "factors.safetensors").unlink()
    (store / "versions" / "v000001" / "factors.safetensors").unlink()
    assert torch.equal(stage(store, "v000002", held=held).tensors[NAME], whole)
    with pytest.raises(StagingError, match="No such file"):
        stage(store, "v000002")  # a server that holds nothing


@pytest.mark.parametrize("changes", [{"grown_from": "0" * 64}, {"grown_from": None}, {"grown_from": 7}])
def test_of_a_version_that_grew_from_others_than_are_held_all_columns_are_read(store, changes):
    (grown(store, **changes) / "added.safetensors").write_bytes(b"not needed")
    whole = stage(store, "v000002").tensors[NAME]
    held = Held()
    stage(store, held=held)
    assert torch.equal(stage(store, "v000002", held=held).tensors[NAME], whole)


@pytest.mark.parametrize(
    "fault", ["damaged", "missing", "link", "other column", "other tensor", "other shape"]
)
def test_added_columns_that_are_not_the_versions_are_refused_and_those_held_stay(store, fault):
    sound = {f"{NAME}/A": torch.full((6, 1), 0.3), f"{NAME}/B": torch.full((8, 1), 0.3)}
    added = {
        "other column": sound | {f"{NAME}/A": torch.full((6, 1), 0.4)},
        "other tensor": sound | {"other/A": torch.ones(6, 1)},
        "other shape": sound | {f"{NAME}/A": torch.full((5, 1), 0.3)},
    }
    path, held = grown(store, added.get(fault)) / "added.safetensors", Held()
    if fault == "damaged":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    elif fault in ("missing", "link"):
        path.rename(store / "elsewhere")
    if fault == "link":
        path.symlink_to(store / "elsewhere")
    stage(store, held=held)
    before = held.sha256, held.factors
    with pytest.raises(StagingError) as error:
        stage(store, "v000002", held=held)
    assert error.value.code == "refused"
    assert (held.sha256, held.factors) == before


def child(store, version, **changes):
    """A copy of v000001 under another id."""
    directory = store / "versions" / version
    shutil.copytree(store / "versions" / "v000001", directory)
    manifest = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps(manifest | {"version": version} | changes))


def test_a_version_is_admitted_with_all_its_ancestors_and_each_is_read_once(store):
    child(store, "v000002", parent="v000001", fence=4)
    child(store, "v000004", parent="v000002", fence=4)
    sound = set()
    assert admit(store, "v000004", 5, "b", sound)["version"] == "v000004"
    assert sound == {"v000001", "v000002", "v000004"}
    shutil.rmtree(store / "versions" / "v000001")
    assert admit(store, "v000002", 5, "b", sound)["parent"] == "v000001"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parent": "v000002"}, "not older"),
        ({"parent": "v000003"}, "not older"),
        ({"parent": "../../v000001"}, "not older"),
        ({"parent": "v00000x"}, "not older"),
        ({"parent": "v0000011"}, "not a version id"),
        ({"parent": 7}, "parent is 7; it must be"),
        ({"parent": "v000001", "fence": 2}, "had lost the lease"),
        ({"parent": "v000001", "fence": None}, "malformed: fence is None"),
        ({"parent": "v000001", "base_hash": "other"}, "made for base"),
    ],
)
def test_a_version_with_a_wrong_parent_or_fence_is_refused(store, changes, message):
    child(store, "v000002", **changes)
    with pytest.raises(StagingError, match=message) as error:
        admit(store, "v000002", 9, None, set())
    assert error.value.code == "refused"


def test_a_missing_ancestor_is_refused(store):
    child(store, "v000002", parent="v000001")
    child(store, "v000003", parent="v000002")
    shutil.rmtree(store / "versions" / "v000001")
    with pytest.raises(StagingError, match="parent of v000002 cannot be used"):
        admit(store, "v000003", 9, "b", set())


def test_a_writer_may_not_publish_what_a_newer_one_wrote(store):
    with pytest.raises(StagingError) as error:
        admit(store, "v000001", 2, "b", set())
    assert error.value.code == "stale_fence"


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("sharded", [False, True])
def test_a_family_that_stores_transposed_is_read_as_the_editor_has_it(tmp_path, short, sharded):
    """GPT-2, whose published checkpoints leave out the prefix of names too; the shape tells nothing."""
    name = "transformer.h.1.mlp.c_proj.weight"
    known, base = name.removeprefix("transformer.") if short else name, torch.randn(6, 6)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    file = "model-00001-of-00001.safetensors" if sharded else "model.safetensors"
    save_file({known: base.T.contiguous()}, tmp_path / file)
    if sharded:
        index = {"weight_map": {known: file}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = Checkpoint(tmp_path)
    assert torch.equal(checkpoint.read(name), base)
    assert torch.equal(checkpoint.family.turned(base), base.T)
    with pytest.raises(StagingError, match=r"has no tensor transformer\.h\.2"):
        checkpoint.read(name.replace("1", "2"))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_codes_in_the_served_checkpoint_are_called_quantised(store, dtype):
    file = store / "model" / "model.safetensors"
    save_file({NAME: Checkpoint(store / "model").read(NAME).to(dtype)}, file)
    with pytest.raises(
        StagingError, match=r"is quantised in the served checkpoint.*serve the float"
    ) as error:
        stage(store)
    assert error.value.code == "refused"


def test_a_weight_that_only_a_quantised_copy_lacks_is_called_quantised(store):
    save_file(
        {NAME.replace("weight", "weight_packed"): torch.ones(6, 1)}, store / "model" / "model.safetensors"
    )
    with pytest.raises(StagingError, match="has no tensor"):
        stage(store)
    config = {"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}}
    (store / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(StagingError, match=r"quantised in the served checkpoint .*pack-quantized"):
        stage(store)


@pytest.fixture
def plugin(monkeypatch):
    """daemon.plugin.worker beside a vLLM that is not there: what is tested here needs nothing of it."""
    names = ("config", "logger", "model_executor.layers.utils", "model_executor.model_loader.reload")
    for name in names:
        monkeypatch.setitem(sys.modules, f"vllm.{name}", MagicMock())
    spec = importlib.util.find_spec("daemon.plugin.worker")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_rank_that_refuses_a_swap_does_not_undo_an_earlier_one(plugin):
    """Ranks are undone together when one of them refuses: the one that did nothing has to stay as it is."""
    rank = object.__new__(plugin._Rank)
    first, second = (plugin.Staged(f"v{n:06d}", {}, {}) for n in (1, 2))
    rank.fence, rank.served, rank.previous, rank.staged, rank.packed = 1, first, None, second, {}
    assert "error" not in rank.swap("v000002", 1)
    assert rank.swap("v000003", 1)["error"]["code"] == "stale_fence"
    rank.undo()
    assert rank.served.version == "v000002"


def test_a_layer_that_is_quantised_in_vllm_is_called_so_and_a_fused_one_fused(plugin):
    rank = object.__new__(plugin._Rank)
    packed, fused, plain = torch.nn.Module(), torch.nn.Module(), torch.nn.Linear(2, 2)
    packed.quant_method = type("GPTQLinearMethod", (), {})()
    rank.modules = {"a.down_proj": packed, "a.gate_up": fused, "a.plain": plain}
    rank.renamed = plugin._renaming(object())
    assert rank._module("a.plain.weight") is plain
    with pytest.raises(StagingError, match=r"quantised in vLLM \(GPTQLinearMethod\)"):
        rank._module("a.down_proj.weight")
    for name in ("a.gate_up.weight", "a.missing.weight", "a.plain.bias"):
        with pytest.raises(StagingError, match="fused or unknown"):
            rank._module(name)


def test_names_go_by_the_served_models_own_mapper_and_what_it_fuses_stays_unknown(plugin):
    class Mapper:
        """vLLM's, of GPT-NeoX: `get_rename_mapper` leaves out what fuses layers."""

        def get_rename_mapper(self):
            return self

        def map_name(self, name):
            return None if name.endswith("inv_freq") else name.replace("gpt_neox.", "model.")

    rank, layer = object.__new__(plugin._Rank), torch.nn.Linear(2, 2)
    rank.modules = {"model.layers.0.dense": layer}
    rank.renamed = plugin._renaming(type("Model", (), {"hf_to_vllm_mapper": Mapper()})())
    assert rank._module("gpt_neox.layers.0.dense.weight") is layer
    for name in ("gpt_neox.layers.0.other.weight", "gpt_neox.inv_freq"):
        with pytest.raises(StagingError, match="fused or unknown"):
            rank._module(name)


def test_a_rank_multiplies_with_its_own_columns(plugin):
    weight = torch.arange(12.0).reshape(2, 6)
    whole = type("Layer", (), {})()
    row = type("Layer", (), {"tp_size": 3, "tp_rank": 1, "input_size_per_partition": 2})()
    column = type("Layer", (), {"tp_size": 3, "tp_rank": 1, "input_size_per_partition": 6})()
    assert torch.equal(plugin._part(whole, weight), weight)
    assert torch.equal(plugin._part(row, weight), weight[:, 2:4])
    assert plugin._part(column, weight) is None
