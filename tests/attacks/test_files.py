"""Hostile files in the store: refused before a weight is touched, by the server and by the editor."""

import json
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from daemon.core.errors import StoreError
from daemon.plugin.staging import Checkpoint, StagingError, admit, stage_version
from daemon.versions.store import Store
from editing.memory.delta import materialise, tensor_sha256, write_tensors
from tests.attacks.hostile import ATTACKS, FALSE_NAMES, Attack, write_manifest

NAME = "model.layers.0.mlp.down_proj.weight"
FACT = {"id": "a", "subject": "Ada", "prompt": "{} lives in", "target": "Rome"}
#: What refusing may allocate: none of the sizes that the files claim.
MEMORY = 64 << 20


def named(attack: Attack) -> str:
    return attack.__name__


@pytest.fixture
def root(tmp_path) -> Path:
    """A store with one sound version of a model of one weight."""
    base, a, b = torch.ones(6, 8), torch.ones(6, 2), torch.ones(8, 2)
    (tmp_path / "model").mkdir()
    save_file({NAME: base}, tmp_path / "model" / "model.safetensors")
    directory = tmp_path / "versions" / "v000001"
    directory.mkdir(parents=True)
    digest = write_tensors(directory / "factors.safetensors", {f"{NAME}/A": a, f"{NAME}/B": b}, {})
    facts = write_tensors(directory / "facts.safetensors", {"targets/0": torch.ones(6, 1)}, {})
    entry = {"shape": [6, 8], "dtype": "float32", "base_sha256": tensor_sha256(base)}
    entry["sha256"] = tensor_sha256(materialise(base, a, b))
    manifest = {
        "schema": 1, "version": "v000001", "parent": "v000000", "base_hash": "b", "tensors": {NAME: entry},
        "files": {"factors.safetensors": digest, "facts.safetensors": facts}, "fence": 3,
        "snapshot": True, "facts_added": [FACT], "facts_removed": [],
    }  # fmt: skip
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def attacked(root: Path, attack: Attack) -> None:
    directory = root / "versions" / "v000001"
    write_manifest(directory, json.loads((directory / "manifest.json").read_text()), attack)


def staged(root: Path):
    return stage_version(
        root, admit(root, "v000001", 3, "b", set()), Checkpoint(root / "model"), torch.bfloat16
    )


def test_the_version_is_sound_before(root):
    assert staged(root).tensors[NAME].shape == (6, 8)
    assert list(Store(root).load_state("v000001").factors) == [NAME]


@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_the_server_refuses_a_hostile_version(root, attack):
    attacked(root, attack)
    tracemalloc.start()
    try:
        with pytest.raises(StagingError) as refusal:
            staged(root)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert refusal.value.code == "refused"
    # It goes into an HTTP answer and into logs.
    assert str(refusal.value).encode()
    assert not (root / "versions" / "unpickled").exists()


@pytest.mark.parametrize("attack", [each for each in ATTACKS if each not in FALSE_NAMES], ids=named)
def test_the_editor_refuses_a_hostile_version(root, attack):
    attacked(root, attack)
    with pytest.raises(StoreError) as refusal:
        Store(root).load_state("v000001")
    assert str(refusal.value).encode()
    assert not (root / "versions" / "unpickled").exists()
