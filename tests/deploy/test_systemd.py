"""The systemd units: systemd itself reads and rates them; commands and variables are the program's."""

import re
import shlex
import subprocess
import sys

import pytest

from tests.deploy.files import DEPLOY, accepted_by_worker, known_variables, parse, variables
from tests.programs import program

UNITS = {path.name: path.read_text() for path in sorted((DEPLOY / "systemd").glob("*.service"))}
INSTANCES = {
    "factd-worker@.service": "apply",
    "factd-serve@.service": "8330",
    "factd-api.service": None,
}
#: `systemd-analyze security` rates from 0 (closed) to 10; its own word for less than 2 is OK
EXPOSURE_LIMIT = 20


@pytest.fixture
def unit(tmp_path, request):
    """A unit as installed, but with a program that exists here; and the target beside it."""
    name = request.param
    text = UNITS[name].replace("/opt/factd/bin/factd", sys.executable)
    instance = INSTANCES[name]
    path = tmp_path / (name.replace("@", f"@{instance}") if instance else name)
    path.write_text(text)
    target = DEPLOY / "systemd" / "factd.target"
    (tmp_path / target.name).write_text(target.read_text())
    return path


def test_every_unit_is_tried():
    assert INSTANCES.keys() == UNITS.keys()


@pytest.mark.parametrize("unit", INSTANCES, indirect=True)
def test_systemd_accepts_the_unit_and_calls_it_closed(unit):
    analyze = program("systemd-analyze", "systemd")
    for command in (
        ["verify", str(unit), str(unit.parent / "factd.target")],
        ["security", "--offline=true", f"--threshold={EXPOSURE_LIMIT}", "--no-pager", str(unit)],
    ):
        done = subprocess.run([analyze, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", INSTANCES)
def test_the_program_accepts_the_command(name, monkeypatch):
    (line,) = re.findall(r"^ExecStart=/opt/factd/bin/factd (.*)$", UNITS[name], re.MULTILINE)
    arguments = shlex.split(line.replace("%i", INSTANCES[name] or ""))
    parse(arguments)
    if arguments[0] == "worker":
        for queue in ("corrections", "apply"):
            assert accepted_by_worker(shlex.split(line.replace("%i", queue)), monkeypatch)


def test_every_variable_is_a_setting_and_no_secret_is_written_down():
    environment = (DEPLOY / "systemd" / "factd.env").read_text()
    for text in (environment, *UNITS.values()):
        assert variables(text) <= known_variables()
    assert not re.search(r"TOKEN|PASSWORD|API_KEY|REDIS_URL|DATABASE_URL", environment)
    assert "EnvironmentFile=/etc/factd/factd.env" in UNITS["factd-api.service"]
    for text in UNITS.values():
        for name, path in re.findall(r"^LoadCredential=(\S+):(\S+)$", text, re.MULTILINE):
            assert path == f"/etc/factd/credentials/{name}"


def test_a_replica_cannot_write_versions():
    assert "ReadOnlyPaths=/var/lib/factd" in UNITS["factd-serve@.service"]
    assert "StateDirectory" not in UNITS["factd-serve@.service"]
