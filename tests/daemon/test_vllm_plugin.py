"""Staging refuses whatever is not exactly the version that was written; no vLLM needed."""

import json

import pytest
import torch
from safetensors.torch import save_file

from daemon.staging import BASE_VERSION, Checkpoint, StagingError, stage_version
from editing.delta import materialise, tensor_sha256, write_tensors
from editing.errors import DeltaError

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
        "schema": 1, "version": "v000001", "parent": None, "base_hash": "b", "tensors": {NAME: entry},
        "files": {"factors.safetensors": digest},
    }  # fmt: skip
    (directory / "manifest.json").write_text(json.dumps(manifest | changes))


def stage(store, version="v000001", base_hash="b", dtype=torch.bfloat16):
    return stage_version(store, version, Checkpoint(store / "model"), dtype, base_hash)


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
    [{"schema": 2}, {"version": "v000009"}, {"tensors": []}, {"tensors": {NAME: {}}},
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
    with pytest.raises(StagingError, match="regular file"):
        stage(store)
