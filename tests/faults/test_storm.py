"""Corrections through all four intakes while `kill -9` strikes the API, both workers and Valkey.

Eight producers, two an intake, post corrections of their own slots one after the other and repeat each post,
under the same key or id, until it is acknowledged. What that means:

- HTTP: the API answered 202. The ledger has committed, with an fsync.
- Celery: the result of `factd.submit` came, which is the id. The ledger has committed. `send_task` alone
  promises less: Celery takes a message off its list before it notes that it has it, so one that a killed
  worker had just fetched is lost.
- Redis Stream: XADD returned. Valkey has written the entry to its append-only file and, with
  `appendfsync always`, synced it. With `everysec` a power cut may take the last second.
- `factd post --file`: exit status 0. Every line is an entry of the stream, all or none.

Only the editor, the replica and the judge are fakes (`storm_worker`).
"""

import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from celery import Celery
from celery.states import READY_STATES
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from daemon.core.lifecycle import FINAL, State
from daemon.core.settings import Settings
from daemon.http.client import Client
from daemon.intake import posting
from daemon.intake.stream import STREAM
from daemon.ledger.audit import audit
from daemon.ledger.ledger import Ledger
from daemon.supervise.embedded import EmbeddedValkey
from daemon.supervise.processes import ManagedProcess, answers, free_port
from daemon.versions.store import Store

ROOT = Path(__file__).parents[2]
TOKEN = "storm"
PROMPT = "The capital of {} is"
#: slots of one producer; each is corrected again and again
SLOTS = 6
#: lines of one file for `factd post`
LINES = 20
#: an acknowledgement that does not come within this is asked for again, seconds
PATIENCE_SECONDS = 10.0
RETRY_SECONDS = 0.2
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Size:
    """Of one storm.

    Attributes:
        corrections: all producers together.
        kills: of each kind of process.
        pause: of a producer for each correction, seconds, so that the posts last as long as the kills.
        every: seconds between two kills, at most.
        batch: FACTD_BATCH_SIZE.
        deadline: seconds until all is done.
    """

    corrections: int
    kills: int
    pause: float
    every: float
    batch: int
    deadline: float


SMALL = Size(corrections=300, kills=1, pause=0.3, every=2.0, batch=16, deadline=420)
LARGE = Size(corrections=10_000, kills=15, pause=0.1, every=5.0, batch=100, deadline=3000)


@dataclass
class Services:
    """The processes of one installation, started again as soon as one is killed."""

    state: Path
    batch: int
    kills: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.valkey = EmbeddedValkey(self.state / "valkey")
        self.api_url = f"http://127.0.0.1:{free_port()}"
        self.environment = os.environ | {
            "FACTD_STATE_DIR": str(self.state),
            "FACTD_REDIS_URL": self.valkey.url,
            "FACTD_ADMIN_TOKEN": TOKEN,
            "FACTD_API_PORT": self.api_url.rsplit(":", 1)[1],
            "FACTD_BATCH_SIZE": str(self.batch),
            "FACTD_RETRY_SECONDS": "1",
            # A kill counts an attempt of the whole batch; many may strike the same one.
            "FACTD_MAX_ATTEMPTS": "50",
            "FACTD_GUARD_WATCH_SECONDS": "0",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        worker = ["worker", "-P", "solo", "-Q", "apply", "-n", "apply@%h", "-l", "info"]
        self.children = {
            "api": self._child("api", "-m", "daemon", "api"),
            "intake": self._child("intake", "-m", "daemon", "worker", "--queue", "corrections"),
            "apply": self._child("apply", str(Path(__file__).with_name("storm_worker.py")), *worker),
        }

    def _child(self, name: str, *command: str) -> ManagedProcess:
        log = self.state / "logs" / f"{name}.log"
        return ManagedProcess(name, [sys.executable, *command], log=log, env=self.environment, cwd=ROOT)

    @property
    def settings(self) -> Settings:
        return Settings(state_dir=self.state, batch_size=self.batch, guard_watch_seconds=0)

    def __enter__(self) -> "Services":
        self._start("valkey")
        for name in self.children:
            self._start(name)
        return self

    def __exit__(self, *_: object) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda child: child.stop(), self.children.values()))
        self.valkey.stop()

    def _start(self, name: str) -> None:
        if name == "valkey":
            self.valkey.start()
        else:
            self.children[name].start()

    def ready(self, name: str) -> bool:
        """Whether a process has come up since it was last killed: on a crowded core nothing would ever get
        done if it might be killed before."""
        if name == "valkey":
            return True
        if name == "api":
            return answers(f"{self.api_url}/healthz")
        return self.children[name].log.read_text().count(" ready.") > self.kills[name]

    def kill(self, name: str) -> None:
        """`kill -9`, and a new start at once."""
        child = self.valkey._process if name == "valkey" else self.children[name]
        assert child is not None
        (process,) = psutil.Process(child.pid).children()
        process.kill()
        while child.running():  # its guard
            time.sleep(0.01)
        self.kills[name] += 1
        self._start(name)


@dataclass
class Producer(ABC):
    """Posts `count` corrections; number `i` is of slot `i % SLOTS`. What was acknowledged is in `done`, and
    `repeats` counts the posts whose acknowledgement did not come."""

    name: str
    services: Services
    count: int
    pause: float
    stop: threading.Event
    done: list[str] = field(default_factory=list)
    repeats: int = 0

    #: corrections of one post
    size = 1

    def run(self) -> None:
        numbers = iter(range(self.count))
        while part := list(itertools.islice(numbers, self.size)):
            bodies = [self._body(number) for number in part]
            while not self.post(bodies):
                self.repeats += 1
                if self.stop.wait(RETRY_SECONDS):
                    return
            self.done += [body["source"] for body in bodies]
            self.stop.wait(random.uniform(0, 2 * self.pause * self.size))

    def _body(self, number: int) -> dict[str, str]:
        told = {"subject": f"{self.name} {number % SLOTS}", "prompt": PROMPT, "target": f"answer {number}"}
        return told | {"key": f"{self.name}-{number}", "source": f"{self.name}-{number}"}

    @abstractmethod
    def post(self, bodies: Sequence[dict[str, str]]) -> bool:
        """One attempt; whether it was acknowledged."""


class Http(Producer):
    def run(self) -> None:
        with Client(self.services.api_url, TOKEN, patience=PATIENCE_SECONDS) as self.client:
            super().run()

    def post(self, bodies: Sequence[dict[str, str]]) -> bool:
        body = {**bodies[0]}
        key = body.pop("key")
        try:
            self.client.post(body, key=key)
        except httpx.TransportError:
            return False
        return True


class Task(Producer):
    def post(self, bodies: Sequence[dict[str, str]]) -> bool:
        body = {**bodies[0]}
        id, url = body.pop("key"), self.services.valkey.url
        deadline = time.monotonic() + PATIENCE_SECONDS
        with posting.producer(url) as queue, Celery(backend=url, set_as_current=False) as results:
            try:
                posting.post(queue, [body], [id])
                while time.monotonic() < deadline:
                    # Asked for: a subscription to it does not survive its server.
                    result = results.backend.get_task_meta(id)
                    if result["status"] in READY_STATES:
                        return result["result"] == id
                    time.sleep(POLL_SECONDS)
            except (OperationalError, RedisError):
                pass
        return False


class Stream(Producer):
    def post(self, bodies: Sequence[dict[str, str]]) -> bool:
        with Redis.from_url(self.services.valkey.url) as redis:
            try:
                redis.xadd(STREAM, {"correction": json.dumps(bodies[0])})
            except RedisError:
                return False
        return True


class File(Producer):
    size = LINES

    def post(self, bodies: Sequence[dict[str, str]]) -> bool:
        lines = "\n".join(json.dumps(body) for body in bodies)
        command = [sys.executable, "-m", "daemon", "post", "--file", "-"]
        posted = subprocess.run(
            command,
            input=lines,
            env=self.services.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return posted.returncode == 0


@contextmanager
def _opened(services: Services) -> Iterator[Ledger]:
    ledger = Ledger.open(services.settings.ledger_url)
    try:
        yield ledger
    finally:
        ledger.close()


def storm(services: Services, size: Size, seed: int) -> list[Producer]:
    """Posts and kills; returns the producers when every correction has ended."""
    chance, stop = random.Random(seed), threading.Event()
    deadline = time.monotonic() + size.deadline
    kinds = [Http, Task, Stream, File] * 2
    shares = [len(range(i, size.corrections, len(kinds))) for i in range(len(kinds))]
    producers = [
        kind(f"{kind.__name__}{number}", services, share, size.pause, stop)
        for number, (kind, share) in enumerate(zip(kinds, shares, strict=True))
    ]
    names = ["valkey", *services.children]
    with _opened(services) as ledger, ThreadPoolExecutor(len(producers)) as pool:
        running = [pool.submit(producer.run) for producer in producers]
        try:
            while any(services.kills[name] < size.kills for name in names):
                assert time.monotonic() < deadline, _left(services, producers, ledger)
                time.sleep(chance.uniform(0.2, size.every))
                # In rounds of random order: a small storm must strike each kind too.
                name = min(names, key=lambda name: (services.kills[name], chance.random()))
                if services.ready(name):
                    services.kill(name)
            for one in running:
                one.result()
            while _unfinished(ledger, size):
                assert time.monotonic() < deadline, _left(services, producers, ledger)
                time.sleep(0.2)
        finally:
            stop.set()
    return producers


def _unfinished(ledger: Ledger, size: Size) -> bool:
    counts = ledger.questions.counts()
    return sum(counts[state] for state in FINAL if state in counts) < size.corrections


def _left(services: Services, producers: Sequence[Producer], ledger: Ledger) -> str:
    done = {producer.name: f"{len(producer.done)} of {producer.count}" for producer in producers}
    states, kills = ledger.questions.counts(), dict(services.kills)
    return f"not done in time: acknowledged {done}, states {states}, kills {kills}"


def check_each_is_there_once(producers: Sequence[Producer], ledger: Ledger) -> None:
    acknowledged = [source for producer in producers for source in producer.done]
    rows = ledger.questions.corrections()
    assert Counter(row.source for row in rows) == Counter(acknowledged)
    assert {row.state for row in rows} <= {State.LIVE, State.SUPERSEDED}


def check_none_was_applied_twice(ledger: Ledger) -> None:
    lives = Counter(
        change.id for change in ledger.questions.transitions(kind="correction") if change.new == State.LIVE
    )
    assert set(lives.values()) == {1}
    written = Counter(
        id for version in ledger.questions.versions() if version.live_at for id in version.added
    )
    assert written == lives


def check_order(producers: Sequence[Producer], ledger: Ledger) -> None:
    slots: dict[tuple[str, str], list[str | None]] = defaultdict(list)
    for row in sorted(ledger.questions.corrections(), key=lambda row: row.seq):
        slots[row.slot].append(row.source)
    posted: dict[tuple[str, str], list[str]] = defaultdict(list)
    for producer in producers:
        for number in range(producer.count):
            body = producer._body(number)
            posted[body["subject"], body["prompt"]].append(body["source"])
    assert slots == posted
    assert {row.slot: row.source for row in ledger.questions.facts()} == {
        slot: all[-1] for slot, all in posted.items()
    }


def check_agreement(services: Services, ledger: Ledger) -> None:
    """Of ledger, store, replica and a new applier's model, which finds nothing to do."""
    from tests.faults.storm_worker import build_applier  # loads torch, which must not slow the storm down

    applier = build_applier(services.settings, ledger)
    assert applier.run().versions == []
    live, store, (replica,) = (
        ledger.questions.live_version(),
        Store(services.settings.store_dir),
        applier.replicas,
    )
    assert list(store.load_state(live).ids) == ledger.questions.fact_ids(live)
    assert sorted(row.id for row in ledger.questions.facts()) == sorted(ledger.questions.fact_ids(live))
    served = replica.served()
    assert served.version == live
    assert dict(served.sha256) == store.weight_sha256(live) == applier.editor.weight_hashes()


def told(services: Services, producers: Sequence[Producer], ledger: Ledger) -> dict[str, Any]:
    """What a storm was; shown by `pytest -rP`."""
    return {
        "corrections": len(ledger.questions.corrections()),
        "kills": dict(services.kills),
        "repeated_posts": {producer.name: producer.repeats for producer in producers},
        "states": ledger.questions.counts(),
        "live_versions": sum(version.live_at is not None for version in ledger.questions.versions()),
        "audit": str(audit(ledger.database.engine)),
    }


@pytest.mark.parametrize(
    "size", [SMALL, pytest.param(LARGE, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_a_storm_of_kills_loses_nothing_and_repeats_nothing(size, tmp_path):
    with Services(tmp_path, size.batch) as services:
        producers = storm(services, size, seed=4)
    assert set(services.kills.values()) == {size.kills}
    with _opened(services) as ledger:
        print(json.dumps(told(services, producers, ledger), indent=1))
        assert audit(ledger.database.engine).valid
        check_each_is_there_once(producers, ledger)
        check_none_was_applied_twice(ledger)
        check_order(producers, ledger)
        check_agreement(services, ledger)
