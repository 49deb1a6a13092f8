"""A quantised checkpoint is refused by what it is, before anything is loaded."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from editing.errors import ModelError
from editing.model.checkpoint import checkpoint_hash, editable_checkpoint, served_base
from editing.model.loaded import load_model, outlined_model
from editing.quantised import quantisation_of
from tests.tiny_models import save_checkpoint

NAME = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def model(tmp_path):
    return save_checkpoint(tmp_path / "model", num_hidden_layers=2)


def tell(path, name, key, told):
    content = json.loads((path / name).read_text()) if (path / name).exists() else {}
    (path / name).write_text(json.dumps({**content, key: told} if key else told))


def store_as(path, dtype, name=NAME):
    tensors = load_file(path / "model.safetensors")
    tensors[name] = tensors.pop(NAME).clamp(-100, 100).to(dtype)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("file", "key", "told", "found"),
    [
        ("config.json", "quantization_config", {"quant_method": "gptq", "bits": 4}, "gptq, 4 bits"),
        (
            "config.json",
            "quantization_config",
            {"quant_method": "compressed-tensors", "format": "int-quantized"},
            "compressed-tensors, int-quantized",
        ),
        ("config.json", "quantization_config", {"load_in_8bit": True}, "no method named"),
        ("config.json", "text_config", {"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ("hf_quant_config.json", "quantization", {"quant_algo": "FP8"}, "FP8"),
        ("quantize_config.json", None, {"bits": 4, "group_size": 128}, "4 bits"),
    ],
)
def test_what_a_file_says_is_named_with_the_mend(model, tmp_path, file, key, told, found):
    tell(model, file, key, told)
    for opened in (load_model, outlined_model, editable_checkpoint):
        with pytest.raises(ModelError, match=r"is quantised \(.*FACTD_MODEL the float checkpoint") as error:
            opened(str(model), tmp_path)
        assert found in str(error.value)
    assert served_base(model) is None


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_codes_in_the_place_of_weights_are_named(model, tmp_path, dtype):
    store_as(model, dtype)
    with pytest.raises(ModelError, match=rf"{NAME} is stored as (I8|U8|F8_E4M3); .*float checkpoint"):
        load_model(str(model), tmp_path)


def test_packed_codes_under_another_name_are_found(model, tmp_path):
    store_as(model, torch.int32, NAME.replace("weight", "qweight"))
    with pytest.raises(ModelError, match=r"down_proj.qweight is stored as I32"):
        load_model(str(model), tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_floats_are_weights(model, tmp_path, dtype):
    store_as(model, dtype)
    tell(model, "config.json", "quantization_config", None)
    assert quantisation_of(model) is None
    assert load_model(str(model), tmp_path).path == model
    assert served_base(model) == checkpoint_hash(model)
