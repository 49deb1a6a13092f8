"""Duplicate and reordered messages, retractions, rollbacks, runs and restarts in any order."""

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from daemon.core.errors import ConflictError
from daemon.core.lifecycle import FINAL, OperationState, State
from daemon.core.messages import parse_correction
from daemon.ledger.audit import audit
from tests.daemon.conftest import World

subjects, targets = st.sampled_from("ABC"), st.sampled_from(["one", "two", "bad", "outlier"])


class Orders(RuleBasedStateMachine):
    """What producers, operators and the applier do; `sent` are messages that a broker may give again."""

    sent, held_back = Bundle("sent"), Bundle("held_back")

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory(prefix="factd-orders-")
        self.world = World(Path(self.folder.name), batch_size=3)
        self.ids: dict[str, tuple] = {}

    def take(self, message):
        id, subject, target = message
        assert self.world.post(subject, target, id) == id
        self.ids[id] = (subject, target)

    @rule(target=sent, subject=subjects, fact=targets)
    def post(self, subject, fact):
        message = (f"id-{len(self.ids)}", subject, fact)
        self.take(message)
        return message

    @rule(target=held_back, number=st.integers(0, 5), subject=subjects, fact=targets)
    def send_late(self, number, subject, fact):
        return (f"late-{number}-{subject}-{fact}", subject, fact)

    @rule(target=sent, message=consumes(held_back))
    def arrive_late(self, message):
        self.take(message)
        return message

    @rule(message=sent)
    def arrive_again(self, message):
        before = audit(self.world.ledger.database.engine).head
        self.take(message)
        assert audit(self.world.ledger.database.engine).head == before

    @rule(message=sent)
    def arrive_with_other_content(self, message):
        id, subject, _ = message
        other = parse_correction({"subject": subject, "prompt": "The capital of {} is", "target": "three"})
        try:
            self.world.ledger.intake.submit(other, id)
        except ConflictError:
            return
        raise AssertionError("an id was taken twice")

    @rule(message=sent)
    def retract(self, message):
        self.world.ledger.intake.request("retract", message[0], actor="operator")

    @rule(back=st.integers(0, 3))
    def roll_back(self, back):
        once_live = [
            "v000000",
            *(v.id for v in self.world.ledger.questions.versions() if v.live_at is not None),
        ]
        self.world.ledger.intake.request("rollback", once_live[-1 - back % len(once_live)], actor="operator")

    @rule(version=st.integers(1, 9))
    def fail_to_swap(self, version):
        self.world.replica.failures.append(f"v{version:06d}")

    @rule()
    def restart(self):
        self.world.close()
        self.world.open()

    @rule()
    def run(self):
        self.world.now += 60
        report = self.world.run()
        if report.held is None:
            assert self.world.ledger.questions.pending_count() == 0
            assert all(State(state) in FINAL for state in self.world.states().values())
            assert not [
                o for o in self.world.ledger.questions.operations() if o.state is OperationState.PENDING
            ]
            self.world.check_agreement()

    @invariant()
    def each_id_has_one_state_and_the_chain_holds(self):
        rows = self.world.ledger.questions.corrections()
        assert Counter(row.id for row in rows) == Counter(self.ids.keys())
        assert all((row.subject, row.target) == self.ids[row.id] for row in rows)
        assert audit(self.world.ledger.database.engine).valid

    @invariant()
    def a_slot_has_one_live_fact_and_it_is_the_one_of_store_and_replica(self):
        facts = self.world.ledger.questions.facts()
        assert len({fact.slot for fact in facts}) == len(facts)
        live = self.world.ledger.questions.live_version()
        assert sorted(fact.id for fact in facts) == sorted(self.world.ledger.questions.fact_ids(live))
        assert list(self.world.store.load_state(live).ids) == self.world.ledger.questions.fact_ids(live)

    @invariant()
    def a_fact_is_live_only_when_no_newer_one_of_its_slot_was_settled_in_its_favour(self):
        newest: dict[str, int] = {}
        for row in self.world.ledger.questions.corrections(State.SUPERSEDED):
            newest[row.subject] = max(row.seq, newest.get(row.subject, 0))
        for fact in self.world.ledger.questions.facts():
            if fact.subject in newest and not self.rolled_back:
                assert fact.seq > newest[fact.subject]

    @property
    def rolled_back(self) -> bool:
        """A rollback brings older facts of a slot back, as it should."""
        return any(o.kind == "rollback" for o in self.world.ledger.questions.operations())

    def teardown(self):
        if hasattr(self, "world"):
            self.world.close()
            self.folder.cleanup()


TestOrders = Orders.TestCase
TestOrders.settings = settings(
    max_examples=10, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
