"""What torch and safetensors ship without types, with types: other files need not spare strict checking."""

# torch's stubs leave torch.linalg, torch.special, Tensor.norm, Tensor.split and Tensor.tolist untyped;
# safetensors' leave out what `safe_open` gives.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

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


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U [m, r], singular values [r], descending, and Vᵀ [r, n] with r = min(m, n)."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left, values, right


def qr(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Q with orthonormal columns and R, upper triangular."""
    q, r = torch.linalg.qr(matrix)
    return q, r


def cholesky(symmetric: Tensor) -> tuple[Tensor, int]:
    """The lower factor, and 0; else the leading minor that is not positive definite."""
    factor, info = torch.linalg.cholesky_ex(symmetric)
    return factor, int(info)


def solve_lower(factor: Tensor, right: Tensor) -> Tensor:
    """X of factor · X = right, for a lower triangular factor."""
    return torch.linalg.solve_triangular(factor, right, upper=False)


def orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis of the columns' span: Q of their QR decomposition."""
    return torch.linalg.qr(columns).Q


def norms(matrix: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """Euclidean norms along `dim`."""
    return torch.linalg.vector_norm(matrix, dim=dim, keepdim=keepdim)


def length(values: Tensor) -> Tensor:
    """Euclidean norm over all entries, a number in their dtype."""
    return torch.linalg.vector_norm(values)


def inverse(matrix: Tensor) -> Tensor:
    return torch.linalg.inv(matrix)


def pseudo_inverse(matrix: Tensor, cut: float) -> Tensor:
    """Singular values below this share of the largest one count as none."""
    return torch.linalg.pinv(matrix, rtol=cut)


def largest_singular_value(matrix: Tensor) -> float:
    """‖M‖₂."""
    return float(torch.linalg.matrix_norm(matrix, 2))


def frobenius(matrix: Tensor) -> float:
    """‖M‖_F, accumulated in float64."""
    return float(torch.linalg.vector_norm(matrix, dtype=torch.float64))


def entropy(shares: Tensor) -> Tensor:
    """−Σ p ln p, with 0 ln 0 = 0."""
    return torch.special.entr(shares).sum()


def parts(values: Tensor, sizes: int | list[int], dim: int = 0) -> list[Tensor]:
    """`values` in pieces of a size, or of these sizes, along `dim`."""
    return list(values.split(sizes, dim))


def run_lengths(values: Tensor) -> list[int]:
    """How many equal values stand one behind the other, in order."""
    return values.unique_consecutive(return_counts=True)[1].tolist()


def entries(values: Tensor) -> list[Any]:
    """A vector's entries as Python numbers."""
    return values.tolist()


def whole_numbers(values: Tensor) -> list[int]:
    """The same of a vector of whole numbers."""
    return values.tolist()


def applied(function: type[torch.autograd.Function], *arguments: object) -> Tensor:
    """What a function with a backward pass of its own gives."""
    return function.apply(*arguments)


def backward(loss: Tensor) -> None:
    """Adds the gradient of a number to the `grad` of what it was computed from."""
    loss.backward()


def step(optimiser: torch.optim.Optimizer) -> None:
    """One step along the gradients."""
    optimiser.step()


class TensorFile(Protocol):
    """A safetensors file that is open: tensors are read when they are asked for."""

    def keys(self) -> list[str]: ...

    def get_tensor(self, name: str) -> Tensor: ...

    def metadata(self) -> dict[str, str] | None: ...


@contextmanager
def opened(path: Path) -> Generator[TensorFile]:
    with safe_open(path, "pt") as file:
        yield file


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, str] | None = None) -> None:
    """Writes a safetensors file."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, about or None)


def load_tensors(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and what is written about them."""
    with safe_open(path, "pt", device=device) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
