"""How long a correction waits until it is live, with and without work in the background.

    python -m benchmarks.service.waiting --facts 60 --work compact --state DIR --out DIR

In one run so many facts go live. Then corrections are posted, each a moment after the one before is live:
first while nothing else runs, then until a compaction or consolidation that was asked for is live, then
while nothing runs again. As shipped are ledger, applier, measures, judge, store, proof and the background
process. Not as shipped: the replica is a stub that holds weights, corrections come straight to the ledger,
and what the guard says is written down only.
"""

import argparse
import functools
import itertools
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.errors import BenchError
from benchmarks.files import Progress, say, write_json
from benchmarks.intervals import quantile
from benchmarks.shipped.applying import ShippedDaemon, ShippedSettings
from daemon.apply.applier import Applier
from daemon.apply.background.jobs import Beside, Jobs
from daemon.apply.building import open_editor
from daemon.core.lifecycle import FINAL, OperationState, State
from daemon.core.messages import Correction
from daemon.ledger.ledger import Ledger
from editing.values.anchor import pilot_facts

#: Rings of the doorbell when nobody posts, as `factd up` rings it, seconds.
RING_SECONDS = 5.0
#: Between two looks whether a correction is live, seconds.
LOOK_SECONDS = 0.05
#: Quantiles that are told.
SHARES = {"p50": 0.5, "p95": 0.95}
#: Facts of the beginning that go live at once.
BATCH = 16


class WaitError(BenchError):
    """Raised when what is timed did not happen: a correction or the work ended otherwise."""


@dataclass(frozen=True)
class Posted:
    """How corrections are posted.

    Attributes:
        quiet: so many while nothing else runs, half of them before the work and half after it.
        most: at most so many beside the work.
        pause: between two posts, at most, seconds.
    """

    quiet: int
    most: int
    pause: float


class Service:
    """An applier in a thread of its own, rung as a worker is.

    Args:
        seed: of the moments between two posts.
        pause: at most so long, seconds.
    """

    def __init__(self, ledger: Ledger, applier: Applier, *, pause: float, seed: int = 0) -> None:
        self._ledger, self._applier, self._pause = ledger, applier, pause
        self._moments = random.Random(seed)
        self._bell, self._ended, self._fault = threading.Event(), threading.Event(), list[Exception]()
        self._thread = threading.Thread(target=self._work, name="applier")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._bell.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._ended.is_set():
            self._bell.wait(RING_SECONDS)
            self._bell.clear()
            try:
                self._applier.run(self._ended.is_set)
            except Exception as error:
                self._fault.append(error)
                raise

    def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            if self._fault:
                raise WaitError(f"the applier ended: {self._fault[0]!r}") from self._fault[0]
            time.sleep(LOOK_SECONDS)

    def post(self, posts: Mapping[str, Correction]) -> float:
        """Posts corrections by id and waits; seconds until all are live.

        Raises:
            WaitError: one ended otherwise.
        """
        begun, questions = time.monotonic(), self._ledger.questions
        for id, correction in posts.items():
            self._ledger.intake.submit(correction, id)
        self._bell.set()
        self._until(lambda: all(questions.get(id).state in FINAL for id in posts))
        seconds = time.monotonic() - begun
        for id in posts:
            if (row := questions.get(id)).state is not State.LIVE:
                raise WaitError(f"{id} is {row.state}, not live: {row.reason}")
        return seconds

    def waits(self, posts: Iterator[tuple[str, Correction]], enough: Callable[[int], bool]) -> list[float]:
        """Of single corrections, until there are enough; a moment of rest before each."""
        found = list[float]()
        while not enough(len(found)):
            time.sleep(self._moments.uniform(0.0, self._pause))
            found.append(self.post(dict([next(posts)])))
        return found

    def beside(
        self, posts: Iterator[tuple[str, Correction]], kind: str, most: int
    ) -> tuple[list[float], float, dict[str, float]]:
        """Waits of corrections until work that is asked for is live, at most so many of them.

        Returns:
            The waits; seconds until the work was live; and of the version that it became the seconds of each
            stage. Meanwhile the applier does nothing else: a correction that comes then waits for them.

        Raises:
            WaitError: it failed.
        """
        begun, questions = time.monotonic(), self._ledger.questions
        number = self._ledger.intake.request(kind, None, actor="operator")
        self._bell.set()

        def over() -> bool:
            return questions.operation(number).state is not OperationState.PENDING

        found = self.waits(posts, lambda count: over() or count >= most)
        say(f"waits beside it: {_told(found)}")
        self._until(over)
        seconds, done = time.monotonic() - begun, questions.operation(number)
        if done.state is not OperationState.DONE:
            raise WaitError(f"{kind} {done.state}: {done.reason}")
        version = next(each for each in questions.versions() if each.operation == number and each.live_at)
        # `pause` is the replicas' part of `publish`.
        stages = {stage: took for _, stage, took in questions.stage_seconds(version.id) if stage != "pause"}
        return found, seconds, stages


def measured(
    service: Service, posts: Iterator[tuple[str, Correction]], kind: str, posted: Posted
) -> dict[str, Any]:
    """What a run gives: waits without the work, half of them before it and half after; and with it.

    `applier_seconds`: what the applier itself takes for the version that the work becomes. A correction that
    is posted just then waits so much longer.
    """
    half = -(-posted.quiet // 2)
    before = service.waits(posts, lambda count: count >= half)
    say(f"{kind} begins; waits before it: {_told(before)}")
    beside, seconds, stages = service.beside(posts, kind, posted.most)
    say(f"{kind} is live after {seconds:.0f} s, {sum(stages.values()):.1f} s of it by the applier")
    after = service.waits(posts, lambda count: count >= posted.quiet - half)
    alone = [*before, *after]
    rows = [summary(None, alone), summary(kind, beside)]
    return {
        "work": kind,
        "work_seconds": seconds,
        "rows": rows,
        "longer_p50_seconds": rows[1]["p50_seconds"] - rows[0]["p50_seconds"],
        "longer_longest_seconds": max(beside) - max(alone),
        "applier_seconds": sum(stages.values()),
        "stage_seconds": stages,
        "alone_seconds": alone,
        "beside_seconds": beside,
    }


def summary(beside: str | None, waits: Sequence[float]) -> dict[str, Any]:
    """Median, p95 and the longest; intervals hold the truth in 95 of 100 cases, null where n is too small."""
    row: dict[str, Any] = {"beside": beside, "corrections": len(waits), "longest_seconds": max(waits)}
    for name, share in SHARES.items():
        value, (low, high) = quantile(waits, share)
        row |= {f"{name}_seconds": value, f"{name}_low": low, f"{name}_high": high}
    return row


def corrections() -> Iterator[tuple[str, Correction]]:
    """Of the pilot table, each of another subject and prompt, in a shuffled order."""
    seen = set[tuple[str, str]]()
    for fact in pilot_facts(10**6, seed=1):
        if (slot := (fact.subject, fact.prompt)) not in seen:
            seen.add(slot)
            yield f"w{len(seen)}", Correction(subject=fact.subject, prompt=fact.prompt, target=fact.target)


def _told(waits: Sequence[float]) -> str:
    return f"{len(waits)}, {min(waits):.1f} to {max(waits):.1f} s"


def environment(settings: ShippedSettings) -> dict[str, str]:
    """What the background process is told: the settings of this run and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FACTD_")}
    told: dict[str, object] = {
        "STATE_DIR": settings.state_dir,
        "STATISTICS_DIR": settings.statistics,
        "MODEL": settings.model,
        "CONSOLIDATION_EPOCHS": settings.consolidation_epochs,
    }
    return kept | {f"FACTD_{name}": str(value) for name, value in told.items()}


def run(settings: ShippedSettings, kind: str, facts: int, posted: Posted) -> dict[str, Any]:
    """One run on a new state directory, in which so many facts go live first."""
    editor = open_editor(settings, Progress(say))
    daemon = ShippedDaemon(settings.state_dir, settings.statistics, editor, batch=BATCH, guard=False)
    jobs = Jobs(
        settings.state_dir / "background",
        editor.settings_hash,
        functools.partial(Beside, environment=environment(settings)),
        fewest=1,
        consolidation=repr(editor.consolidation),
    )
    daemon.applier.jobs, posts = jobs, corrections()
    try:
        with Service(daemon.ledger, daemon.applier, pause=posted.pause) as service:
            while batch := dict(itertools.islice(posts, min(BATCH, facts))):
                facts -= len(batch)
                say(f"{len(batch)} facts went live in {service.post(batch):.0f} s; {facts} are left")
            return measured(service, posts, kind, posted)
    finally:
        jobs.stop()
        daemon.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--facts", type=int, default=60, help="live when the waits begin")
    parser.add_argument("--quiet", type=int, default=20, help="corrections without work, half before it")
    parser.add_argument("--most", type=int, default=40, help="corrections beside the work, at most")
    parser.add_argument("--work", choices=("compact", "consolidate"), default="compact")
    parser.add_argument("--epochs", type=int, default=6, help="of the consolidation")
    parser.add_argument("--pause", type=float, default=2.0, help="longest rest before a post, seconds")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--state", type=Path, required=True, help="statistics of the model")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    given = parser.parse_args()
    posted = Posted(given.quiet, given.most, given.pause)
    with tempfile.TemporaryDirectory(prefix="factd-waiting-") as folder:
        settings = ShippedSettings.but(
            state_dir=Path(folder),
            statistics_dir=given.state.absolute(),
            model=given.model,
            consolidation_epochs=given.epochs,
        )
        found = run(settings, given.work, given.facts, posted)
    found = {"model": given.model, "facts": given.facts, **found}
    write_json(given.out / f"waiting-{given.work}.json", found)
    told = ("work_seconds", "longer_p50_seconds", "longer_longest_seconds", "applier_seconds")
    say(json.dumps({name: found[name] for name in told}))


if __name__ == "__main__":
    main()
