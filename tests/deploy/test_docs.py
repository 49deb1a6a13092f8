"""docs/deploy.md: its secrets can be made and used, and the files it names are there."""

import re
import subprocess

from daemon.core.settings import load_settings
from tests.deploy.files import COMPOSE, DEPLOY, ROOT, parse

TEXT = (ROOT / "docs" / "deploy.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)


def test_the_secrets_of_the_page_are_those_that_compose_mounts(tmp_path, monkeypatch):
    (script,) = (block for block in BLOCKS if "urandom" in block)
    subprocess.run(["bash", "-euc", f"umask 022; mkdir deploy; {script}"], cwd=tmp_path, check=True)
    made = tmp_path / "deploy" / "secrets"
    assert made.stat().st_mode & 0o777 == 0o700
    wanted = {secret["file"].rpartition("/")[2] for secret in COMPOSE["secrets"].values()}
    assert {path.name for path in made.iterdir()} == wanted
    assert all(path.stat().st_mode & 0o777 == 0o444 for path in made.iterdir())
    assert len({path.read_text() for path in made.iterdir()}) == len(wanted)

    monkeypatch.setenv("FACTD_SECRETS_DIR", str(made))
    settings = load_settings()
    assert settings.redis_url.endswith("@valkey:6379/0")
    assert settings.ledger_url.endswith("@postgres:5432/factd")
    assert (made / "valkey.conf").read_text().split()[1] in settings.redis_url
    assert (made / "postgres_password").read_text() in settings.ledger_url
    for token in (settings.admin_token, settings.submit_token, settings.serving_api_key):
        assert token is not None
        assert len(token.get_secret_value()) == 48


def test_the_page_names_files_targets_and_commands_that_exist():
    for path in re.findall(r"\bdeploy/[a-z/_.-]+[a-z]", " ".join(BLOCKS)):
        assert path.startswith("deploy/secrets") or (ROOT / path).exists(), path
    stages = re.findall(r" AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert set(re.findall(r"--target (\S+)", TEXT)) <= set(stages)
    for command in re.findall(r"\| `factd ([a-z -]+)`", TEXT):
        parse(command.split())
    units = {path.name for path in (DEPLOY / "systemd").iterdir()}
    for instance in re.findall(r"\b(factd-[a-z]+@)[a-z0-9]+", TEXT):
        assert f"{instance}.service" in units
