"""The recovery ladder: the guard's steps, each journaled with its reason before it takes effect.

    a staged version is rejected      → refuse it; halve; quarantine the guilty (`daemon.apply.discards`);
                                        if only wear of the model is wrong, the correction waits
    the live version is rejected      → roll back to the newest healthy version
    refusals, or little room is left  → compact from the base, or consolidate where it is told to;
                                        a consolidation that fails → compact
    none of these helped              → pause the queue
    the base is live, and nothing passes → pause the queue: there is nothing to compact or go back to

`monitoring.policy` says what each verdict leads to, and how often. This module knows the ledger.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from daemon.apply.measuring import Foresee
from daemon.apply.outcomes import Held, Went
from daemon.core.actors import ActorKind
from daemon.core.errors import StoreError
from daemon.core.lifecycle import REWRITING, OperationKind, OperationState, VersionState
from daemon.core.publication import BASE_VERSION
from daemon.core.ruling import Ruling, guard_policy, guard_rewrites
from daemon.core.settings import Settings
from daemon.core.stages import Stage
from daemon.ledger.journal import Journal
from daemon.ledger.rows import OperationRow, VersionRow
from daemon.versions.store import Store
from monitoring.policy import PolicyState, decide
from monitoring.registry import OF_THE_BATCH, WEAR
from monitoring.verdict import Verdict, worn

#: So many single corrections in a row were refused for wear alone: it is the model, not the corrections.
#: Halving puts some batches before each of them.
WORN_OUT, TRIED = 3, 10
#: So many single corrections in a row were refused while the base is live: the method, its statistics or the
#: posts are at fault. Three could be one user's mistakes; each correction more ends as rejected for nothing.
REFUSED_ON_BASE = 5
#: A consolidation's seconds a fact until one was done: its value found and written anew; trained, an epoch.
#: The bundled model's on one core, in three forms (docs/log/consolidation.md).
WRITTEN_SECONDS, EPOCH_SECONDS = 1.0, 0.75

_PASSED = Verdict("accepted", (), (), {})


class Ladder:
    """The guard's half of one run of the applier."""

    def __init__(
        self,
        journal: Journal,
        store: Store,
        settings: Settings,
        foresee: Foresee,
        reached: Callable[[Stage], None],
    ) -> None:
        self.journal, self.store, self.settings = journal, store, settings
        self.foresee, self.reached = foresee, reached
        self.policy = guard_policy(settings)

    # -- verdicts to rulings --------------------------------------------------------------------

    def on_staged(self, version: VersionRow, verdict: Verdict) -> Ruling:
        state, now = self.journal.questions.policy(), self.journal.clock()
        if version.operation is None:
            return Ruling("staged", verdict, decide(state, verdict, "staged", now, self.policy))
        # A retraction or a compaction may be what ends a pause: it is judged for itself.
        decision = decide(PolicyState(), verdict, "staged", now, self.policy)
        return Ruling("staged", verdict, replace(decision, state=state))

    def on_live(self, verdict: Verdict) -> Ruling:
        decision = decide(self.journal.questions.policy(), verdict, "live", self.journal.clock(), self.policy)
        return Ruling("live", verdict, decision)

    def on_alert(self, operation: OperationRow) -> Ruling | None:
        """The guard's ruling on an alert's rollback, which has the same limits as its own.

        Only asked before the first attempt; None for other operations and later attempts.
        """
        alert = operation.kind is OperationKind.ROLLBACK and operation.actor_kind is ActorKind.ALERT
        if not alert or operation.attempts:
            return None
        return self.on_live(Verdict("rejected", (operation.why or operation.actor,), (), {}))

    def only_wear(self, verdict: Verdict) -> bool:
        """Whether the only thing wrong is wear that the live version already shows."""
        passed = _passed_limits(verdict.states)
        return bool(passed) and passed <= set(self._worn(self.journal.questions.live_version()))

    def rest(self) -> Went | Held:
        """Held while the guard would not even let a good version through."""
        now = self.journal.clock()
        decision = decide(self.journal.questions.policy(), _PASSED, "staged", now, self.policy)
        return Went() if decision.action == "accept" else Held(decision.reason)

    # -- watch ----------------------------------------------------------------------------------

    def watch_due(self) -> bool:
        """The base is never due: there is nothing to go back to, and its hashes are compared anyway."""
        every, live = self.settings.guard_watch_seconds, self.journal.questions.live_version()
        if not every or live == BASE_VERSION:
            return False
        questions, now = self.journal.questions, self.journal.clock()
        looked = (questions.version(live).live_at, questions.watched_at())
        # A time ahead of a clock that was set back does not count: nobody knows how long ago it was.
        return not any(at is not None and 0 <= now - at < every for at in looked)

    def watched(self, verdict: Verdict, measurements: dict[str, Any]) -> bool:
        """Records what the live version is found to be now, and asks for its rollback if that follows.

        Returns:
            Whether a rollback was asked for.
        """
        ruling = self.on_live(verdict)
        target = self._healthy() if ruling.action == "rollback" else None
        self.journal.guard.record_watch(self.journal.questions.live_version(), ruling, measurements, target)
        if target is not None:
            self.reached(Stage.CONDEMNED)
        return target is not None

    def _healthy(self) -> str:
        for version in self.journal.questions.healthy_versions():
            try:
                self.store.load_state(version)
            except StoreError:
                continue  # damaged on disk: an older one must do
            return version
        return BASE_VERSION

    # -- look ahead -----------------------------------------------------------------------------

    def look_ahead(self) -> bool:
        """Forecasts a new live version; asks for a compaction or consolidation, or pauses, when the model is
        worn.

        Returns:
            Whether a compaction or consolidation was asked for.
        """
        live, kind = self.journal.questions.live_version(), guard_rewrites(self.settings)
        if (self.journal.questions.forecast() or {}).get("version") != live:
            seconds = WRITTEN_SECONDS + EPOCH_SECONDS * self.settings.consolidation_epochs
            forecast = self.foresee(self.journal.questions.history())
            long = kind is OperationKind.CONSOLIDATE
            self.journal.guard.record_forecast(live, forecast, seconds if long else None)
            self.reached(Stage.FORESEEN)
        if self.journal.questions.paused() or isinstance(self.rest(), Held) or self.compacts():
            return False
        worn = self._worn(live)
        why = None if live == BASE_VERSION else self._why_rewrite(worn)
        if why is not None:
            self.journal.guard.ask_rewrite(kind, why, self.policy.dry_run)
            self.reached(Stage.COMPACT_ASKED)
            return not self.policy.dry_run
        why = self._why_pause(live, worn)
        if why is not None and not self.policy.dry_run:
            self.journal.guard.pause(why)
            self.reached(Stage.PAUSED)
        return False

    def compacts(self) -> bool:
        """Whether a compaction or consolidation was asked for and is not done: what it may mend waits."""
        pending = self.journal.questions.operations(OperationState.PENDING)
        return any(each.kind in REWRITING for each in pending)

    def _worn(self, live: str) -> list[str]:
        return worn((self.journal.questions.version(live).verdict or {}).get("guards", {}))

    def _why_rewrite(self, worn: Sequence[str]) -> str | None:
        """None when no compaction or consolidation is due.

        After one, so many versions must go live before the next, whatever became of it.
        """
        last = self.journal.questions.last_step(*REWRITING, *(f"would_{kind}" for kind in REWRITING))
        since = 0 if last is None else self.journal.questions.live_since(last.at)
        if last is not None and since < self.settings.guard_compact_versions:
            return None
        if worn and {"refuse", "rollback"} & self.journal.questions.steps(last.at if last else 0.0).keys():
            return f"versions are refused or rolled back, and past their warning: {', '.join(worn)}"
        return self._why_now(self.journal.questions.forecast() or {})

    def _why_now(self, forecast: Mapping[str, Any]) -> str | None:
        """None while the forecast leaves room, also for what will come while the work is under way."""
        wanted, come = self.settings.guard_compact_edits, forecast.get("meanwhile", {"edits": 0})
        if not wanted:
            return None
        for one in forecast.get("forecasts", []):
            # Measures of the batch say nothing about the model, so a compaction could not mend them.
            left = math.inf if one["edits"] is None else one["edits"]
            if one["measure"] in OF_THE_BATCH or left >= wanted + come["edits"]:
                continue
            why = f"little room is left: {one['measure']} is at its limit in {left:.0f} edits"
            if not come["edits"]:
                return why
            taking = f"a consolidation takes some {come['seconds']:.0f} s"
            return f"{why}; {taking}, and {come['edits']} went live in as long"
        return None

    def _why_pause(self, live: str, worn: Sequence[str]) -> str | None:
        """None while the queue may go on."""
        if live == BASE_VERSION:
            alone = _alone(self._tried_since_pause(REFUSED_ON_BASE, _given_up))
            refused = [row for row in alone if (row.verdict or {}).get("outcome") == "rejected"]
            if len(refused) < REFUSED_ON_BASE:
                return None
            last = "; ".join((refused[0].verdict or {}).get("reasons", ()))
            why = f"the base is live, and the last {len(refused)} single corrections were refused"
            return f"{why}, the newest: {last}; check `factd doctor`, the method and the posts, then resume"
        if worn and len(_alone(self._tried_since_pause(WORN_OUT, _wear_alone))) >= WORN_OUT:
            why = f"the last {WORN_OUT} corrections were refused because the model is worn: {', '.join(worn)}"
            return f"{why}; retract facts or roll back, then resume"
        return None

    def _tried_since_pause(self, singles: int, like: Callable[[VersionRow], bool]) -> list[VersionRow]:
        """The newest versions that are like this, up to one that is not, or that the last pause saw."""
        pause = self.journal.questions.last_step("pause")
        since = pause.at if pause else 0.0
        tried = self.journal.questions.newest_versions(singles * TRIED)
        return list(itertools.takewhile(lambda row: row.created_at > since and like(row), tried))


def _alone(rows: Sequence[VersionRow]) -> list[VersionRow]:
    return [row for row in rows if len(row.added) == 1]


def _given_up(row: VersionRow) -> bool:
    return row.state is VersionState.DISCARDED


def _wear_alone(row: VersionRow) -> bool:
    passed = _passed_limits((row.verdict or {}).get("guards", {}))
    return _given_up(row) and bool(passed) and passed <= set(WEAR)


def _passed_limits(states: Mapping[str, str]) -> set[str]:
    return {name for name, state in states.items() if state == "limit"}
