"""A configuration on a stream of facts, scored at checkpoints; it goes on where it stopped.

A checkpoint scores all facts that hold then, or a seeded sample of them. Retention is always asked of the
whole oldest and newest tenth. The rows and the state of a configuration lie in a folder of its own, written
after each checkpoint. So a run that was cut off, or is asked for more edits, goes on to the same bits.
"""

import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.configuration import Configuration, Model
from benchmarks.data import Record
from benchmarks.files import Say, bar, read_json, read_state, write_json, write_state
from benchmarks.glue import Questions, ability
from benchmarks.scores import mean, retention, score, text_perplexity
from benchmarks.weights import Weights
from editing.editor import Editor
from editing.errors import EditError
from editing.facts import Fact
from editing.report import Report
from monitoring.measuring.scoring import Scorer

#: Name in the `method` column of the model before any edit.
UNEDITED = "unedited"
#: Put behind the method's name in rows of the model after compaction.
COMPACTED = "+compact"
#: What is said of a checkpoint's row.
TOLD = ("edits", "said", "es", "ps", "ns", "s", "perplexity_ratio")

Row = dict[str, Any]


class Asks(Protocol):
    """What a benchmark asks of the model beside its scores.

    Attributes:
        key: names all that the answers follow from; a run with another one is another run.
    """

    key: str

    def row(self, stream: "Stream", edits: int, editor: Editor | None) -> Row:
        """Of the model as it is now, after so many edits of the stream; without an editor it is unedited."""
        ...


def never(_row: Mapping[str, Any]) -> str:
    """The stream goes on to its end."""
    return ""


@dataclass(frozen=True)
class Stream:
    """What all configurations of a run have in common.

    Attributes:
        records: the facts in order; as many as the last checkpoint. One with the slot of an earlier one
            supersedes it.
        texts: that perplexity is measured on.
        dataset: name of the facts' file.
        batch: facts written at once.
        checkpoints: numbers of edits, ascending.
        sample: facts scored at a checkpoint; 0 for all that hold.
        seed: of that sample.
        compact: whether the model is scored after compaction too.
        compact_every: after so many edits the model is compacted and goes on from there; 0: never.
        glue: questions of general ability, asked at each checkpoint.
        keeps: whether what was written for superseded facts stays in the weights, as published methods
            have it; otherwise it is taken out.
        reference: checkpoints at which the unedited model is scored; all when None.
        asks: what else is asked.
        ends: why the stream ends after a row; "" where it goes on.
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
    keeps: bool = False
    reference: tuple[int, ...] | None = None
    asks: Asks | None = None
    ends: Callable[[Mapping[str, Any]], str] = never

    def live(self, edits: int) -> list[Record]:
        """The records that hold after so many edits, the oldest first: of each slot the last one."""
        latest = dict[tuple[str, str], Record]()
        for record in reversed(self.records[:edits]):
            latest.setdefault(record.slot, record)
        return list(reversed(latest.values()))

    def scored(self, edits: int) -> list[Record]:
        """The records scored after so many edits."""
        return scored_sample(self.live(edits), self.sample, self.seed)

    def tenths(self, edits: int) -> dict[str, list[Record]]:
        """The oldest and the newest tenth of the records that hold."""
        live = self.live(edits)
        tenth = max(1, len(live) // 10)
        return {"oldest": live[:tenth], "newest": live[-tenth:]}

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
        what += ["keeps"] if self.keeps else []
        what += [self.asks.key] if self.asks else []
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


def scored_sample(records: Sequence[Record], size: int, seed: int) -> list[Record]:
    """`size` of the records in their order, chosen by a seed; all where `size` is 0 or larger."""
    if not size or size >= len(records):
        return list(records)
    chosen = random.Random(seed).sample(range(len(records)), size)
    return [records[i] for i in sorted(chosen)]


def collected(out: Path) -> list[Row]:
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
        row = named(stream, UNEDITED, "", "", "", edits)
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
        # Since the last checkpoint.
        self._norms, self._refused = list[float](), ""

    def go(self, checked: Callable[[], object] = lambda: None) -> None:
        """Writes what is still to be written and scores at each checkpoint.

        Args:
            checked: called when the rows of a checkpoint are on disk.
        """
        steps = self._stream.steps(self._edits)
        if not steps or self._ended():
            self._say(f"{self._edits} edits were there already" + self._ended())
            return
        reference = self._stream.reference
        for edits in self._stream.checkpoints if reference is None else reference:
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
                    checked()
                    if ended := self._ended():
                        self._say(f"ends after {behind} edits{ended}")
                        return

    def _ended(self) -> str:
        why = self._stream.ends(self._rows[-1]) if self._rows else ""
        return f": {why}" if why else ""

    def _write(self, editor: Editor, first: int, behind: int) -> None:
        facts = [record.fact for record in self._stream.records[first:behind]]
        start = time.perf_counter()
        try:
            report = self._applied(editor, facts)
            self._norms += [one.value_norm for one in report.outcomes]
            self._refused = next((one.reason for one in report.outcomes if one.reason), self._refused)
        except EditError as error:
            # A model far gone cannot be written to; the facts count as missed, the stream goes on.
            self._refused = str(error)
            self._say(f"facts {first + 1} to {behind} could not be written: {error}")
        every = self._stream.compact_every
        if every and behind % every == 0 and not editor.method.tuned:
            editor.compact()
        took = time.perf_counter() - start
        self._edits, self._seconds = behind, self._seconds + took
        last = self._stream.checkpoints[-1]
        left = (last - behind) * took / len(facts)
        told = f"{behind} edits, {took / len(facts):.2f} s an edit, {left / 60:.0f} min to go"
        self._say(f"{bar(behind / last)} {told}")

    def _applied(self, editor: Editor, facts: Sequence[Fact]) -> Report:
        # What was trained into the weights cannot be taken out of them.
        if self._stream.keeps or (editor.method.tuned and not editor.method.whole):
            return editor.apply(facts, stay=editor.state.ids)
        slots = {(fact.subject, fact.prompt) for fact in facts}
        held = [fact.id for fact in editor.state.facts if (fact.subject, fact.prompt) in slots]
        return editor.apply(facts, remove=held)

    def _check(self, editor: Editor, measured: Weights) -> None:
        rows = [self._row(editor, measured, "")]
        if self._stream.compact and not editor.method.tuned:
            state = editor.state
            start = time.perf_counter()
            editor.compact()
            took = time.perf_counter() - start
            rows.append(self._row(editor, measured, COMPACTED) | {"seconds": took})
            editor.restore(state)
        self._rows += rows
        self._norms, self._refused = [], ""
        # Rows without their state would be taken for done, so they come second; then the old state may go.
        write_state(self._state(), editor.state)
        write_json(self._file, {"edits": self._edits, "seconds": self._seconds, "rows": self._rows})
        for old in set(self._folder.glob("state-*")) - {self._state()}:
            old.unlink()
        for row in rows:
            self._say(", ".join(f"{name} {row[name]:.4g}" for name in TOLD if name in row))

    def _state(self) -> Path:
        return self._folder / f"state-{self._edits}.safetensors"

    def _row(self, editor: Editor, measured: Weights, suffix: str) -> Row:
        stream, chosen = self._stream, self._configuration
        scorer = Scorer(editor.model, editor.tokenizer)
        told = text_perplexity(scorer, stream.texts)
        row = named(
            stream, chosen.method + suffix, chosen.placement, chosen.anchor, chosen.protect, self._edits
        )
        row |= _scored(scorer, stream, self._edits, editor)
        row |= {"perplexity_ratio": told / self._base.perplexity, **measured.ratios(editor)}
        every = f"compact_every={stream.compact_every}" if stream.compact_every else ""
        options = ",".join(filter(None, (chosen.options, every)))
        row |= {"seconds": self._seconds, "options": options, "written": len(editor.state.facts)}
        return row | {"perplexity": told, "value_norm": mean(self._norms), "refused": self._refused}


def named(stream: Stream, method: str, placement: str, anchor: str, protect: str, edits: int) -> Row:
    row: Row = {"method": method, "placement": placement, "anchor": anchor, "protect": protect}
    return row | {"batch": stream.batch, "edits": edits, "dataset": stream.dataset}


def _scored(scorer: Scorer, stream: Stream, edits: int, editor: Editor | None = None) -> Row:
    records = stream.scored(edits)
    row: Row = {**asdict(score(scorer, records)), "scored": len(records)}
    for name, part in stream.tenths(edits).items():
        row[f"retention_{name}"], row[f"exact_{name}"] = retention(scorer, part)
    row |= stream.asks.row(stream, edits, editor) if stream.asks else {}
    return row | ability(scorer, stream.glue)
