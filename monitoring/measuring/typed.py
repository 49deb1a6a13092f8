"""What torch and safetensors ship without types, with types: strict checking spares this file only."""

# torch's stubs leave torch.linalg, torch.special, Tensor.split and Tensor.tolist untyped; safetensors' leave
# out what `safe_open` gives.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def eigh(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors in columns."""
    values, vectors = torch.linalg.eigh(symmetric)
    return values, vectors


def eigenvalues(symmetric: Tensor) -> Tensor:
    """Ascending."""
    return torch.linalg.eigvalsh(symmetric)


def orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis of the columns' span: Q of their QR decomposition."""
    return torch.linalg.qr(columns).Q


def norms(matrix: Tensor, dim: int) -> Tensor:
    """Euclidean norms along `dim`."""
    return torch.linalg.vector_norm(matrix, dim=dim)


def frobenius(matrix: Tensor) -> float:
    """‖M‖_F, accumulated in float64."""
    return float(torch.linalg.vector_norm(matrix, dtype=torch.float64))


def entropy(shares: Tensor) -> Tensor:
    """−Σ p ln p, with 0 ln 0 = 0."""
    return torch.special.entr(shares).sum()


def parts(values: Tensor, sizes: int | list[int]) -> list[Tensor]:
    """`values` in pieces of a size, or of these sizes, along the first dimension."""
    return list(values.split(sizes))


def numbers(values: Tensor) -> list[Any]:
    """A vector's entries as Python numbers."""
    return values.tolist()


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """Writes a safetensors file."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, about)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and what is written about them."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
