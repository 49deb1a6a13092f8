"""The import rules, and that importing a module does nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("editing", "monitoring", "benchmarks", "daemon")
    for path in (ROOT / package).rglob("*.py")
)
#: Runs inside vLLM's process, where vllm is there to import.
PLUGIN = "daemon.plugin.worker"
#: A module may be long where one noun needs it; none may grow without a decision.
LINES_PER_FILE = 400

PROBE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "vllm":
            raise ImportError("vllm is blocked in this test")
sys.meta_path.insert(0, Blocked())
import importlib, os, pathlib
before = set(pathlib.Path.cwd().iterdir())
for module in sys.argv[1:]:
    try:
        importlib.import_module(module)
    except Exception as error:
        raise SystemExit(f"importing {module} failed: {error!r}")
assert set(pathlib.Path.cwd().iterdir()) == before, "an import wrote files"
import threading
assert threading.active_count() == 1, "an import started a thread"
"""


def test_import_contracts_hold():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_needs_no_environment_and_has_no_effect(tmp_path):
    modules = [name for name in MODULES if name not in {PLUGIN, "daemon.vllm_plugin"}]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *modules],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_command_line_starts_without_torch_celery_or_vllm():
    heavy = "('torch', 'celery', 'vllm', 'transformers')"
    code = f"import sys, daemon.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["editing", "monitoring", "benchmarks", "daemon"])
def test_files_stay_short(package):
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / package).rglob("*.py")}
    assert {name: n for name, n in lengths.items() if n > LINES_PER_FILE} == {}
