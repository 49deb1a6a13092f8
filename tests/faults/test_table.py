"""The fault table of docs/reliability.md names tests that exist, and no stage is left out."""

import re
from pathlib import Path

from daemon.core.stages import Stage
from tests.daemon.apply import test_crash

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\|(?: [^|]+ \|){4} `(tests/[^`]+)::(\w+)` \|$", re.MULTILINE)
HEAD = re.compile(r"^\| fault \|.*\n\|[-|]+$", re.MULTILINE)


def test_every_row_names_a_test_that_exists():
    text = HEAD.sub("", (ROOT / "docs" / "reliability.md").read_text())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    named = ROW.findall(text)
    assert len(named) == len(rows) > 30, "each row has five cells, the last one a test"
    missing = [
        (file, name)
        for file, name in named
        if not re.search(rf"^(def )?{name}\b", (ROOT / file).read_text(), re.MULTILINE)
    ]
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
