"""docs/architecture.md: the files that it names exist, and a correction goes the way that it tells.

The list in the page is the only place to edit when a function gets another name.
"""

import ast
import re
import sys
from types import SimpleNamespace

import pytest

from daemon.core.messages import parse_correction
from daemon.intake.doorbell import Doorbell
from daemon.intake.intake import submit_or_refuse
from tests.source import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
STEPS = re.findall(r"^\d+\. `([\w/]+\.py:[\w.]+)`", PAGE, re.MULTILINE)
STEPS_AT_MOST = 15
#: Of the world's stand-ins: the function of the product that each is called for.
STANDS_FOR = {
    "tests/daemon/fakes.py:FakeEditor.apply": "editing/editor.py:Editor.apply",
    "tests/daemon/fakes.py:fake_measure": "monitoring/measuring/measure.py:measure",
    "tests/daemon/fakes.py:fake_judge": "monitoring/verdict.py:judge",
}


def defined(file: str) -> set[str]:
    """Functions of a file, and methods as Class.method."""
    found = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return found


def traced(act) -> list[str]:
    """Every call of one of our functions while `act` runs, as file:function."""
    calls, root = [], f"{ROOT}/"

    def note(frame, event, _argument):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(root):
            called = f"{code.co_filename.removeprefix(root)}:{code.co_qualname}"
            calls.append(STANDS_FOR.get(called, called))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(before)
    return calls


def first_missed(steps, calls) -> str | None:
    """The first step that does not come after the one before it; None when all are passed in order."""
    rest = iter(calls)
    return next((step for step in steps if step not in rest), None)


def test_the_way_is_a_list_of_functions_that_exist():
    assert 10 <= len(STEPS) <= STEPS_AT_MOST
    assert [step for step in STEPS if step.split(":")[1] not in defined(step.split(":")[0])] == []


def test_files_that_the_page_names_exist():
    named = re.findall(r"`((?:daemon|editing|monitoring|benchmarks|deploy|tests)/[\w/]*(?:\.py)?)[:`]", PAGE)
    assert len(named) > 30
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_a_correction_goes_the_way_of_the_page(world):
    # The apply worker answers the doorbell at once, in this thread.
    doorbell = Doorbell(SimpleNamespace(send_task=lambda *_, **__: world.run()))
    body = {"subject": "France", "prompt": "The capital of {} is", "target": "Lyon"}

    def post():
        submit_or_refuse(world.ledger, "one", lambda: parse_correction(body), "celery")
        doorbell.ring()

    calls = traced(post)
    assert world.states() == {"one": "live"}
    assert first_missed(STEPS, calls) is None
    # Each check would find the fault that it is there for.
    assert first_missed([*STEPS[1:], STEPS[0]], calls) == STEPS[0]
    assert first_missed([*STEPS, "daemon/apply/update.py:Update.withdraw"], calls) is not None


@pytest.mark.parametrize("wrong", ["daemon/apply/update.py:Update.nothing", "daemon/app.py:nothing"])
def test_a_function_that_does_not_exist_is_found(wrong):
    file, name = wrong.split(":")
    assert name not in defined(file)
