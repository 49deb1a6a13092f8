"""Streams that end in collapse, with the guard off and on: what it saw, and what it kept from being served.

Each stream runs through the shipped daemon (`benchmarks.shipped`): a step's corrections are posted to its
ledger, its applier works them off, and what is served then is measured. The ledger tells when the guard
warned, refused, rolled back, compacted or paused. With the guard off the same daemon makes a dry run: the
guard says what it would do, and everything is served but what the editor itself refuses.

A stream ends when its records are used up, when the guard has paused the queue, when a publication failed, or
when the model that is served has collapsed. Collapsed means: perplexity on held-out text above three times
the base's, or S of the harmless facts below 60.

A correction that contradicts an earlier one takes its place, as everywhere in the product: the newer post
counts. Harmless corrections that are lost so are not live; `good_superseded` counts them.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.configuration import Configuration, Model
from benchmarks.files import Say, read_json, write_json
from benchmarks.shipped.applying import STEP_SECONDS, ShippedSettings
from benchmarks.shipped.faults import FaultyEditor, InverseMoments
from benchmarks.shipped.trial import TEXTS, Plan, Trial
from benchmarks.streams import STREAMS
from editing.memory.state import EditState
from monitoring.measuring.baseline import open_baseline
from monitoring.measuring.probes import default_probes
from monitoring.thresholds import Thresholds


def collapse(model: Model, plan: Plan, streams: Sequence[str], out: Path, say: Say) -> list[dict[str, Any]]:
    """Runs each stream with the guard off, then on; not again what is finished. Returns collapse.json."""
    for stream in streams:
        for guard in (False, True):
            path = out / "collapse" / f"{stream}-{'on' if guard else 'off'}.json"
            key = _key(model, plan, stream, guard)
            if read_json(path, {}).get("key") != key:
                found = run(model, plan, stream, guard, out, say)
                write_json(path, {"key": key, **found})
            write_json(out / "collapse.json", [run["row"] for run in collected(out)])
    return [run["row"] for run in collected(out)]


def collected(out: Path) -> list[dict[str, Any]]:
    """All finished runs in an output folder: their rows and series."""
    return [read_json(path, {}) for path in sorted((out / "collapse").glob("*.json"))]


def _key(model: Model, plan: Plan, stream: str, guard: bool) -> str:
    """Names everything that a run follows from; the guard's shipped numbers are part of it."""
    ids = [record.fact.id for record in plan.records]
    what = [stream, guard, model.install.directory.name, model.install.tokens, STREAMS[stream].configuration]
    what += [ids, plan.batch, plan.score_every, plan.sample, TEXTS, STEP_SECONDS, repr(Thresholds())]
    what += [ShippedSettings.but().model_dump_json(exclude={"state_dir"})]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


def run(model: Model, plan: Plan, name: str, guard: bool, out: Path, say: Say) -> dict[str, Any]:
    """One stream: its row of collapse.json and its series of measurements."""
    stream, start = STREAMS[name], time.perf_counter()
    told = f"{name}, guard {'on' if guard else 'off'}"
    with opened(model, name) as editor, tempfile.TemporaryDirectory(prefix="factd-collapse-") as root:
        noise = open_baseline(editor, default_probes(), out / "baselines").noise
        trial = Trial(editor, Path(root), out, plan, guard, lambda text: say(f"{told}: {text}"))
        with closing(trial):
            for step in stream.steps(plan.records, plan.batch):
                trial.post(step)
                if trial.over:
                    break
            row = {"stream": name, "guard": guard, **trial.row(), "configuration": stream.configuration}
            row["seconds"] = time.perf_counter() - start
            return {"row": row, "noise": noise, "series": trial.series}


@contextmanager
def opened(model: Model, name: str) -> Generator[FaultyEditor]:
    """The editor that a stream wears out; the model is unedited before and after."""
    stream = STREAMS[name]
    install = InverseMoments(model.install) if stream.wrong_moments else model.install
    configuration = Configuration.parse(stream.configuration)
    editor = FaultyEditor(model.loaded, install, **configuration.choices(model.loaded))
    editor.singly = stream.singly
    try:
        yield editor
    finally:
        editor.restore(EditState())


#: Columns of the table.
COLUMNS = (
    "stream",
    "guard",
    "edits",
    "collapse_at",
    "warned_at",
    "refused_at",
    "rolled_back_at",
    "compactions",
    "paused_at",
    "publish_failed_at",
    "worst_published_perplexity_ratio",
    "worst_retention_drop",
    "good_live_ratio",
    "good_superseded",
)


def table(rows: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """Rows of `COLUMNS`."""

    def shown(value: object) -> Any:
        return f"{value:.3g}" if isinstance(value, float) else value

    return [[shown(row.get(name)) for name in COLUMNS] for row in rows]
