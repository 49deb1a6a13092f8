"""Programs that a test needs and that pip cannot install."""

import glob
import os
import shutil

import pytest

#: Debian keeps PostgreSQL's server programs out of the path, a folder for each major version.
POSTGRESQL = os.pathsep.join(sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True))


def program(name: str, package: str = "prometheus") -> str:
    """Path of a program of a Debian package; a test without it is skipped, and fails under CI."""
    found = shutil.which(name) or shutil.which(name, path=POSTGRESQL)
    if found is None:
        reason = f"{name} is not installed (Debian: apt-get install {package})"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found
