"""Against dense float64."""

import math

import pytest
import torch

from monitoring.measuring.change import (
    Change,
    HeldKeys,
    contact_ratio,
    drift_ratio,
    held_key_measures,
    key_errors,
)
from monitoring.measuring.spectral import spectrum

D_OUT, D_IN, RANK = 24, 60, 6


@pytest.fixture
def base():
    torch.manual_seed(0)
    return torch.randn(D_OUT, D_IN)


@pytest.fixture
def factors():
    torch.manual_seed(1)
    return 0.1 * torch.randn(D_OUT, 3), torch.randn(D_IN, 3)


@pytest.fixture(params=["factors", "dense"])
def change(request, base, factors):
    a, b = factors
    now = (base.double() + a.double() @ b.double().T).float()
    return Change.between(base, now, factors if request.param == "factors" else None)


@pytest.fixture
def exact(factors):
    return factors[0].double() @ factors[1].double().T


def test_the_change_is_taken_by_its_factors_while_they_are_thin(base, factors):
    assert Change.between(base, base, factors).right is not None
    wide = torch.zeros(D_OUT, D_OUT), torch.zeros(D_IN, D_OUT)
    assert Change.between(base, base, wide).right is None


def test_products_norm_and_drift_equal_the_dense_ones(change, base, exact):
    torch.manual_seed(2)
    x, y = torch.randn(D_IN, 5, dtype=torch.float64), torch.randn(D_OUT, 5, dtype=torch.float64)
    assert torch.allclose(change.times(x).double(), exact @ x, atol=1e-5)
    assert torch.allclose(change.transposed_times(y).double(), exact.T @ y, atol=1e-5)
    assert change.norm() == pytest.approx(float(exact.norm()), rel=1e-6)
    expected = float(exact.norm() / base.double().norm())
    assert drift_ratio(change, base) == pytest.approx(expected, rel=1e-6)
    assert drift_ratio(change, float(base.double().norm())) == pytest.approx(expected, rel=1e-6)


def test_contact_equals_the_projectors_written_out(change, base, exact):
    protected = spectrum(base, RANK)
    u, v = protected.left.double(), protected.right.double()
    outside = (torch.eye(D_OUT) - u @ u.T) @ exact @ (torch.eye(D_IN) - v @ v.T)
    expected = float((exact - outside).norm() / exact.norm())
    assert contact_ratio(change, protected) == pytest.approx(expected, rel=1e-5)


def test_a_change_outside_the_protected_subspace_has_no_contact_and_one_inside_has_all(base):
    protected = spectrum(base, RANK)
    inside = Change(protected.left[:, :2], protected.right[:, :2])
    assert contact_ratio(inside, protected) == pytest.approx(1, abs=1e-6)
    other = spectrum(base, RANK + 4)
    outside = Change(other.left[:, RANK:], other.right[:, RANK:])
    assert contact_ratio(outside, protected) == pytest.approx(0, abs=1e-5)
    assert contact_ratio(Change(torch.zeros(D_OUT, 1), torch.zeros(D_IN, 1)), protected) == 0


def test_held_keys_equal_the_dense_traces(change, base, exact):
    torch.manual_seed(3)
    keys = torch.randn(D_IN, 40)
    drift, energy = held_key_measures(change, HeldKeys(keys, base @ keys))
    x, w = keys.double(), base.double()
    moment = x @ x.T / 40
    after = w + exact
    assert drift == pytest.approx(float((exact @ x).norm() ** 2 / (w @ x).norm() ** 2), rel=1e-5)
    trace = torch.trace(after @ moment @ after.T) / torch.trace(w @ moment @ w.T)
    assert energy == pytest.approx(float(trace), rel=1e-5)


def test_key_errors_equal_the_definition(base):
    torch.manual_seed(4)
    keys, values = torch.randn(D_IN, 7), torch.randn(D_OUT, 7)
    w, k, v = base.double(), keys.double(), values.double()
    expected = [float((w @ k[:, i] - v[:, i]).norm() / v[:, i].norm()) for i in range(7)]
    assert key_errors(base, keys, values).tolist() == pytest.approx(expected, rel=1e-5)
    assert key_errors(base, keys, base @ keys).tolist() == pytest.approx([0] * 7, abs=1e-6)


def test_nan_stays_nan(base):
    broken = base.clone()
    broken[0, 0] = math.nan
    change, protected = Change.between(base, broken), spectrum(base, RANK)
    assert math.isnan(drift_ratio(change, base))
    assert math.isnan(contact_ratio(change, protected))
    keys = torch.randn(D_IN, 4)
    assert all(math.isnan(value) for value in held_key_measures(change, HeldKeys(keys, base @ keys)))
