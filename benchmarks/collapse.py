"""Streams that end in collapse, with the guard off and on: what it saw, and what it kept from being served.

After each step the model is measured and judged as the daemon does it. With the guard off every version is
published and the stream ends when the model has collapsed: perplexity on held-out text above three times the
base's, or S of the harmless facts below 60. With it on a version that is not accepted is undone; what is
blamed is left out, or else the batch is halved; when nothing has come through for some steps, the stream is
paused. A worn model is compacted when it refuses, as by the daemon's ladder; unlike there, a single
correction that it refuses does not wait beyond its step: where nothing was compacted it counts as missed.
"""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.configuration import Configuration, Model
from benchmarks.data import Record
from benchmarks.files import Say, read_json, write_json
from benchmarks.horizon import scored_sample
from benchmarks.scores import score, text_perplexity
from benchmarks.streams import STREAMS, InverseMoments, Step, add_noise, unbounded
from editing.editor import Editor
from editing.errors import EditError
from editing.report import Outcome
from monitoring.measurements import Case, Measurements
from monitoring.measuring.baseline import Baseline, open_baseline
from monitoring.measuring.measure import Memory, measure
from monitoring.measuring.probes import default_probes
from monitoring.measuring.scoring import Scorer
from monitoring.registry import MEASURES, SCALAR_MEASURES
from monitoring.verdict import Verdict, judge, worn

#: A model has collapsed beyond this perplexity ratio, or below this S.
COLLAPSED_PERPLEXITY, COLLAPSED_S = 3.0, 60.0
#: Steps in a row without a correction that came through, before the queue is paused.
PAUSE_AFTER = 3
#: Held-out documents that the perplexity of each version is measured on: the horizon's 48 take too long here,
#: and 4 scatter by some per cent.
TEXTS = 16
#: Versions refused in a row within a step, before what is left of the step is given up.
TRIED = 4
#: Published versions between two compactions, at least: half of what the daemon waits, for want of time.
COMPACT_AFTER = 10
#: Paraphrases and neighbours of a correction that the guard is told of.
CASE_PROMPTS = 1


@dataclass(frozen=True)
class Plan:
    """What all streams of a run have in common.

    Attributes:
        records: harmless facts, as many as are posted at most.
        texts: held-out documents, the first `TEXTS` of which the published perplexity is measured on.
        dataset: name of the facts' file.
        batch: corrections posted at once.
        score_every: posted corrections between two measurements of S.
        sample: live harmless facts that S is measured on, at most.
    """

    records: Sequence[Record]
    texts: Sequence[str]
    dataset: str
    batch: int = 20
    score_every: int = 60
    sample: int = 30


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
    ids = [record.fact.id for record in plan.records]
    what = [stream, guard, model.install.directory.name, model.install.tokens, STREAMS[stream].configuration]
    what += [ids, plan.batch, plan.score_every, plan.sample, TEXTS]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


def run(model: Model, plan: Plan, name: str, guard: bool, out: Path, say: Say) -> dict[str, Any]:
    """One stream: its row of collapse.json and its series of measurements."""
    stream, start = STREAMS[name], time.perf_counter()
    if stream.wrong_moments:
        model = replace(model, install=InverseMoments(model.install))
    with model.editor(Configuration.parse(stream.configuration)) as editor:
        baseline = open_baseline(editor, default_probes(), out / "baselines")
        told = f"{name}, guard {'on' if guard else 'off'}"
        trial = Trial(editor, baseline, plan, guard, lambda text: say(f"{told}: {text}"), stream.singly)
        for step in stream.steps(plan.records, plan.batch):
            trial.post(step)
            if trial.over:
                break
        row = {"stream": name, "guard": guard, **trial.row(), "configuration": stream.configuration}
        row["seconds"] = time.perf_counter() - start
        return {"row": row, "noise": baseline.noise, "series": trial.series}


@dataclass(frozen=True)
class Version:
    """A version that was made and looked at."""

    records: tuple[Record, ...]
    measured: Measurements
    verdict: Verdict
    perplexity_ratio: float
    edit_seconds: float


class Trial:
    """One run of a stream."""

    def __init__(
        self, editor: Editor, baseline: Baseline, plan: Plan, guard: bool, say: Say, singly: bool = False
    ) -> None:
        self._editor, self._baseline, self._plan, self._guard, self._say = editor, baseline, plan, guard, say
        self._singly = singly
        self._scorer = Scorer(editor.model, editor.tokenizer)
        self._base_perplexity = text_perplexity(self._scorer, plan.texts[:TEXTS])
        self._thresholds, self._memory = baseline.thresholds(), Memory()
        self._live: list[Record] = []
        self._good: list[Record] = []
        self._published: Measurements | None = None
        self._edits, self._versions, self._idle, self._next_score = 0, 0, 0, plan.score_every
        self._at: dict[str, int | None] = dict.fromkeys(
            ("warned", "refused", "rolled_back", "compacted", "collapse", "paused")
        )
        self._worn, self._since_compaction, self._compactions = False, COMPACT_AFTER, 0
        self._first: dict[str, dict[str, int]] = {"warn": {}, "limit": {}}
        self._ratio, self._worst, self._best_retention, self._retention_drop = 1.0, 1.0, 0.0, 0.0
        self.series: list[dict[str, Any]] = []

    @property
    def over(self) -> bool:
        return self._at["collapse"] is not None or self._at["paused"] is not None

    def post(self, step: Step) -> None:
        """Takes a step, and whatever becomes of it."""
        self._edits += len(step.records)
        self._good += [record for record in step.records if record.fact.id not in step.harmful]
        before = len(self._live)
        if self._guard:
            self._guarded(step)
        else:
            version = self._make(step.records, step)
            if version is not None:
                self._publish(version)
        self._check(step, came_through=len(self._live) > before)

    def _guarded(self, step: Step) -> None:
        """Publishes what the guard accepts; what it does not is undone and tried in smaller company."""
        queue, refusals = [step.records], 0
        while queue and refusals < TRIED:
            batch = queue.pop(0)
            before = self._editor.state
            version = self._make(batch, step)
            if version is not None and version.verdict.outcome == "accepted":
                self._publish(version)
                refusals = 0
                continue
            refusals += 1
            if version is not None:
                self._record(version, published=False)
            self._editor.restore(before)
            self._mark("refused" if batch else "rolled_back")
            if self._worn and self._since_compaction >= COMPACT_AFTER and self._compact(step):
                queue, refusals = [batch, *queue], 0
            elif len(batch) > 1:
                queue = _smaller(batch, version) + queue

    def _compact(self, step: Step) -> bool:
        """Writes all live facts anew, and publishes that if the guard lets it; tells whether it did."""
        self._mark("compacted")
        self._since_compaction = 0
        before = self._editor.state
        version = self._make((), step, compacting=True)
        if version is None or version.verdict.outcome != "accepted":
            self._editor.restore(before)
            return False
        self._compactions += 1
        self._publish(version)
        return True

    def _make(self, records: tuple[Record, ...], step: Step, compacting: bool = False) -> Version | None:
        """Edits, measures and judges; None when the editor itself refused."""
        editor, before, start = self._editor, self._editor.state, time.perf_counter()
        self._versions += 1
        try:
            if compacting:
                editor.compact()
            outcomes = [] if compacting else self._write(records, step.huge)
        except EditError as error:
            self._say(f"refused by the editor: {error}")
            editor.restore(before)
            return None
        if step.noise and not compacting:
            add_noise(editor, step.noise, seed=self._versions)
        edit_seconds = time.perf_counter() - start
        ids = {outcome.id for outcome in outcomes if outcome.written}
        written = tuple(record for record in records if record.fact.id in ids)
        ratios = [o.value_norm_ratio for o in outcomes if o.written and not math.isnan(o.value_norm_ratio)]
        measured = measure(
            editor,
            self._baseline,
            [case(record) for record in written],
            [case(record) for record in self._live],
            max(ratios, default=None),
            default_probes(),
            memory=self._memory,
        )
        verdict = judge(measured, self._thresholds, self._published if self._guard else None)
        self._note(verdict)
        return Version(written, measured, verdict, self._perplexity_ratio(), edit_seconds)

    def _write(self, records: tuple[Record, ...], huge: bool) -> list[Outcome]:
        editor, options = self._editor, self._editor.options
        editor.options = unbounded(options) if huge else options
        try:
            edits = [(record,) for record in records] if self._singly else [records]
            return [o for edit in edits for o in editor.apply([record.fact for record in edit]).outcomes]
        finally:
            editor.options = options

    def _perplexity_ratio(self) -> float:
        ratio = text_perplexity(self._scorer, self._plan.texts[:TEXTS]) / self._base_perplexity
        # A perplexity that is no number is no better than an infinite one.
        return math.inf if math.isnan(ratio) else ratio

    def _note(self, verdict: Verdict) -> None:
        """When each measure first warned and first passed its limit."""
        for name, state in verdict.states.items():
            if state in ("warn", "limit"):
                self._mark("warned")
                self._first["warn"].setdefault(name, self._edits)
            if state == "limit":
                self._first["limit"].setdefault(name, self._edits)

    def _mark(self, event: str) -> None:
        if self._at[event] is None:
            self._at[event] = self._edits
            self._say(f"{event} at {self._edits} edits")

    def _publish(self, version: Version) -> None:
        self._live += version.records
        self._worn, self._since_compaction = bool(worn(version.verdict.states)), self._since_compaction + 1
        self._published, self._ratio = version.measured, version.perplexity_ratio
        self._worst = max(self._worst, self._ratio)
        kept = version.measured.retention_ratio
        if kept is not None:
            self._best_retention = max(self._best_retention, kept)
            self._retention_drop = max(self._retention_drop, self._best_retention - kept)
        self._record(version, published=True)

    def _record(self, version: Version, published: bool) -> None:
        told = {"perplexity_ratio": version.perplexity_ratio, "outcome": version.verdict.outcome}
        spent = {"edit": version.edit_seconds, **version.measured.seconds}
        stopped = [name for name, state in version.verdict.states.items() if state in ("limit", "unknown")]
        counts = {"edits": self._edits, "live": len(self._live), "published": published, "s": None}
        why = {"stopped_by": stopped, "seconds": spent}
        self.series.append(counts | told | why | worst_of_layers(version.measured))
        self._say(
            ", ".join(
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in (counts | told | {"stopped_by": stopped}).items()
                if value not in (None, [])
            )
        )

    def _check(self, step: Step, came_through: bool) -> None:
        """Has the model collapsed, or does nothing come through any more?"""
        s = None
        if self._edits >= self._next_score and self.series:
            self._next_score = self._edits + self._plan.score_every
            good = {record.fact.id for record in self._good}
            live = [record for record in self._live if record.fact.id in good]
            s = score(self._scorer, scored_sample(live, self._plan.sample, 0)).s if live else None
            self.series[-1]["s"] = s
        if self._ratio > COLLAPSED_PERPLEXITY or (s is not None and s < COLLAPSED_S):
            self._mark("collapse")
        if step.records:
            self._idle = 0 if came_through else self._idle + 1
        if self._guard and self._idle >= PAUSE_AFTER:
            self._mark("paused")

    def row(self) -> dict[str, Any]:
        good, live = {record.fact.id for record in self._good}, {record.fact.id for record in self._live}
        return {
            "edits": self._edits,
            "collapsed": self._at["collapse"] is not None,
            "worst_published_perplexity_ratio": self._worst,
            **{f"{event}_at": at for event, at in self._at.items()},
            "good_live_ratio": len(good & live) / len(good),
            "worst_retention_drop": self._retention_drop,
            "compactions": self._compactions,
            "first_warn": self._first["warn"],
            "first_limit": self._first["limit"],
        }


def _smaller(batch: tuple[Record, ...], version: Version | None) -> list[tuple[Record, ...]]:
    """What to try instead of a batch that was refused: those not blamed, or its halves."""
    blamed = set(version.verdict.blamed) if version is not None else set()
    left = tuple(record for record in batch if record.fact.id not in blamed)
    if blamed and left:
        return [left]
    middle = (len(batch) + 1) // 2
    return [batch[:middle], batch[middle:]]


def case(record: Record) -> Case:
    """A record as monitoring sees a correction."""
    fact = record.fact
    neighbours = tuple((n.prompt, n.answer) for n in record.neighbours[:CASE_PROMPTS])
    return Case(fact.id, fact.text, fact.target, record.old, record.paraphrases[:CASE_PROMPTS], neighbours)


def worst_of_layers(measured: Measurements) -> dict[str, float | None]:
    """Each measure's one value; of those by layer the one furthest from 1, or for drifts the largest."""
    found: dict[str, float | None] = {name: getattr(measured, name) for name in SCALAR_MEASURES}
    for one in (each for each in MEASURES if each.kind == "layer"):
        away = {value: abs(value - one.healthy) for value in getattr(measured, one.name).values()}
        found[one.name] = max(away, key=away.__getitem__) if away else None
    return found


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
    "worst_published_perplexity_ratio",
    "worst_retention_drop",
    "good_live_ratio",
)


def table(rows: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """Rows of `COLUMNS`."""

    def shown(value: Any) -> Any:
        return f"{value:.3g}" if isinstance(value, float) else value

    return [[shown(row[name]) for name in COLUMNS] for row in rows]
