"""Fixtures shared by all tests. Nothing here needs a network."""

import os
import shutil

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture
def prometheus_binary() -> str:
    """Path of a Prometheus server; skipped where it is missing, but an error when CI is set."""
    found = shutil.which("prometheus")
    if found is None:
        message = "prometheus is not installed (Debian: apt-get install prometheus)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found
