"""Streams of facts written into more and fewer key directions, each until it is full.

A run is the default method on CounterFact, in bare prompts, without writing again what is not said. Runs
differ in the layers they write, in the share of the key dimensions they use, and in the columns of a fact.
All end at the same layer, so that values are found once. Each has the λ with which the first facts are
written as firmly as by the default. A run ends when all limits are passed. A killed benchmark goes on after
its last checkpoint.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from benchmarks.asking.asked import taken
from benchmarks.asking.ways import QUESTIONS, asked_records
from benchmarks.capacity.firmness import Firmness
from benchmarks.capacity.law import horizon, laws
from benchmarks.capacity.masked import Masked, MaskedEditor
from benchmarks.capacity.warning import warnings
from benchmarks.configuration import Configuration, Model
from benchmarks.data import Record, find, load_records
from benchmarks.errors import ChoiceError
from benchmarks.files import Say, write_json
from benchmarks.lifelong.beliefs import audited, by_hash, measures
from benchmarks.runs import Row, Run, Stream, Unedited, collected, named
from benchmarks.scores import mean, text_perplexity
from benchmarks.weights import Weights
from editing.editor import Editor
from editing.methods.published import parameters
from editing.model.loaded import LoadedModel
from editing.model.says import says
from monitoring.measuring.scoring import Scorer

#: Limit → (number of a row, bound, whether a smaller number is past it). Nine of ten is what the guard asks
#: of earlier facts; but without writing again not many more are said of the first fifty.
LIMITS: Mapping[str, tuple[str, float, bool]] = {
    "said 90 %": ("said", 0.9, True),
    "said 80 %": ("said", 0.8, True),
    "perplexity ×1.1": ("perplexity_ratio", 1.1, False),
    "perplexity ×1.2": ("perplexity_ratio", 1.2, False),
}
#: Of the sample, so that a dip at one checkpoint does not end a run.
MARGIN = 0.03
#: Where the runs' files are in the output folder, so that a horizon there does not take them for its own.
FOLDER = "capacity"
METHOD = "memit-seq"
#: The forms that the product writes: with one question three columns a fact.
SHIPPED = "prompt.chat.questions"
#: Of each run of the plan: layers up to the last one of the method's window (0: all from the first on), share
#: of the key dimensions, forms.
PLAN = (
    *((width, 1.0, "prompt") for width in (5, 0, 1, 2, 3)),
    *((5, 0.5, "prompt"), (5, 0.25, "prompt"), (0, 0.5, "prompt"), (5, 1.0, SHIPPED)),
)
_KEYS = re.compile(r",?keys=([0-9.]+)")


def planned(model: Model) -> list[Masked]:
    """The runs of `PLAN` for a model, without repeats. Call on unedited weights."""
    plain = parameters(METHOD, model.loaded)
    usual = (plain.layers, plain.prior.moment_weight)
    firmness = Firmness(model.install, plain.layers[-1])
    found = list[Masked]()
    for width, share, forms in PLAN:
        last = plain.layers[-1]
        layers = range(max(0, last + 1 - width) if width else 0, last + 1)
        same = tuple(layers) == plain.layers and share == 1
        weight = usual[1] if same else firmness.weight(layers, share, usual)
        changes = f"again=0,forms={forms},layers={layers[0]}-{last},moment_weight={weight:g},keys={share:g}"
        found.append(parsed(f"{METHOD}::::{changes}"))
    return list(dict.fromkeys(found))


def parsed(text: str) -> Masked:
    """A configuration, with ``keys=SHARE`` among its changes.

    Raises:
        ChoiceError: a part is unknown, or the share does not lie above 0 and up to 1.
    """
    share = _KEYS.search(text)
    try:
        value = float(share[1]) if share else 1.0
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise ChoiceError(f"configuration {text!r}: keys is a share above 0, up to 1")
    return Masked.of(Configuration.parse(_KEYS.sub("", text)), value)


class Said:
    """Asks a sample for its targets, and measures what may tell which of them will be lost.

    Args:
        size: facts of the sample at a checkpoint, chosen by a hash of their ids from all written. Those of
            earlier checkpoints are asked again, for the audit alone.
    """

    def __init__(self, loaded: LoadedModel, size: int) -> None:
        self._loaded, self._size = loaded, size
        self.key = f"said-{size}"

    def row(self, stream: Stream, edits: int, editor: Editor | None) -> Row:
        chosen = audited(stream, edits, self._size)
        hits = says(self._loaded, [record.fact for record in chosen])
        told = {record.fact.id: hit for record, hit in zip(chosen, hits, strict=True)}
        sample = by_hash(stream.live(edits), self._size)
        measured = measures(editor) if editor is not None else {}
        audit = [{"id": id, "prompt": hit, **measured.get(id, {})} for id, hit in told.items()]
        return {"said": mean([told[one.fact.id] for one in sample]), "asked": len(sample), "audit": audit}


class FillingRun(Run):
    """One configuration on the stream, with the few rows' numbers that the law needs."""

    def _row(self, editor: Editor, measured: Weights, suffix: str) -> Row:
        stream, chosen, masked = self._stream, self._configuration, cast(MaskedEditor, editor)
        parts = (chosen.method + suffix, chosen.placement, chosen.anchor, chosen.protect)
        row = named(stream, *parts, self._edits)
        scorer = Scorer(editor.model, editor.tokenizer)
        row |= {"run": str(chosen), "options": chosen.options, "seconds": self._seconds}
        row["perplexity_ratio"] = text_perplexity(scorer, stream.texts) / self._base.perplexity
        row |= {"layers": len(editor.layers), "keys": len(masked.used), "filled": masked.filled()}
        row["columns"] = editor.state.forms.numel() / max(1, len(editor.state.facts))
        row["written"] = len(editor.state.facts)
        return row | (stream.asks.row(stream, self._edits, editor) if stream.asks else {})


def full(row: Mapping[str, Any]) -> str:
    """Why a run ends: all limits are passed, the noisy ones by a margin."""
    over = row["said"] < LIMITS["said 80 %"][1] - MARGIN
    over &= not row["perplexity_ratio"] <= LIMITS["perplexity ×1.2"][1]
    return "all limits are passed" if over else ""


def facts_of(model: Model, data: Path | None, count: int) -> list[Record]:
    """The first facts of CounterFact, each with a question, so that it can have all forms that ship.

    Raises:
        DataError: a file is missing.
    """
    path = find("counterfact", data, "--data")
    every = asked_records(load_records(path), path, find(QUESTIONS, data, "--data"))
    return [one.record for one in taken(every, model, count)]


def stream_of(
    model: Model,
    records: Sequence[Record],
    texts: Sequence[str],
    checkpoints: tuple[int, ...],
    batch: int,
    size: int,
) -> Stream:
    """The stream of all runs; `size` facts of it are asked at a checkpoint."""
    return Stream(
        records,
        texts,
        dataset="counterfact",
        batch=batch,
        checkpoints=checkpoints,
        reference=(),
        asks=Said(model.loaded, size),
        ends=full,
    )


def capacity(
    model: Model, stream: Stream, configurations: Sequence[Masked], out: Path, say: Say, aside: str = ""
) -> dict[str, Any]:
    """Runs the configurations; returns what capacity.json holds, of earlier runs too.

    Args:
        aside: name of the run that the law is tried on; the one with the most directions when empty.
    """
    folder = out / FOLDER
    base = Unedited(model, stream, folder)

    def write() -> dict[str, Any]:
        found = summary(collected(folder), aside)
        write_json(out / "capacity.json", found)
        return found

    for configuration in configurations:
        FillingRun(model, stream, configuration, folder, base, say).go(write)
    return write()


#: What capacity.json keeps of a checkpoint.
_KEPT = ("edits", "written", "said", "asked", "perplexity_ratio", "filled", "seconds")


def summary(rows: Sequence[Row], aside: str) -> dict[str, Any]:
    """Runs with their horizons, the laws through them, and what told which facts would be lost.

    Args:
        aside: the run that the laws are tried on.
    """
    by_run = dict[str, list[Row]]()
    for row in sorted((row for row in rows if "run" in row), key=lambda row: row["edits"]):
        by_run.setdefault(row["run"], []).append(row)
    runs = [summed(name, own) for name, own in by_run.items()]
    runs.sort(key=lambda run: (run["directions"], run["run"]))
    # Sorted, so that without a name it is the run with the most: the product extrapolates towards more.
    told = laws(runs, tuple(LIMITS), aside or runs[-1]["run"])
    return {"runs": runs, "laws": told, "warnings": warnings([*by_run.values()])}


def summed(name: str, rows: Sequence[Row]) -> Row:
    """A run: its regressors, its horizons, and its checkpoints."""
    last = rows[-1]
    run: Row = {"run": name, "layers": last["layers"], "keys": last["keys"], "columns": last["columns"]}
    run["keys_per_column"] = last["keys"] / last["columns"]
    run["directions"] = last["layers"] * run["keys_per_column"]
    for limit, (number, bound, falling) in LIMITS.items():
        points = [(row["edits"], row[number]) for row in rows]
        run[limit] = asdict(horizon(points, bound, falling))
    return run | {"checkpoints": [{kept: row[kept] for kept in _KEPT} for row in rows]}


#: Titles of `table`'s columns.
COLUMNS = ("run", "layers", "keys", "columns", "directions", *LIMITS, "filled at the end")


def table(found: Mapping[str, Any]) -> list[list[str]]:
    """Runs for people."""
    return [
        [
            run["run"],
            str(run["layers"]),
            str(run["keys"]),
            f"{run['columns']:.2f}",
            f"{run['directions']:.0f}",
            *(_shown(run[limit]) for limit in LIMITS),
            f"{run['checkpoints'][-1]['filled']:.2f}",
        ]
        for run in found["runs"]
    ]


def _shown(told: Mapping[str, Any]) -> str:
    return told["censored"] if told["facts"] is None else f"{told['facts']:.0f}"
