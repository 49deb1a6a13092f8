"""The fault table of docs/reliability.md names tests that exist, and no stage is left out."""

import ast
import re
from pathlib import Path

from daemon.stages import Stage
from tests.daemon import test_crash

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\|(?: [^|]+ \|){4} `(tests/[^`]+)` \|$", re.MULTILINE)
HEADS = {"fault", "---"}


def test_every_row_names_a_test_that_exists():
    text = (ROOT / "docs" / "reliability.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|") and line.strip("| ")[:5] not in
            {"fault", "---|-"}]  # fmt: skip
    named = ROW.findall(text)
    assert len(named) == len(rows) > 20, "each row has five cells, the last one a test"
    missing = []
    for name in named:
        file, _, function = name.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        methods = {
            node.name
            for cls in tree.body
            if isinstance(cls, ast.ClassDef)
            for node in cls.body
            if isinstance(node, ast.FunctionDef)
        }
        if function not in functions | methods:
            missing.append(name)
    assert not missing


def test_the_process_is_killed_at_every_stage():
    tried = {
        stage
        for test in vars(test_crash).values()
        for mark in getattr(test, "pytestmark", ())
        if mark.name == "parametrize" and mark.args[0] == "stage"
        for stage in mark.args[1]
    }
    assert tried == set(Stage)
