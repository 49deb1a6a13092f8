"""The dtype of the forward passes."""

import math
import time
from functools import cache

import torch

from editing.errors import ModelError


def compute_dtype(dtype: str) -> torch.dtype:
    """ "auto" is bfloat16 where its matrix products are fast, else float32."""
    if dtype == "auto":
        return torch.bfloat16 if torch.cuda.is_available() or _bfloat16_pays() else torch.float32
    if dtype not in ("float32", "bfloat16"):
        raise ModelError(f"dtype = {dtype!r}: use auto, float32 or bfloat16")
    return getattr(torch, dtype)


@cache
def _bfloat16_pays() -> bool:
    """Whether this processor's products of bfloat16 are at least 1.5 times as fast as those of float32.

    Measured, some 50 ms: processors with the same instructions (AVX512-BF16) had 0.6 and 2.4 times
    (docs/experiments.md). The best of several tries in turn, so that other work does not decide.
    """
    best = {torch.float32: math.inf, torch.bfloat16: math.inf}
    operands = {
        dtype: (torch.ones(256, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)) for dtype in best
    }
    for _ in range(8):
        for dtype, (rows, weight) in operands.items():
            start = time.perf_counter()
            torch.nn.functional.linear(rows, weight)
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best[torch.float32] > 1.5 * best[torch.bfloat16]
