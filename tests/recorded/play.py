"""Plays a recorded history to a world, and asks the command line of its code what came of it.

Nothing of factd is imported here: the recorder plays with the code of the commit that it records, the tests
with today's. A world has a ledger, a store and an applier; see `tests/recorded/world.py`.
"""

import io
import json
import platform
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_models import byte_tokenizer, tiny_model

#: half the width of the model's weights: with less it hardly heeds what it reads
WIDTH = 0.35
#: the clock between two inputs; longer than the guard's cool-down
STEP_SECONDS = 100.0
#: what is asked of the command line
QUESTIONS = ("audit", "status", "facts", "versions")
#: what they say of the time at which they are asked
NOW = ("oldest_pending_seconds",)
#: what `factd status` says of servers and workers, which a recorded history does not have
ELSEWHERE = ("mismatches", "replicas", "workers")


class Killed(BaseException):
    """The process ends here, as far as the applier can tell."""


def fingerprint() -> dict[str, str]:
    """What may change bits although the kernels are pinned."""
    return {"machine": platform.machine(), "torch": torch.__version__.split("+")[0]}


def save_model(path: Path, seed: int) -> Path:
    """A tiny model of uniform weights, which have the same bits everywhere; normal ones depend on kernels."""
    model, generator = tiny_model(num_hidden_layers=4), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_((torch.rand(parameter.shape, generator=generator) - 0.5) * (2 * WIDTH))
    model.save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


def play(world: Any, inputs: list[dict[str, Any]], first: int = 0) -> list[dict[str, str] | None]:
    """Each input is a post, an operation asked for, or a run of the applier that may be killed at a stage.

    Args:
        first: how many were played before.

    Returns:
        After each run the sha256 of each weight in memory; None where it was killed.
    """
    found = []
    world.open()
    for number, each in enumerate(inputs, first):
        world.now = 1000.0 + STEP_SECONDS * number
        if "post" in each:
            world.post(each["post"], each["id"])
        elif "ask" in each:
            world.ask(each["ask"], each["target"], each["actor"], each["why"])
        else:
            found.append(_run(world, each["run"]))
    return found


def _run(world: Any, killed_at: str | None) -> dict[str, str] | None:
    def stop(stage: str) -> None:
        if stage == killed_at:
            raise Killed

    try:
        report = world.run(stop)
    except Killed:
        world.close()
        world.open()
        return None
    assert killed_at is None, f"the run was to be killed at {killed_at!r} and came to its end"
    assert report.held is None, report
    return world.weights()


def asked(main: Callable[[], None], state: Path) -> dict[str, Any]:
    """What the command line `main` says of a state directory."""
    answers = {}
    for question in QUESTIONS:
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
            patch.setattr(sys, "argv", ["factd", question, "--json", "--state", str(state)])
            with pytest.raises(SystemExit) as ended:
                main()
        # 7: no server and no worker runs
        allowed = (None, 0, 7) if question == "status" else (None, 0)
        assert ended.value.code in allowed, f"factd {question} ended with {ended.value.code}"
        answers[question] = json.loads(said.getvalue())
    for name in NOW:
        del answers["status"][name]
    for name in ELSEWHERE:
        answers["status"].pop(name, None)
    answers["audit"].pop("signatures", None)
    return answers
