"""Files that a benchmark leaves, and what it says while it runs."""

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from editing.facts import Fact
from editing.state import EditState

Say = Callable[[str], None]

#: Seconds between two lines about the same stage.
QUIET_SECONDS = 15.0


@dataclass
class Progress:
    """Says how far the stages of an installation are, now and then."""

    say: Say
    _stage: str = ""
    _told: float = field(default=-math.inf)

    def __call__(self, stage: str, fraction: float) -> None:
        now = time.monotonic()
        if stage != self._stage or now - self._told >= QUIET_SECONDS:
            self.say(f"{stage}: {fraction:.0%}")
            self._stage, self._told = stage, now


def say(text: str) -> None:
    """One line with the time, on stderr."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def write_json(path: Path, content: Any) -> None:
    """Strict JSON, written beside the file and renamed; what is not finite becomes null."""
    text = json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False)
    _replaced(path, lambda unfinished: unfinished.write_text(text + "\n", encoding="utf-8"))


def read_json(path: Path, default: Any) -> Any:
    """What `write_json` wrote; `default` when there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default


def write_state(path: Path, state: EditState) -> None:
    """Everything that an editor needs to go on."""
    content = {
        "facts": [(fact.subject, fact.prompt, fact.target, fact.id) for fact in state.facts],
        "factors": state.factors,
        "columns": state.columns,
    }
    _replaced(path, lambda unfinished: torch.save(content, unfinished))


def read_state(path: Path) -> EditState:
    """What `write_state` wrote, bit for bit."""
    content = torch.load(path, weights_only=True)
    facts = tuple(Fact(*fact) for fact in content["facts"])
    return EditState(facts, content["factors"], content["columns"])


def _replaced(path: Path, write: Callable[[Path], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    write(unfinished)
    unfinished.replace(path)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(name): _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
