"""How many edits a model bears: streams of facts under several configurations, scored at checkpoints.

At a checkpoint all facts so far are scored as the model is now, or a seeded sample of them; retention
always on the whole oldest and newest tenth. A configuration's rows and its state lie in a folder of its own
under the output folder and are written after each checkpoint, so that a run that was cut off, or is asked
for more edits, goes on where it stopped, to the same bits.
"""

import hashlib
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.configuration import Configuration, Model
from benchmarks.data import Record
from benchmarks.files import Say, read_json, read_state, write_json, write_state
from benchmarks.glue import Questions, ability
from benchmarks.scores import retention, score, text_perplexity
from editing.editor import Editor
from editing.errors import EditError
from monitoring.measuring.scoring import Scorer
from monitoring.measuring.spectral import Spectrum, frobenius_norm, spectrum, subspace_similarity

#: Name in the `method` column of the model before any edit.
UNEDITED = "unedited"
#: Put behind the method's name in rows of the model after compaction.
COMPACTED = "+compact"


@dataclass(frozen=True)
class Stream:
    """What all configurations of a run have in common.

    Attributes:
        records: the facts in order; as many as the last checkpoint.
        texts: that perplexity is measured on.
        dataset: name of the facts' file.
        batch: facts written at once.
        checkpoints: numbers of edits, ascending.
        sample: facts scored at a checkpoint; 0 for all so far.
        seed: of that sample.
        compact: whether the model is scored after compaction too.
        compact_every: after so many edits the model is compacted and goes on from there; 0: never.
        glue: questions of general ability, asked at each checkpoint.
    """

    records: Sequence[Record]
    texts: Sequence[str]
    dataset: str
    batch: int = 20
    checkpoints: tuple[int, ...] = (100, 200, 500)
    sample: int = 0
    seed: int = 0
    compact: bool = False
    compact_every: int = 0
    glue: Questions = field(default_factory=dict[str, Any])

    def scored(self, edits: int) -> list[Record]:
        """The records scored after so many edits."""
        return scored_sample(self.records[:edits], self.sample, self.seed)

    def steps(self, done: int) -> list[tuple[int, int]]:
        """Batches still to write, as (first, behind the last); none goes across a checkpoint."""
        found = []
        for checkpoint in self.checkpoints:
            while done < checkpoint:
                end = min(done + self.batch, checkpoint)
                found.append((done, end))
                done = end
        return found

    def key(self, configuration: object, model: Model) -> str:
        """Names everything that the rows of a configuration follow from, but for how far they go."""
        facts = hashlib.sha256(json.dumps([record.fact.id for record in self.records[:100]]).encode())
        what = [str(configuration), model.install.directory.name, model.install.tokens, self.dataset]
        what += [facts.hexdigest(), self.batch, self.sample, self.seed]
        what += [self.compact_every] if self.compact_every else []
        what += [hashlib.sha256(repr(self.glue).encode()).hexdigest()] if self.glue else []
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


def scored_sample(records: Sequence[Record], size: int, seed: int) -> list[Record]:
    """`size` of the records in their order, chosen by a seed; all where `size` is 0 or larger."""
    if not size or size >= len(records):
        return list(records)
    chosen = random.Random(seed).sample(range(len(records)), size)
    return [records[i] for i in sorted(chosen)]


def horizon(
    model: Model, stream: Stream, configurations: Sequence[Configuration], out: Path, say: Say
) -> list[dict[str, Any]]:
    """Runs the configurations one after another and returns the rows of horizon.json, of earlier runs too."""
    base = Unedited(model, stream, out)
    for configuration in configurations:
        Run(model, stream, configuration, out, base, say).go()
        write_json(out / "horizon.json", collected(out))
    return collected(out)


def collected(out: Path) -> list[dict[str, Any]]:
    """Rows of all runs whose files lie in an output folder."""
    return [row for path in sorted((out / "runs").glob("*/rows.json")) for row in read_json(path, {})["rows"]]


class Unedited:
    """The model before any edit, scored on the same facts: the reference of NS and of perplexity."""

    def __init__(self, model: Model, stream: Stream, out: Path) -> None:
        self._scorer = Scorer(model.loaded.model, model.loaded.tokenizer)
        self._stream = stream
        self._file = out / "runs" / f"{UNEDITED}-{stream.key(UNEDITED, model)}" / "rows.json"
        self._rows = read_json(self._file, {"rows": []})["rows"]
        self.perplexity = text_perplexity(self._scorer, stream.texts)

    def check(self, edits: int) -> None:
        """Makes the row of a checkpoint where there is none. Call on unedited weights."""
        if any(row["edits"] == edits for row in self._rows):
            return
        stream = self._stream
        row = _named(stream, UNEDITED, "", "", "", edits)
        row |= _scored(self._scorer, stream, edits)
        row |= {"perplexity_ratio": 1.0, "weight_norm_ratio_max": 1.0, "subspace_similarity_min": 1.0}
        row |= {"seconds": 0.0, "options": "", "written": 0, "perplexity": self.perplexity}
        self._rows.append(row)
        write_json(self._file, {"rows": self._rows})


class Run:
    """One configuration on the stream."""

    def __init__(
        self, model: Model, stream: Stream, configuration: Configuration, out: Path, base: Unedited, say: Say
    ) -> None:
        self._model, self._stream, self._base = model, stream, base
        self._configuration = configuration
        self._say = lambda text: say(f"{configuration}: {text}")
        folder = out / "runs" / f"{configuration.method}-{stream.key(configuration, model)}"
        self._folder, self._file = folder, folder / "rows.json"
        kept = read_json(self._file, {"rows": [], "edits": 0, "seconds": 0.0})
        self._rows, self._edits, self._seconds = kept["rows"], kept["edits"], kept["seconds"]

    def go(self) -> None:
        """Writes what is still to be written and scores at each checkpoint."""
        steps = self._stream.steps(self._edits)
        if not steps:
            self._say(f"{self._edits} edits were there already")
            return
        for edits in self._stream.checkpoints:
            self._base.check(edits)
        with self._model.editor(self._configuration) as editor:
            if self._edits:
                self._say(f"goes on after {self._edits} edits")
                editor.restore(read_state(self._state()))
            measured = Weights(editor)
            for first, behind in steps:
                self._write(editor, first, behind)
                if behind in self._stream.checkpoints:
                    self._check(editor, measured)

    def _write(self, editor: Editor, first: int, behind: int) -> None:
        facts = [record.fact for record in self._stream.records[first:behind]]
        start = time.perf_counter()
        try:
            editor.apply(facts)
        except EditError as error:
            # A model far gone cannot be written to; the facts count as missed, the stream goes on.
            self._say(f"facts {first + 1} to {behind} could not be written: {error}")
        every = self._stream.compact_every
        if every and behind % every == 0 and not editor.method.tuned:
            editor.compact()
        took = time.perf_counter() - start
        self._edits, self._seconds = behind, self._seconds + took
        left = (self._stream.checkpoints[-1] - behind) * took / len(facts)
        self._say(f"{behind} edits, {took / len(facts):.2f} s an edit, {left / 60:.0f} min to go")

    def _check(self, editor: Editor, measured: "Weights") -> None:
        rows = [self._row(editor, measured, "")]
        if self._stream.compact and not editor.method.tuned:
            state = editor.state
            start = time.perf_counter()
            editor.compact()
            took = time.perf_counter() - start
            rows.append(self._row(editor, measured, COMPACTED) | {"seconds": took})
            editor.restore(state)
        self._rows += rows
        # Rows without their state would be taken for done, so they come second; then the old state may go.
        write_state(self._state(), editor.state)
        write_json(self._file, {"edits": self._edits, "seconds": self._seconds, "rows": self._rows})
        for old in set(self._folder.glob("state-*")) - {self._state()}:
            old.unlink()
        for row in rows:
            self._say(
                ", ".join(
                    f"{name} {row[name]:.4g}" for name in ("edits", "es", "ps", "ns", "s", "perplexity_ratio")
                )
            )

    def _state(self) -> Path:
        return self._folder / f"state-{self._edits}.safetensors"

    def _row(self, editor: Editor, measured: "Weights", suffix: str) -> dict[str, Any]:
        stream, chosen = self._stream, self._configuration
        scorer = Scorer(editor.model, editor.tokenizer)
        told = text_perplexity(scorer, stream.texts)
        row = _named(
            stream, chosen.method + suffix, chosen.placement, chosen.anchor, chosen.protect, self._edits
        )
        row |= _scored(scorer, stream, self._edits)
        row |= {"perplexity_ratio": told / self._base.perplexity, **measured.ratios(editor)}
        every = f"compact_every={stream.compact_every}" if stream.compact_every else ""
        options = ",".join(filter(None, (chosen.options, every)))
        row |= {"seconds": self._seconds, "options": options, "written": len(editor.state.facts)}
        return row | {"perplexity": told}


def _named(
    stream: Stream, method: str, placement: str, anchor: str, protect: str, edits: int
) -> dict[str, Any]:
    row: dict[str, Any] = {"method": method, "placement": placement, "anchor": anchor, "protect": protect}
    return row | {"batch": stream.batch, "edits": edits, "dataset": stream.dataset}


def _scored(scorer: Scorer, stream: Stream, edits: int) -> dict[str, Any]:
    records = stream.scored(edits)
    tenth = max(1, edits // 10)
    row: dict[str, Any] = {**asdict(score(scorer, records)), "scored": len(records)}
    for name, part in (("oldest", stream.records[:tenth]), ("newest", stream.records[edits - tenth : edits])):
        row[f"retention_{name}"], row[f"exact_{name}"] = retention(scorer, part)
    return row | ability(scorer, stream.glue)


class Weights:
    """The base weights' norms and dominant subspaces, to compare an editor's present ones with."""

    def __init__(self, editor: Editor) -> None:
        self._spectra: dict[str, Spectrum] = {n: spectrum(w) for n, w in editor.base_weights().items()}

    def ratios(self, editor: Editor) -> dict[str, float]:
        norms, similarities = [], []
        for name, weight in editor.weights().items():
            base = self._spectra[name]
            norms.append(frobenius_norm(weight) / base.frobenius)
            similarities.append(subspace_similarity(base, spectrum(weight, len(base.values), start=base)))
        return {"weight_norm_ratio_max": max(norms), "subspace_similarity_min": min(similarities)}


def label(row: dict[str, Any]) -> str:
    """A configuration's name in tables and plots."""
    parts = [row[name] for name in ("method", "placement", "anchor", "protect", "options")]
    return " ".join(part for part in parts if part and part != "none") or UNEDITED


#: Columns of the table and how they are shown.
COLUMNS = {
    "edits": "{:d}",
    "es": "{:.1f}",
    "ps": "{:.1f}",
    "ns": "{:.1f}",
    "s": "{:.1f}",
    "exact_match": "{:.1f}",
    "generation_match": "{:.1f}",
    "retention_oldest": "{:.1f}",
    "retention_newest": "{:.1f}",
    "perplexity_ratio": "{:.3f}",
    "glue": "{:.1f}",
    "weight_norm_ratio_max": "{:.3f}",
    "subspace_similarity_min": "{:.3f}",
    "seconds": "{:.0f}",
}


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of text: the configuration and `COLUMNS`."""
    return [
        [
            label(row),
            *("" if row.get(name) is None else form.format(row[name]) for name, form in COLUMNS.items()),
        ]
        for row in sorted(rows, key=lambda row: row["edits"])
    ]
