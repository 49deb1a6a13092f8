"""Finds that a checkpoint is quantised: its tensors then hold codes, not weights. Loads no model."""

import json
from pathlib import Path
from typing import Any

from editing.errors import ModelError

#: Number formats whose values are the weights themselves; all others are codes that need a scale.
WEIGHTS = frozenset({"F64", "F32", "F16", "BF16"})
#: What safetensors itself allows.
MAX_HEADER_BYTES = 100_000_000
#: Where the tools that quantise say that they did: file → the key that holds it, None for the whole file.
TOLD_IN = {
    "config.json": "quantization_config",
    "hf_quant_config.json": "quantization",
    "quantize_config.json": None,
    "quant_config.json": None,
}
MEND = (
    "give FACTD_MODEL the float checkpoint that it was made from. A server may still serve a quantised copy: "
    "`factd export v000000 DIR --quantised` makes one that can be edited live (docs/serving.md)"
)


def quantisation_of(path: Path) -> str | None:
    """What a Hugging Face directory says of its quantisation, in short; None where it says nothing."""
    for name, key in TOLD_IN.items():
        if not (path / name).is_file():
            continue
        content: dict[str, Any] = json.loads((path / name).read_text())
        inner: dict[str, Any] = content.get("text_config") or {}
        parts: list[Any] = [content] if key is None else [content.get(key), inner.get(key)]
        for told in parts:
            if told:
                return f"{key or name}: {_method(told)}"
    return None


def _method(told: dict[str, Any]) -> str:
    named = [told.get(name) for name in ("quant_method", "quant_algo", "format")]
    bits = told.get("bits")
    words = [str(name) for name in named if name] + ([f"{bits} bits"] if bits else [])
    return ", ".join(words) or "no method named"


def coded_tensor(path: Path, projection: str) -> tuple[str, str] | None:
    """Name and number format of the first tensor of an FFN output projection that holds codes.

    Args:
        projection: its path in a block, such as ``mlp.down_proj``.
    """
    for file in sorted(path.glob("*.safetensors")):
        for name, kind in sorted(_formats(file).items()):
            if f".{projection}." in name and kind not in WEIGHTS:
                return name, kind
    return None


def _formats(file: Path) -> dict[str, str]:
    """Tensor name → number format, from the header of a safetensors file; none where it has no header."""
    try:
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > MAX_HEADER_BYTES:
                return {}
            header: dict[str, Any] = json.loads(opened.read(length))
        return {name: str(entry["dtype"]) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # it is damaged, which whoever loads it says


def refuse_quantised(path: Path, projection: str) -> None:
    """Raises ModelError when the weights that would be edited are not there as numbers."""
    told = quantisation_of(path)
    if told is not None:
        raise ModelError(f"{path.name} is quantised ({told}), so it cannot be edited; {MEND}")
    coded = coded_tensor(path, projection)
    if coded is not None:
        name, kind = coded
        raise ModelError(f"{path.name} is quantised: {name} is stored as {kind}; {MEND}")
