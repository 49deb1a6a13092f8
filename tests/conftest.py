"""Fixtures shared by all tests. Nothing here needs a network."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_addoption(parser):
    parser.addoption("--screenshots", action="store_true", help="write the status page into docs/images/")


@pytest.fixture(scope="session")
def pictures(request, tmp_path_factory) -> Path:
    """Where screenshots go: a run of the tests leaves the pictures of the documentation alone."""
    if not request.config.getoption("--screenshots"):
        return tmp_path_factory.mktemp("pictures")
    folder = Path(__file__).parents[1] / "docs" / "images"
    folder.mkdir(exist_ok=True)
    return folder
