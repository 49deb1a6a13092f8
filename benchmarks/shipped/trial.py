"""One run of a stream through the shipped daemon, and what is seen of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data import Record
from benchmarks.files import Say
from benchmarks.runs import scored_sample
from benchmarks.scores import score, text_perplexity
from benchmarks.shipped.applying import BuildMonitoring, ShippedDaemon
from benchmarks.shipped.faults import FaultyEditor
from benchmarks.streams import Step
from daemon.apply.building import build_monitoring
from daemon.core.lifecycle import State
from daemon.core.messages import MAX_NAME, Correction, Neighbour
from daemon.core.publication import BASE_VERSION
from daemon.ledger.rows import VersionRow
from monitoring.measurements import Measurements
from monitoring.registry import MEASURES, SCALAR_MEASURES

#: A model has collapsed beyond this perplexity ratio, or below this S.
COLLAPSED_PERPLEXITY, COLLAPSED_S = 3.0, 60.0
#: Held-out documents that the perplexity of each version is measured on: the horizon's 48 take too long here,
#: and 4 scatter by some per cent.
TEXTS = 16
#: Paraphrases and neighbours that are posted with a correction.
CASE_PROMPTS = 1
#: Step of the guard's ladder → what it is called in a row.
EVENTS = {
    "refuse": "refused",
    "rollback": "rolled_back",
    "compact": "compacted",
    "consolidate": "consolidated",
    "pause": "paused",
}


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


class Trial:
    """One run of a stream, in a state directory of its own."""

    def __init__(
        self,
        editor: FaultyEditor,
        root: Path,
        out: Path,
        plan: Plan,
        guard: bool,
        say: Say,
        monitoring: BuildMonitoring = build_monitoring,
    ) -> None:
        self._editor, self._plan, self._say = editor, plan, say
        self.daemon = ShippedDaemon(
            root,
            out,
            editor,
            batch=plan.batch,
            guard=guard,
            flipped=self._flipped,
            monitoring=monitoring,
        )
        self._base_perplexity = self._perplexity()
        #: version → perplexity on held-out text over the base's, when it was first served
        self._served = {BASE_VERSION: 1.0}
        self._good: list[Record] = []
        self._live: set[str] = set()
        self._edits, self._next_score, self._seen, self._compactions = 0, plan.score_every, 0, 0
        self._known: set[str] = set()
        self._at: dict[str, int | None] = dict.fromkeys(
            ("warned", *EVENTS.values(), "publish_failed", "collapse")
        )
        self.failure: str | None = None
        self._first: dict[str, dict[str, int]] = {"warn": {}, "limit": {}}
        self._best_retention, self._retention_drop = 0.0, 0.0
        self.series: list[dict[str, Any]] = []

    def close(self) -> None:
        self.daemon.close()

    @property
    def over(self) -> bool:
        return self._at["collapse"] is not None or self.daemon.paused or self.failure is not None

    def post(self, step: Step) -> None:
        """Posts a step, lets the daemon work, and looks at what became of it."""
        ids = [record.fact.id for record in step.records]
        self._edits += len(ids)
        self._good += [record for record in step.records if record.fact.id not in step.harmful]
        self._editor.noise = step.noise
        if step.huge:
            self._editor.huge |= frozenset(ids)
        self.daemon.step([(id, correction(record)) for id, record in zip(ids, step.records, strict=True)])
        self._look()

    def _perplexity(self) -> float:
        return text_perplexity(self.daemon.replica.scorer, self._plan.texts[:TEXTS])

    def _flipped(self, version: str) -> None:
        if version not in self._served:
            ratio = self._perplexity() / self._base_perplexity
            # A perplexity that is no number is no better than an infinite one.
            self._served[version] = math.inf if math.isnan(ratio) else ratio

    def _look(self) -> None:
        self.failure = self.daemon.failure
        if self.failure is not None:
            self._mark("publish_failed")
        self._live = self.daemon.ids(State.LIVE)
        for transition in self.daemon.steps(self._seen):
            self._seen = transition.seq
            if transition.new in EVENTS:
                self._mark(EVENTS[transition.new])
        for version in self.daemon.versions():
            # Of known ones too: a version that is watched may be judged otherwise than when it was new.
            self._note(version)
            if version.id not in self._known:
                self._known.add(version.id)
                self._record(version)
        self._check()

    def _note(self, version: VersionRow) -> None:
        """When each measure first warned and first passed its limit."""
        for name, state in (version.verdict or {}).get("guards", {}).items():
            if state in ("warn", "limit"):
                self._mark("warned")
                self._first["warn"].setdefault(name, self._edits)
            if state == "limit":
                self._first["limit"].setdefault(name, self._edits)

    def _mark(self, event: str) -> None:
        if self._at[event] is None:
            self._at[event] = self._edits
            self._say(f"{event} at {self._edits} edits")

    def _record(self, version: VersionRow) -> None:
        """Adds a version that was judged to the series."""
        if version.verdict is None:
            self._say(f"{version.id} was given up: {version.reason}")
            return
        # The ledger keeps with a version what was measured of it if it was accepted.
        measured = Measurements.from_json(version.measurements or {})
        published, states = version.id in self._served, version.verdict["guards"]
        self._compactions += self.daemon.compacted(version)
        if published and measured.retention_ratio is not None:
            self._best_retention = max(self._best_retention, measured.retention_ratio)
            self._retention_drop = max(self._retention_drop, self._best_retention - measured.retention_ratio)
        stopped = [name for name, state in states.items() if state in ("limit", "unknown")]
        told = {"edits": self._edits, "version": version.id, "live": len(self._live), "published": published}
        told |= {"s": None, "perplexity_ratio": self._served.get(version.id)}
        told |= {"outcome": version.verdict["outcome"], "stopped_by": stopped}
        spent = {"edit": self.daemon.edit_seconds(version.id), **measured.seconds} if published else {}
        self.series.append(told | {"seconds": spent} | worst_of_layers(measured))
        self._say(_told(told))

    def _check(self) -> None:
        """Has the model that is served collapsed?"""
        s = None
        live = [record for record in self._good if record.fact.id in self._live]
        served = [point for point in self.series if point["published"]]
        if self._edits >= self._next_score and live and served:
            self._next_score = self._edits + self._plan.score_every
            s = score(self.daemon.replica.scorer, scored_sample(live, self._plan.sample, 0)).s
            served[-1]["s"] = s
        ratio = self._served.get(self.daemon.replica.version, 1.0)
        if ratio > COLLAPSED_PERPLEXITY or (s is not None and s < COLLAPSED_S):
            self._mark("collapse")

    def row(self) -> dict[str, Any]:
        good = {record.fact.id for record in self._good}
        return {
            "edits": self._edits,
            "collapsed": self._at["collapse"] is not None,
            "worst_published_perplexity_ratio": max(self._served.values()),
            **{f"{event}_at": at for event, at in self._at.items()},
            "good_live_ratio": len(good & self._live) / len(good),
            "good_superseded": len(good & self.daemon.ids(State.SUPERSEDED)),
            "worst_retention_drop": self._retention_drop,
            "compactions": self._compactions,
            "publish_failure": self.failure,
            "first_warn": self._first["warn"],
            "first_limit": self._first["limit"],
        }


def _told(told: dict[str, Any]) -> str:
    shown = {name: value for name, value in told.items() if value not in (None, [])}
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in shown.items()
    )


def correction(record: Record) -> Correction:
    """A record as somebody posts it.

    Prompts of a data set may have several lines, a post has one; an answer may be longer than what the
    product takes, and its neighbour is left out then.
    """
    fact = record.fact
    near = [one for one in record.neighbours if len(one.answer) <= MAX_NAME]
    return Correction(
        subject=fact.subject,
        prompt=fact.prompt,
        target=fact.target,
        was=record.old,
        paraphrases=[_line_of(text) for text in record.paraphrases[:CASE_PROMPTS]],
        neighbours=[
            Neighbour(prompt=_line_of(one.prompt), answer=_line_of(one.answer)) for one in near[:CASE_PROMPTS]
        ],
    )


def _line_of(text: str) -> str:
    return " ".join(text.split())


def worst_of_layers(measured: Measurements) -> dict[str, float | None]:
    """Each measure's one value; of those by layer the one furthest from 1, or for drifts the largest."""
    found: dict[str, float | None] = {name: getattr(measured, name) for name in SCALAR_MEASURES}
    for one in (each for each in MEASURES if each.kind == "layer"):
        away = {value: abs(value - one.healthy) for value in getattr(measured, one.name).values()}
        found[one.name] = max(away, key=away.__getitem__) if away else None
    return found
