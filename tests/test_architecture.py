"""The import rules, that importing a module does nothing, and that files, folders and functions stay small.

Some lists below name what does not keep a rule yet. Such a list may only shrink: a test fails for a new
entry, and for one that is not needed any more.
"""

import os
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tests.source import (
    PACKAGES,
    ROOT,
    bare_any,
    body_lines,
    circles,
    files,
    functions,
    late_imports,
)

#: Run inside vLLM's process, where vllm is there to import; the second is the old name of the first.
PLUGIN = ("daemon.plugin.worker", "daemon.vllm_plugin")
LINES_PER_FILE, LINES_AT_MOST = 300, 400
MODULES_PER_FOLDER = 16
#: Nine of ten functions have a body of at most so many lines.
LINES_PER_FUNCTION = 18

#: Modules that import each other, also within functions or for type checkers alone.
CIRCLES: set[frozenset[str]] = set()
#: Files that are longer than LINES_PER_FILE.
LONG: set[str] = set()
#: Imports within functions that stay. daemon.app: an intake worker must not load torch. matplotlib and
#: zstandard belong to the extra `bench`, which a deployment does without.
LATE_FOR_A_REASON = {
    "benchmarks.data": 1,
    "benchmarks.drawing.figures": 2,
    "benchmarks.drawing.plots": 1,
    "daemon.app": 1,
}
#: Imports within functions that belong at the top.
LATE = {
    "daemon.ledger.migration": 3,
    "editing": 2,
    "editing.model.checkpoint": 1,
}
#: Parameters that are annotated with a bare `Any`: contexts of autograd and click, a worker of vLLM.
BARE_ANY = 6

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
    modules = [name for name in files() if name not in PLUGIN]
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


def test_every_room_has_a_contract_of_its_own():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    told = {name for one in contracts if one["type"] == "forbidden" for name in one["source_modules"]}
    rooms = {f"daemon.{path.name}" for path in (ROOT / "daemon").iterdir() if (path / "__init__.py").exists()}
    assert rooms - {"daemon.cli"} <= told  # of cli only what lists the commands must load nothing
    assert {"daemon.cli.main", "benchmarks", "monitoring", "editing"} <= told


# -- size and shape ---------------------------------------------------------------------------------


def test_no_modules_import_each_other():
    assert circles() - CIRCLES == set(), "mend it"
    assert CIRCLES - circles() == set(), "take it off the list"


def test_imports_stand_at_the_top():
    allowed = LATE | LATE_FOR_A_REASON
    late = {module: n for module in files() if (n := len(late_imports(module)))}
    assert {module: n for module, n in late.items() if n > allowed.get(module, 0)} == {}, "mend it"
    assert allowed.keys() - late.keys() == set(), "take it off the list"


def test_files_stay_short():
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files().values()}
    long = {name for name, n in lines.items() if n > LINES_PER_FILE}
    assert long - LONG == set(), "split it by noun"
    assert LONG - long == set(), "take it off the list"
    assert [name for name, n in lines.items() if n > LINES_AT_MOST] == []


def test_folders_stay_small():
    modules = Counter(path.parent for path in files().values() if path.name != "__init__.py")
    assert {str(folder): n for folder, n in modules.items() if n > MODULES_PER_FOLDER} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_stay_short(package):
    own = [name for name in files() if name.split(".")[0] == package]
    lines = sorted(body_lines(function) for name in own for function in functions(name))
    assert lines[int(0.9 * len(lines))] <= LINES_PER_FUNCTION


def test_parameters_have_types():
    found = [f"{name}.{parameter}" for name in files() for parameter in bare_any(name)]
    assert len(found) <= BARE_ANY, found
