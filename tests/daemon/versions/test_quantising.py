"""Int8 codes of a checkpoint: near the weights, and what is edited stays as it is."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from daemon.core.errors import ExportError
from daemon.versions.export import export
from daemon.versions.quantising import LARGEST, codes
from daemon.versions.store import Store
from editing.facts import Fact
from editing.model.checkpoint import checkpoint_hash, servable_checkpoint
from editing.model.loaded import outlined_model
from editing.quantised import quantisation_of
from tests.daemon.written import write_version
from tests.tiny_models import save_checkpoint

FACTS = [Fact("the old mill", "The owner of {} is", "Ada", "f1")]
EDITED = ["model.layers.1.mlp.down_proj.weight", "model.layers.2.mlp.down_proj.weight"]


@pytest.fixture
def made(tmp_path):
    """(outline of a tiny Llama, store with v000001, which edits layers 1 and 2)."""
    model = outlined_model(str(save_checkpoint(tmp_path / "model")), tmp_path)
    store = Store(tmp_path / "store")
    write_version(store, model, "v000001", FACTS)
    return model, store


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_times_scales_are_within_half_a_step_of_each_weight(dtype):
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight[2] = 0
    found, scale = codes(weight)
    assert (found.dtype, scale.dtype, scale.shape) == (torch.int8, dtype, (5, 1))
    assert found.abs().max() <= LARGEST
    # A scale rounded to bfloat16 may be too small for the largest weight by its last digit.
    slack = 0.501 if dtype == torch.float32 else 1.0
    assert bool(((found.float() * scale.float() - weight.float()).abs() <= slack * scale.float()).all())
    assert not found[2].any()


def test_all_matrices_but_those_that_are_edited_become_codes(made, tmp_path):
    model, store = made
    about = export(model, store, "v000000", tmp_path / "out", floating=EDITED)
    base, found = (load_file(path / "model.safetensors") for path in (model.path, tmp_path / "out"))
    coded = {name for name, tensor in found.items() if tensor.dtype == torch.int8}
    assert coded == {n for n in base if "_proj" in n and n not in EDITED}
    for name, tensor in base.items():
        if name in coded:
            restored = found[name].float() * found[f"{name}_scale"].float()
            assert (restored - tensor).norm() < 0.01 * tensor.norm()
        else:
            assert torch.equal(found[name], tensor)
    told = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert set(told["ignore"]) == {"lm_head", *(name.removesuffix(".weight") for name in EDITED)}
    assert about["quantised"] is True
    assert about["base_hash"] == checkpoint_hash(model.path)
    assert quantisation_of(tmp_path / "out") == "quantization_config: compressed-tensors, int-quantized"
    assert servable_checkpoint(str(tmp_path / "out"), tmp_path) == tmp_path / "out"


def test_of_a_later_version_the_edited_weights_are_merged_and_in_float(made, tmp_path):
    model, store = made
    export(model, store, "v000001", tmp_path / "float")
    export(model, store, "v000001", tmp_path / "out", floating=[])
    plain, found = (load_file(tmp_path / name / "model.safetensors") for name in ("float", "out"))
    for name in EDITED:
        assert torch.equal(found[name], plain[name])
        assert not torch.equal(found[name], load_file(model.path / "model.safetensors")[name])


def test_the_index_of_a_checkpoint_in_parts_names_the_scales_too(tmp_path):
    path = save_checkpoint(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(path).save_pretrained(path, max_shard_size="100KB")
    os.remove(path / "model.safetensors")
    model = outlined_model(str(path), tmp_path)
    export(model, Store(tmp_path / "store"), "v000000", tmp_path / "out", floating=EDITED)
    told = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    held = {name: file.name for file in (tmp_path / "out").glob("*.safetensors") for name in load_file(file)}
    assert told == held
    assert any(name.endswith("_scale") for name in told)


def test_a_model_that_stores_its_matrices_transposed_is_refused_and_nothing_is_left(tmp_path):
    model = outlined_model(str(save_checkpoint(tmp_path / "model", "gpt2")), tmp_path)
    with pytest.raises(ExportError, match="gpt2 model stores its matrices transposed"):
        export(model, Store(tmp_path / "store"), "v000000", tmp_path / "out", floating=[])
    assert not (tmp_path / "out").exists()
