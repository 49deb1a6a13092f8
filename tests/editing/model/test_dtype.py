"""Which dtype `auto` is."""

import pytest
import torch

from editing.errors import ModelError
from editing.model import dtype as model
from editing.model.dtype import compute_dtype


@pytest.fixture
def seconds(monkeypatch):
    """What a product of each dtype takes, on a clock that nothing else moves."""
    took, now = {}, [0.0]

    def linear(rows, _weight):
        now[0] += took[rows.dtype]

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    monkeypatch.setattr(model.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model._bfloat16_pays.cache_clear()
    yield took
    model._bfloat16_pays.cache_clear()


@pytest.mark.parametrize(
    ("float32", "bfloat16", "chosen"),
    [(2.2, 1.0, torch.bfloat16), (1.4, 1.0, torch.float32), (0.6, 1.0, torch.float32)],
)
def test_auto_is_bfloat16_where_its_products_are_much_faster(seconds, float32, bfloat16, chosen):
    seconds |= {torch.float32: float32, torch.bfloat16: bfloat16}
    assert compute_dtype("auto") == chosen
    # Asked once for all: the dtype of a process does not change with the machine's load.
    seconds[torch.bfloat16] = 100.0 if chosen == torch.bfloat16 else 0.01
    assert compute_dtype("auto") == chosen


def test_auto_is_bfloat16_with_a_gpu(seconds, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compute_dtype("auto") == torch.bfloat16


def test_a_dtype_named_is_taken(seconds):
    assert (compute_dtype("float32"), compute_dtype("bfloat16")) == (torch.float32, torch.bfloat16)
    with pytest.raises(ModelError, match="dtype = 'half': use auto, float32 or bfloat16"):
        compute_dtype("half")
