"""The noise outlives a restart, belongs to one base model, and is never a reason to allow anything."""

from dataclasses import replace

import pytest
import torch

from daemon.core.errors import StoreError
from daemon.publish.proving.noise import LEAST, MOST, Noise, NoiseRecord, allowed, allowed_product, within
from editing.memory.products import least, most

SOME = Noise(0.02, 0.1, 0.015)


def test_without_a_measurement_the_most_is_allowed():
    assert allowed(None) == MOST


def test_the_bounds_hold_whatever_was_measured():
    assert allowed(Noise(0, 0, 0)) == LEAST
    assert allowed(Noise(9, 9, 9)) == MOST
    found = allowed(SOME)
    assert (found.passage, found.token, found.typical) == pytest.approx((0.08, 0.3, 0.03))


def test_products_may_differ_by_what_was_measured_and_never_by_more_than_a_kernel_rounds():
    bounds = [
        allowed_product(noise, torch.bfloat16, 400) for noise in (None, SOME, replace(SOME, product=9.0))
    ]
    assert bounds == [most(torch.bfloat16, 400), least(400), most(torch.bfloat16, 400)]
    assert allowed_product(replace(SOME, product=0.001), torch.bfloat16, 400) == pytest.approx(0.004)
    assert allowed_product(None, torch.float32, 400) == least(400)


def test_nan_is_within_nothing():
    assert within(SOME, SOME)
    assert not within(Noise(float("nan"), 0, 0), MOST)


def test_it_is_read_back_for_the_same_base_only(tmp_path):
    path = tmp_path / "state" / "noise.json"
    NoiseRecord(path, "one").keep("a", SOME)
    NoiseRecord(path, "two").keep("a", LEAST)
    assert NoiseRecord(path, "one").noise == {"a": SOME}
    assert NoiseRecord(path, "two").noise == {"a": LEAST}
    assert NoiseRecord(path, "three").noise == {}
    assert [each.name for each in path.parent.iterdir()] == ["noise.json"]


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"b": 1}', '{"b": {"a": {"passage": 1}}}',
     '{"b": {"a": {"passage": NaN, "token": 0, "typical": 0}}}',
     '{"b": {"a": {"passage": -1, "token": 0, "typical": 0}}}'],
)  # fmt: skip
def test_a_damaged_file_is_an_error_with_its_mend(tmp_path, content):
    path = tmp_path / "noise.json"
    path.write_text(content)
    with pytest.raises(StoreError, match="restore it, or remove it"):
        NoiseRecord(path, "b")
