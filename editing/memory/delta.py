"""Low-rank weight changes: materialised bit for bit, hashed, and kept in safetensors files.

A version of a weight is never reached by adding and subtracting deltas (W + Δ − Δ ≠ W in floating
point); it is always computed from the stored base and the version's factors, the same way everywhere.
"""

import hashlib
import os
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from editing.errors import DeltaError
from editing.memory.files import MAX_BYTES, read_regular


@contextmanager
def _one_thread():
    """A matrix product split over threads may sum in another order; one thread always sums alike."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def tensor_sha256(tensor: Tensor) -> str:
    """SHA-256 over dtype, shape and the raw little-endian bytes of `tensor`."""
    flat = tensor.detach().to("cpu").contiguous()
    digest = hashlib.sha256(f"{flat.dtype}|{tuple(flat.shape)}|".encode())
    digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def materialise(base: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """W = W₀ + A Bᵀ, summed in float64 on one CPU thread and rounded once to float32.

    Args:
        base: W₀, [d_out, d_in], any float dtype.
        a: [d_out, n] float32.
        b: [d_in, n] float32.

    Returns:
        float32 [d_out, d_in], the same bits on every call on the same kind of processor.

    Raises:
        DeltaError: the shapes do not fit, or the result is not finite.
    """
    if a.shape[0] != base.shape[0] or b.shape[0] != base.shape[1] or a.shape[1] != b.shape[1]:
        raise DeltaError(
            f"factors {tuple(a.shape)} and {tuple(b.shape)} do not fit a base weight {tuple(base.shape)}; "
            "the version belongs to another model"
        )
    weight = base.detach().to("cpu", torch.float64)
    if a.shape[1]:
        with _one_thread():
            weight = weight + a.to("cpu", torch.float64) @ b.to("cpu", torch.float64).T
    weight = weight.to(torch.float32)
    if not torch.isfinite(weight).all():
        raise DeltaError("the resulting weight holds NaN or infinite values; the version must not be used")
    return weight


def added(factors: Mapping[str, Tensor], earlier: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The columns of `factors` after those of `earlier`; None when it does not begin with these very bits.

    Args:
        factors, earlier: ``"<tensor>/A"`` [d, n] and ``"<tensor>/B"`` [d_in, n] of each edited tensor.
    """
    if factors.keys() != earlier.keys():
        return None
    counts = {name: columns.shape[1] for name, columns in earlier.items()}
    if not all(torch.equal(factors[name][:, : counts[name]], columns) for name, columns in earlier.items()):
        return None
    return {name: columns[:, counts[name] :] for name, columns in factors.items()}


def joined(earlier: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Factors whose last columns are `new`: the inverse of `added`.

    Raises:
        DeltaError: the two are not of the same tensors.
    """
    if earlier.keys() != new.keys():
        raise DeltaError("the added factors are of other tensors than those of the parent")
    try:
        return {name: torch.cat([columns, new[name]], dim=1) for name, columns in earlier.items()}
    except (RuntimeError, IndexError) as error:
        raise DeltaError(f"the added factors do not fit those of the parent: {error}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Writes a safetensors file, forces it to disk, and returns the file's SHA-256."""
    content = save_safetensors(
        {name: t.detach().to("cpu").contiguous() for name, t in tensors.items()}, metadata=dict(metadata)
    )
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Reads a safetensors file of at most `MAX_BYTES` after its SHA-256 was found right.

    Raises:
        DeltaError: see `read_regular`; or its hash differs, or it is not a safetensors file.
    """
    content = read_regular(Path(path), MAX_BYTES)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DeltaError(
            f"{Path(path).name} is damaged: its sha256 is {found[:12]}…, the manifest says {sha256[:12]}…; "
            "restore it from a backup or roll back to another version"
        )
    try:
        return load_safetensors(content)
    except SafetensorError as error:
        raise DeltaError(f"{Path(path).name} is not a safetensors file: {error}") from error
