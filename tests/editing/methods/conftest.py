"""One weight and one second moment, for solvers beside their dense references."""

import pytest
import torch

D, D_IN = 6, 12


@pytest.fixture
def base():
    """W [D, D_IN]."""
    return torch.randn(D, D_IN, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def moment():
    """C [D_IN, D_IN] float64, with eigenvalues over two orders of magnitude."""
    text = torch.randn(D_IN, 200, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    text = text * torch.logspace(0, -1, D_IN, dtype=torch.float64)[:, None]
    return text @ text.T / 200
