"""Which tests run in one process when several share them: whole files, and two lots that start vLLM."""

from pathlib import Path

import pytest

from tests.conftest import LONGEST, ByFile, pytest_collection_modifyitems

ROOT = Path(__file__).parents[1]
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py"))
SERVED = [path for path in FILES if path.startswith("tests/end_to_end/")]


def lot(nodeid):
    return ByFile.__new__(ByFile)._split_scope(nodeid)


@pytest.mark.parametrize("path", ["tests/test_prose.py", "tests/end_to_end/test_alerts.py", SERVED[0]])
def test_a_file_stays_whole(path):
    inside = ["test_a", "test_a[x::y]", "TestB::test_c", "test_a[/end_to_end/]"]
    assert len({lot(f"{path}::{name}") for name in inside}) == 1


def test_all_that_start_vllm_are_two_lots_and_every_other_file_is_its_own():
    lots = {}
    for path in FILES:
        lots.setdefault(lot(f"{path}::test_a"), []).append(path)
    (longest,) = [path for path in SERVED if path.endswith(LONGEST)]
    shared = [path for path in SERVED if path != longest]
    assert len(shared) > 1
    assert sorted(lots.values()) == sorted([shared, *([path] for path in FILES if path not in shared)])


def test_the_longest_file_begins_first_then_the_others_that_start_vllm():
    class Item:
        def __init__(self, name, served):
            self.path, self.served = ROOT / "tests" / name, served

        def get_closest_marker(self, name):
            return self.served if name == "end_to_end" else None

        def add_marker(self, _):
            raise AssertionError("none of these is slow")

    names = [("a.py", False), ("b.py", True), (LONGEST, True), ("c.py", False), ("d.py", True)]
    items = [Item(*each) for each in names]
    pytest_collection_modifyitems(items)
    assert [item.path.name for item in items] == [LONGEST, "b.py", "d.py", "a.py", "c.py"]
