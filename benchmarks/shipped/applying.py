"""The shipped daemon without its processes: ledger, store, applier, ladder and guard in one state directory.

As shipped are the SQLite ledger, the store, the applier with its proof, the measures, the judge and the
ladder. So is every setting but two. `batch_size` is what is posted at once, so that a step of a stream is one
version. `guard_dry_run` lets everything through where the guard is off. Not as shipped: corrections come
straight to the ledger, not through a queue, and the one replica is a stub that holds weights.

The clock is the computer's, plus what is skipped. Waiting would cost hours: a step comes `STEP_SECONDS` after
the one before, and between the tries of a held correction the applier rests `retry_seconds`. So cool-down,
rollback budget and watch interval pass as in a service that is posted to every quarter of an hour.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from benchmarks.shipped.serving import NOISE, HeldWeights
from daemon.apply.applier import Applier
from daemon.apply.building import build_monitoring, build_proof
from daemon.apply.measuring import Monitoring
from daemon.core.lifecycle import OperationKind, ReasonCode, State
from daemon.core.messages import Correction
from daemon.core.settings import Settings
from daemon.ledger.ledger import Ledger
from daemon.ledger.rows import TransitionRow, VersionRow
from daemon.publish.serving import Serves
from daemon.versions.store import Store
from editing.editor import Editor

#: From one step of a stream to the next. Longer than the interval after which the live version is measured
#: again: whatever a step leaves live without a new version is looked at in the next.
STEP_SECONDS = 900.0

BuildMonitoring = Callable[[Settings, Editor], Monitoring]


class ShippedSettings(Settings):
    """Settings as shipped: the environment is not read, so that it changes no result and lends no ledger."""

    @classmethod
    def but(cls, **own: Any) -> Self:
        """All as shipped but these."""
        return cls(**own)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


class Clock:
    """Seconds since the epoch, plus what was skipped."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def __call__(self) -> float:
        return time.time() + self.skipped

    def skip(self, seconds: float) -> None:
        self.skipped += max(0.0, seconds)


class ShippedDaemon:
    """Everything between a post and the weights that are served.

    Args:
        root: the state directory, new.
        statistics: folder in which the baseline of the unedited model is kept.
        editor: on a model with its unedited weights.
        batch: corrections written by one version at most.
        guard: whether what the guard says is done; else it is written down only.
        flipped: called with the version whenever other weights are served.
        monitoring: makes the measures and the judge; for tests.
        replica: a server that is published to instead of the stub.

    Attributes:
        replica: the stub that is served, unless there is a server.
    """

    def __init__(
        self,
        root: Path,
        statistics: Path,
        editor: Editor,
        *,
        batch: int,
        guard: bool,
        flipped: Callable[[str], None] = lambda _version: None,
        monitoring: BuildMonitoring = build_monitoring,
        replica: Serves | None = None,
    ) -> None:
        self.settings = settings = ShippedSettings.but(
            state_dir=root, statistics_dir=statistics, batch_size=batch, guard_dry_run=not guard
        )
        self._clock = Clock()
        self.ledger = Ledger.open(settings.ledger_url, self._clock)
        self._asked = self.ledger.questions
        store = Store(settings.store_dir)
        self.replica = HeldWeights(store, editor, flipped)
        proof = build_proof(editor)
        proof.record.keep(HeldWeights.name, NOISE)
        self.applier = Applier(
            self.ledger,
            store,
            editor,
            [replica or self.replica],
            monitoring=monitoring(settings, editor),
            settings=settings,
            proof=proof,
        )

    def step(self, posts: Sequence[tuple[str, Correction]]) -> None:
        """Posts (id, correction) pairs and works until nothing waits or the next step is due."""
        for id, correction in posts:
            self.ledger.intake.submit(correction, id)
        due = self._clock() + STEP_SECONDS
        self.applier.run()
        while self._asked.pending_count() and not self.paused and self._clock() < due:
            # A worker is rung again after so long, see `daemon.app`.
            self._clock.skip(self.settings.retry_seconds)
            self.applier.run()
        self._clock.skip(due - self._clock())

    def close(self) -> None:
        self.ledger.close()

    # -- what the ledger says -------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        return self._asked.paused() is not None

    @property
    def failure(self) -> str | None:
        """Why a publication failed: from then on the stream lacks corrections that the guard let through."""
        for version in self.versions():
            if version.code is ReasonCode.PUBLISH_FAILED:
                return f"{version.id}: {version.reason}"
        return None

    def ids(self, state: State) -> set[str]:
        """Ids of the corrections in a state."""
        return {row.id for row in self._asked.corrections(state)}

    def versions(self) -> list[VersionRow]:
        """All that were begun, oldest first."""
        return self._asked.versions()

    def steps(self, after: int) -> list[TransitionRow]:
        """Steps of the guard's ladder that were taken after a transition's number, oldest first."""
        return self._asked.transitions(kind="guard", after=after)

    def compacted(self, version: VersionRow) -> bool:
        """Is it a compaction that went live?"""
        if version.operation is None or version.live_at is None:
            return False
        return self._asked.operation(version.operation).kind is OperationKind.COMPACT

    def edit_seconds(self, version: str) -> float:
        return sum(seconds for _, stage, seconds in self._asked.stage_seconds(version) if stage == "edit")
