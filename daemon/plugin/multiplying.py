"""What a worker's matrices make of a challenge: multiplied as they are held, packed, sharded or quantised.

A row-parallel layer (down_proj, o_proj) holds a slice of the columns: each rank multiplies its slice of the
vectors, and the ranks' products add up. A column-parallel one holds a slice of the rows: the products stand
side by side. What a rank holds whole it multiplies whole, and each rank must be right by itself.
"""

import base64
from typing import Any, Literal

import torch
from torch import Tensor, nn

from editing.memory.products import signs

Part = Literal["whole", "sum", "rows"]


def answer(module: nn.Module, tensor: str, seed: int, dtype: torch.dtype) -> dict[str, Any]:
    """The products of a layer's own kernel with the signs of a challenge, as JSON takes it.

    Raises:
        ValueError: the layer is no linear one.
    """
    part, columns = _part(module)
    vectors = signs(seed, tensor, columns)
    if part == "sum":
        own = int(getattr(module, "input_size_per_partition"))  # noqa: B009 - vLLM leaves its layers untyped
        vectors = vectors.narrow(1, int(getattr(module, "tp_rank", 0)) * own, own)
    told = _multiply(module, vectors.to(_device(module), dtype))
    content = told.float().cpu().contiguous()
    return {
        "part": part,
        "shape": list(content.shape),
        "products": base64.b64encode(content.numpy().tobytes()).decode(),
    }


def _part(module: nn.Module) -> tuple[Part, int]:
    """Which part of the matrix this rank holds, and how many columns the whole one has."""
    whole = getattr(module, "input_size", None)
    if not isinstance(whole, int) or not hasattr(module, "quant_method"):
        raise ValueError(
            f"{type(module).__name__} is no linear layer of vLLM: it cannot be asked for products"
        )
    if getattr(module, "input_size_per_partition", whole) < whole:
        return "sum", whole
    rows = getattr(module, "output_size", None)
    return ("rows" if getattr(module, "output_size_per_partition", rows) != rows else "whole"), whole


def _device(module: nn.Module) -> torch.device:
    held = next(module.parameters(), None)
    return torch.device("cpu") if held is None else held.device


@torch.inference_mode()
def _multiply(module: nn.Module, vectors: Tensor) -> Tensor:
    """Without the bias, and without the sum over ranks that a step makes."""
    method: Any = module.quant_method
    told = method.apply(module, vectors.contiguous(), None)
    assert isinstance(told, Tensor)
    return told
