"""Programs that a test needs and that pip cannot install."""

import os
import shutil

import pytest


def program(name: str, package: str = "prometheus") -> str:
    """Path of a program of a Debian package; a test without it is skipped, and fails under CI."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        reason = f"{name} is not installed (Debian: apt-get install {package})"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found
