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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from benchmarks.errors import DataError
from editing.facts import Fact
from editing.memory.state import EditState

Say = Callable[[str], None]

#: What the names of a state's tensors begin with in its file.
FACTORS, COLUMNS = "factors/", "columns/"
#: Seconds between two lines about the same stage.
QUIET_SECONDS = 15.0
#: Characters of a bar.
BAR = 12


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


def bar(fraction: float) -> str:
    """How far a run is, as a line of text shows it: `[####--------]  33 %`."""
    done = round(BAR * fraction)
    return f"[{'#' * done}{'-' * (BAR - done)}] {100 * fraction:3.0f} %"


def write_json(path: Path, content: object) -> None:
    """Strict JSON, written beside the file and renamed; what is not finite becomes null."""
    text = json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False)
    _replaced(path, lambda unfinished: unfinished.write_text(text + "\n", encoding="utf-8"))


def read_json(path: Path, default: object) -> Any:
    """What `write_json` wrote; `default` when there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default


def write_state(path: Path, state: EditState) -> None:
    """Everything that an editor needs to go on, as one safetensors file."""
    facts = [
        (fact.subject, fact.prompt, fact.target, fact.id, fact.questions, fact.paraphrases)
        for fact in state.facts
    ]
    tensors = {f"{COLUMNS}{name}": column for name, column in state.columns.items()}
    for name, (a, b) in state.factors.items():
        tensors |= {f"{FACTORS}{name}/A": a, f"{FACTORS}{name}/B": b}
    # Copies: a file holds no tensor that shares its memory with another.
    copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    metadata = {"facts": json.dumps(facts)}
    _replaced(path, lambda unfinished: save_file(copies, unfinished, metadata))


def read_state(path: Path) -> EditState:
    """What `write_state` wrote, bit for bit.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = tuple(Fact(*fact) for fact in json.loads(file.metadata()["facts"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({error}); remove its folder to begin anew") from error
    found = {name.removeprefix(FACTORS): t for name, t in tensors.items() if name.startswith(FACTORS)}
    factors = {
        name.removesuffix("/A"): (a, found[f"{name.removesuffix('/A')}/B"])
        for name, a in found.items()
        if name.endswith("/A")
    }
    columns = {name.removeprefix(COLUMNS): t for name, t in tensors.items() if name.startswith(COLUMNS)}
    return EditState(facts, factors, columns)


def _replaced(path: Path, write: Callable[[Path], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    write(unfinished)
    unfinished.replace(path)


def _finite(content: object) -> Any:
    if isinstance(content, dict):
        return {str(name): _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
