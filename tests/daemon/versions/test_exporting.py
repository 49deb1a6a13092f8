"""A version as a checkpoint: the bits of the editor, and nothing left of an export that was refused."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from daemon.apply.editor import complete_state, tensor_entries
from daemon.core.errors import ExportError, StoreError
from daemon.versions.export import export
from daemon.versions.store import Draft, Store
from editing.editor import Editor
from editing.facts import Fact
from editing.memory.delta import materialise
from editing.methods.published import numbers
from editing.model.loaded import load_model, outlined_model
from editing.values.options import ValueOptions
from tests.daemon.written import write_version
from tests.tiny_models import save_checkpoint

FACTS = [
    Fact("the old mill", "The owner of {} is", "Ada", "f1"),
    Fact("Zoë", "The friend of {} lives in", "Rome", "f2"),
]
LAYERS = (1, 2)


@pytest.fixture
def made(tmp_path):
    """(outline of a tiny Llama, store with v000001)."""
    model = outlined_model(str(save_checkpoint(tmp_path / "model")), tmp_path)
    store = Store(tmp_path / "store")
    write_version(store, model, "v000001", FACTS, measurements={"efficacy_ratio": 1.0})
    return model, store


def loaded(path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(path, dtype="auto").state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_transformers_loads_the_very_weights_of_the_editor(tmp_path):
    checkpoint = save_checkpoint(tmp_path / "model")
    few = replace(numbers("memit-seq", "llama", 32, 64, 8), values=ValueOptions(steps=2))
    editor = Editor.open(
        str(checkpoint), state_dir=tmp_path, dtype="float32", anchor="none", numbers=few, tokens=500
    )
    editor.apply(FACTS)
    store = Store(tmp_path / "store")
    entries = tensor_entries(editor)
    draft = Draft("v000001", "v000000", editor.base_hash, editor.settings_hash, entries, 1, 1000.0)
    store.write(draft, complete_state(editor))
    editor.restore(store.load_state("v000001"))
    edited = {name: weight.clone() for name, weight in editor.model.state_dict().items()}

    about = export(outlined_model(str(checkpoint), tmp_path), store, "v000001", tmp_path / "out")
    assert same(loaded(tmp_path / "out"), edited)
    assert not same(loaded(checkpoint), edited)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("the old mill") == editor.tokenizer("the old mill")
    assert about == json.loads((tmp_path / "out" / "factd.json").read_text())
    assert about["base_hash"] == editor.base_hash
    assert about["tensors"] == editor.weight_hashes()
    assert [fact["id"] for fact in about["corrections"]] == ["f1", "f2"]
    assert about["checkpoint_hash"] == outlined_model(str(tmp_path / "out"), tmp_path).base_hash
    assert "The owner of the old mill is **Ada**" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "phi"])
def test_other_families_have_the_weights_where_their_layout_wants_them(tmp_path, family):
    checkpoint = save_checkpoint(tmp_path / "model", family)
    model, store = load_model(str(checkpoint), tmp_path, "float32"), Store(tmp_path / "store")
    state = write_version(store, model, "v000001", FACTS)
    export(outlined_model(str(checkpoint), tmp_path), store, "v000001", tmp_path / "out")

    for layer, (name, base) in zip(LAYERS, model.base_weights(LAYERS).items(), strict=True):
        model.set_weight(layer, materialise(base, *state.factors[name]))
    assert same(loaded(tmp_path / "out"), model.model.state_dict())


def test_a_checkpoint_in_shards_of_bfloat16_stays_one(tmp_path):
    checkpoint = save_checkpoint(tmp_path / "model")
    whole = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    (checkpoint / "model.safetensors").unlink()
    whole.save_pretrained(checkpoint, max_shard_size="50KB")
    (checkpoint / "pytorch_model.bin").write_bytes(b"the unedited weights")
    model, store = outlined_model(str(checkpoint), tmp_path), Store(tmp_path / "store")
    write_version(store, model, "v000001", FACTS)
    export(model, store, "v000001", tmp_path / "out")

    files = sorted(path.name for path in checkpoint.glob("model*"))
    assert len(files) > 3
    assert sorted(path.name for path in (tmp_path / "out").glob("model*")) == files
    assert not (tmp_path / "out" / "pytorch_model.bin").exists()
    found, base = loaded(tmp_path / "out"), whole.state_dict()
    edited = {name for name in base if not torch.equal(found[name], base[name])}
    assert edited == {model.tensor_name(layer) for layer in LAYERS}
    assert {weight.dtype for weight in found.values()} == {torch.bfloat16}


def test_the_base_is_a_version_too(made, tmp_path):
    model, store = made
    about = export(model, store, "v000000", tmp_path / "out")
    assert same(loaded(tmp_path / "out"), loaded(model.path))
    assert about["checkpoint_hash"] == model.base_hash


def test_a_directory_in_use_is_refused_and_an_empty_one_taken(made, tmp_path):
    model, store = made
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").write_text("precious")
    with pytest.raises(ExportError, match="not empty"):
        export(model, store, "v000001", taken)
    assert [path.name for path in taken.iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    export(model, store, "v000001", tmp_path / "empty")
    assert (tmp_path / "empty" / "factd.json").exists()


@pytest.mark.parametrize("file", ["factors.safetensors", "manifest.json"])
def test_a_damaged_version_leaves_nothing(made, tmp_path, file):
    model, store = made
    path = store.path("v000001") / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(StoreError):
        export(model, store, "v000001", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_version_of_another_base_is_refused(made, tmp_path):
    _, store = made
    other = outlined_model(str(save_checkpoint(tmp_path / "other", initializer_range=0.1)), tmp_path)
    with pytest.raises(StoreError, match="FACTD_MODEL"):
        export(other, store, "v000001", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_that_fails_half_way_leaves_nothing(made, tmp_path, monkeypatch):
    model, store = made
    before = sorted(os.listdir(tmp_path))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        export(model, store, "v000001", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == before
