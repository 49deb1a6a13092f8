"""An accepted version on its way to live: the canary, then all replicas; or the live one back."""

from daemon.apply.discards import Discards
from daemon.apply.outcomes import Ended, Held, Refused, Went
from daemon.apply.run import Run
from daemon.core.errors import CondemnedError, ProofError, PublishError, SoakStoppedError
from daemon.core.lifecycle import ReasonCode, VersionState
from daemon.core.stages import Stage
from daemon.ledger.rows import CorrectionRow, VersionRow
from daemon.publish.publication import Publication
from daemon.publish.publishing import Publisher
from daemon.publish.serving import ServingError, timed_out


class Delivery:
    """Publishes versions that are written; brings the live one back where that fails."""

    def __init__(self, run: Run, discards: Discards) -> None:
        self.run, self.discards = run, discards
        self.journal, self.publisher, self.reached = run.journal, run.publisher, run.reached

    def roll_forward(self, version: VersionRow) -> Ended:
        """Publishes an accepted version and commits it; brings the old one back when that fails."""
        rows = (
            self.journal.questions.rows([*version.added, *version.removed]) or self.journal.questions.facts()
        )
        told, tried = self.publisher, None
        try:
            if self.run.canary and version.state is not VersionState.PUBLISHED:
                told = self.run.canary.alone()
                with self.run.timed(version.id, "canary"):
                    self.run.canary.try_out(told, version, rows)
                told, tried = self.publisher, told.names[0]
            self._to_all(version, rows, tried)
        except (ServingError, PublishError) as error:
            return self._fall_back(version, error, told)
        self.run.restorer.remember(version.id)
        return Went()

    def _to_all(self, version: VersionRow, rows: list[CorrectionRow], tried: str | None) -> None:
        """Args: tried: name of the canary that serves the version already."""
        publication = Publication(
            self.journal,
            self.publisher,
            version.id,
            "update",
            rows,
            on_staged=lambda: self.reached(Stage.STAGED),
            on_flipped=lambda: self.reached(Stage.FLIPPED),
        )
        with self.run.timed(version.id, "publish"):
            publication.flip(but=tried)
            if version.state is not VersionState.PUBLISHED:
                self.journal.record_published(version.id)
            self.reached(Stage.PUBLISHED)
        with self.run.timed(version.id, "confirm"):
            publication.prove()
            added, asking = self.journal.questions.rows(version.added), self.run.asking
            after = self.publisher.answers(asking.asks(added))
            again = self.run.lost_today(self._doubtful(version))
        self.reached(Stage.CONFIRMED)
        self.journal.record_live(version.id, after, {**again, **asking.lost(added, after)})
        self.reached(Stage.LIVE)

    def _doubtful(self, version: VersionRow) -> list[CorrectionRow]:
        """Earlier facts that were lost when last asked, or that the model in memory did not say just now."""
        gone, again = {*version.added, *version.removed}, (version.measurements or {}).get("again", {})
        facts = (fact for fact in self.journal.questions.facts() if fact.id not in gone)
        return [fact for fact in facts if fact.lost or again.get(fact.id)]

    def _fall_back(self, version: VersionRow, error: Exception, told: Publisher) -> Refused | Held:
        """Brings the live version back where another was told; says what becomes of the version."""
        all_told = told is self.publisher
        code = ReasonCode.PUBLISH_FAILED if all_told else ReasonCode.CANARY_FAILED
        reason = f"{'publish' if all_told else 'canary'} failed: {error}"
        self._bring_back(told)
        if isinstance(error, ProofError | CondemnedError):
            # Not tried again: the same weights would be computed as wrongly. An operator has named the
            # version to go back to, which is done next; an alert means the version that it saw.
            asked = error.operation if isinstance(error, CondemnedError) and error.alert else None
            self.journal.record_disproved(version.id, reason, code=code, asked=asked)
            self.reached(Stage.REFUSED)
            return Refused(reason)
        if isinstance(error, SoakStoppedError):
            # No failed attempt: the next applier begins afresh.
            self.journal.discard(version.id, str(error))
            self.reached(Stage.REFUSED)
            return Held(str(error))
        return self.discards.hold(version, reason, code=code, counted=not timed_out(error))

    def withdraw(self, version: VersionRow, reason: str) -> Held:
        """Brings the live version back on the replicas and in memory; the corrections wait again."""
        self._bring_back(self.publisher)
        return self.discards.hold(version, reason, code=ReasonCode.PUBLISH_FAILED)

    def _bring_back(self, told: Publisher) -> None:
        live = self.journal.questions.live_version()
        self.push_back(live, told)
        self.run.restorer.to_live()
        self.prove_back(live, told)

    def push_back(self, live: str, told: Publisher) -> None:
        """Brings the live version back on the replicas that can be reached."""
        told.push_back(live)
        failures = [f"{name}: {why}" for name, why in told.out.items()]
        self.journal.record_publication(live, "push_back", told.names, failures=failures)

    def prove_back(self, live: str, told: Publisher) -> None:
        """Proves the version that was brought back, with the model in memory there too.

        A replica that does not compute it is taken out, and the next run brings it there again.
        """
        wrong = told.prove_back(live)
        if wrong:
            failures = [f"{name}: {why}" for name, why in wrong.items()]
            self.journal.record_publication(live, "push_back", told.names, failures=failures)
