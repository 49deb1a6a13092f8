"""The simulated applier beside the real one in a time that does not pass by itself."""

import random
from types import SimpleNamespace

import pytest

from benchmarks.service.fan_out import Costs, makespan
from daemon.apply.value_workers import FACTS_A_TASK, Fleet
from editing.facts import Fact
from editing.forms import PROMPT_ONLY

FREE = Costs(send=0.0, carry=0.0, ask=0.0, take=0.0, poll=0.01)


class World:
    """Workers and an applier whose clock goes on when one of them does something."""

    def __init__(self, tasks, workers, costs) -> None:
        self.tasks, self.costs, self.now = list(tasks), costs, 0.0
        self.free = [0.0] * workers
        self.sent: list[SimpleNamespace] = []
        facts = [Fact(f"S{i}", "{} is", "x") for i in range(len(self.tasks) * FACTS_A_TASK)]
        self.number = {fact.subject: i // FACTS_A_TASK for i, fact in enumerate(facts)}
        self.loaded = SimpleNamespace(base_hash="", chats=lambda _forms: False)
        self.options = SimpleNamespace(forms=PROMPT_ONLY)
        Fleet(self.send, 1e9, clock=lambda: self.now, sleep=self.sleep)(self, facts, 0, self.options)

    def value_key(self, *_) -> str:
        return ""

    def sleep(self, seconds) -> None:
        self.now += seconds

    def send(self, named):
        self.now += self.costs.send
        self.sent.append(Message(self, self.number[named["facts"][0][0]], self.now))
        return self.sent[-1]

    def find(self, facts, *_) -> None:
        self.now += self.tasks[self.number[facts[0].subject]]

    def keep(self, *_) -> None:
        raise AssertionError("nothing was answered that could be kept")

    def work(self) -> None:
        """The workers begin what they can begin by now."""
        for message in self.sent:
            if message.revoked or message.done is not None:
                continue
            first = min(range(len(self.free)), key=self.free.__getitem__)
            begun = max(self.free[first], message.at)
            if begun > self.now:
                return
            message.done = self.free[first] = begun + self.costs.carry + self.tasks[message.number]


class Message:
    """Answers "FAILURE", which the applier takes without a value. What it then finds itself takes no time."""

    def __init__(self, world, number, at) -> None:
        self.world, self.number, self.at = world, number, at
        self.done, self.revoked, self.result = None, False, "nobody"

    @property
    def state(self) -> str:
        self.world.work()
        if self.done is None:
            return "PENDING"
        return "FAILURE" if self.done <= self.world.now else "STARTED"

    def revoke(self) -> None:
        self.revoked = True

    def forget(self) -> None:
        pass


@pytest.mark.parametrize("workers", [1, 2, 8, 64])
@pytest.mark.parametrize("seed", range(5))
def test_the_simulation_takes_as_long_as_the_real_applier(workers, seed):
    chance = random.Random(seed)
    tasks = [chance.uniform(0.5, 2.0) for _ in range(chance.randrange(1, 60))]
    costs = Costs(send=0.01, carry=0.03, ask=0.0, take=0.0, poll=0.05)
    assert makespan(tasks, workers, costs) == pytest.approx(World(tasks, workers, costs).now)


@pytest.mark.parametrize(("workers", "seconds"), [(0, 24.0), (1, 12.0), (3, 6.0), (7, 3.0), (23, 1.0)])
def test_equal_tasks_that_travel_for_nothing_are_shared_out_evenly(workers, seconds):
    assert makespan([1.0] * 24, workers, FREE) == pytest.approx(seconds, abs=0.01)


def test_what_a_message_costs_bounds_what_workers_are_worth():
    costs = Costs(send=0.1, carry=0.0, ask=0.0, take=0.1, poll=0.01)
    found = [makespan([1.0] * 50, workers, costs) for workers in (8, 64, 512)]
    assert found == sorted(found, reverse=True)
    assert found[-1] >= 50 * (costs.send + costs.take) - 1.0
