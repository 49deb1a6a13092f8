"""One piece of background work in a folder: what it works on, how far it is, what it found.

Each file is complete or absent, so that either side may be killed at any instant.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from daemon.core.errors import StoreError
from daemon.versions.durable import sync_directory, write_synced
from editing.errors import DeltaError
from editing.facts import Fact
from editing.memory.delta import read_tensors, write_tensors
from editing.memory.state import EditState


@dataclass(frozen=True)
class Plan:
    """What is worked on.

    Attributes:
        kind: of the operation.
        version: whose facts are worked on.
        settings: names the method and its numbers; a result of others is of no use.
        onto: a newer version that a finished result shall be brought to.
    """

    kind: str
    version: str
    settings: str
    onto: str | None = None


@dataclass(frozen=True)
class Result:
    """What was found.

    Attributes:
        version: whose facts it holds.
        ids: of the facts, in the order of their columns.
        turns: how often it was brought to a newer version.
    """

    version: str
    file: str
    sha256: str
    ids: tuple[str, ...]
    turns: int = 0


class Job:
    """The folder of one piece of work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def kept(self) -> Path:
        """Where the process keeps what it has found so far."""
        return self.folder / "kept"

    def clear(self) -> None:
        """Forgets the work and all that it found."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- what is worked on ----------------------------------------------------------------------

    def begin(self, plan: Plan) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write("plan.json", asdict(plan))

    def plan(self) -> Plan | None:
        found = self._read("plan.json")
        return None if found is None else Plan(**found)

    # -- how far it is --------------------------------------------------------------------------

    def tell(self, stage: str, fraction: float) -> None:
        self._write("progress.json", {"stage": stage, "fraction": fraction})

    def progress(self) -> dict[str, Any] | None:
        return self._read("progress.json")

    def fail(self, reason: str) -> None:
        """It cannot be done: trying again would end in the same way."""
        self._write("failure.json", {"reason": reason})

    def failure(self) -> str | None:
        found = self._read("failure.json")
        return None if found is None else found["reason"]

    # -- what it found --------------------------------------------------------------------------

    def finish(self, version: str, state: EditState, turns: int = 0) -> None:
        """Keeps the result; it takes the place of an earlier one."""
        file = f"result-{version}-{os.getpid()}.safetensors"
        tensors = {f"columns/{name}": column for name, column in state.columns.items()}
        for name, pair in state.factors.items():
            # Factors may be the columns themselves, and a file holds no tensor twice.
            tensors |= {f"factors/{side}/{name}": x.clone() for side, x in zip("AB", pair, strict=True)}
        sha256 = write_tensors(self.folder / file, tensors, {"version": version})
        self._write("result.json", asdict(Result(version, file, sha256, state.ids, turns)))
        for old in self.folder.glob("result-*.safetensors"):
            if old.name != file:
                old.unlink(missing_ok=True)

    def result(self) -> Result | None:
        found = self._read("result.json")
        if found is None:
            return None
        return Result(found["version"], found["file"], found["sha256"], tuple(found["ids"]), found["turns"])

    def state(self, result: Result, facts: Sequence[Fact]) -> EditState:
        """The state that was found, of the facts of its version.

        Raises:
            StoreError: its file is missing, damaged, or of other facts.
        """
        known = {fact.id: fact for fact in facts}
        try:
            tensors = read_tensors(self.folder / result.file, result.sha256)
            chosen = tuple(known.pop(id) for id in result.ids)
        except (DeltaError, KeyError) as error:
            raise StoreError(f"the result in {self.folder} cannot be used: {error}") from error
        columns = {name.removeprefix("columns/"): x for name, x in tensors.items() if name[0] == "c"}
        names = [name.removeprefix("factors/A/") for name in tensors if name.startswith("factors/A/")]
        pairs = {name: (tensors[f"factors/A/{name}"], tensors[f"factors/B/{name}"]) for name in names}
        state = EditState(chosen, pairs, columns)
        if known or not state.fits:
            raise StoreError(f"the result in {self.folder} does not fit the facts of {result.version}")
        return state

    # -- files ----------------------------------------------------------------------------------

    def _write(self, name: str, content: dict[str, Any]) -> None:
        work = self.folder / f".{name}.{os.getpid()}"
        write_synced(work, json.dumps(content).encode())
        work.rename(self.folder / name)
        sync_directory(self.folder)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / name).read_bytes())
        except FileNotFoundError:
            return None
