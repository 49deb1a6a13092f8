"""Two models on one broker: nothing of one reaches the other."""

from contextlib import ExitStack, closing

import pytest

from daemon.core.lifecycle import State
from daemon.core.messages import parse_correction
from daemon.core.settings import Settings
from daemon.intake.posting import answering, post, producer
from daemon.intake.stream import append
from daemon.ledger.ledger import Ledger
from daemon.supervise.embedded import EmbeddedValkey
from tests.daemon.fakes import DiskServing
from tests.faults.processes import CONTEXT, process, worker
from tests.faults.storm_worker import build_applier
from tests.faults.test_broker import until

BODY = {"subject": "France", "prompt": "The capital of {} is"}
READY_SECONDS = 300.0


@pytest.fixture
def broker(tmp_path):
    with EmbeddedValkey(tmp_path / "valkey") as valkey:
        yield valkey.url


@pytest.fixture
def model(tmp_path, broker):
    """A function: the settings of a model with a directory of its own."""

    def made(name: str) -> Settings:
        state = tmp_path / f"state-{name}"
        state.mkdir()
        return Settings(name=name, state_dir=state, redis_url=broker, retry_seconds=1.0)

    return made


@pytest.fixture
def start():
    """A function: starts the worker of a model's posts and updates."""
    with ExitStack() as stack:

        def started(settings: Settings) -> None:
            names, ready = settings.names, CONTEXT.Event()
            environment = {
                "FACTD_NAME": settings.name,
                "FACTD_STATE_DIR": str(settings.state_dir),
                "FACTD_REDIS_URL": settings.redis_url,
                "FACTD_RETRY_SECONDS": "1",
            }
            queues = [names.queue("corrections"), names.queue("apply")]
            stack.enter_context(process(worker, build_applier, queues, environment, ready))
            assert ready.wait(READY_SECONDS)

        yield started


def posted(settings: Settings, target: str) -> set[str]:
    """By Celery and by the stream; the ids."""
    with producer(settings.redis_url, settings.names) as app:
        ids = post(app, [BODY | {"target": target}])
    entry = parse_correction({**BODY, "subject": "Spain", "target": target})
    return {*ids, *append(settings.redis_url, [entry], settings.names.stream)}


def check(settings: Settings, ids: set[str], target: str) -> None:
    """These corrections and no others go live, and are served."""
    with closing(Ledger.open(settings.ledger_url)) as ledger:
        until(lambda: [row.state for row in ledger.questions.corrections()] == [State.LIVE] * len(ids))
        assert {row.id for row in ledger.questions.corrections()} == ids
    replica = DiskServing(settings.store_dir, settings.state_dir / "replica.json")
    assert replica.complete(["The capital of France is", "The capital of Spain is"]) == [target, target]


def test_two_models_on_one_broker_share_nothing(model, start):
    main, poems = model(""), model("poems")
    mine, theirs = posted(main, "Lyon"), posted(poems, "Arles")
    start(main)
    check(main, mine, "Lyon")
    with closing(Ledger.open(poems.ledger_url)) as ledger:
        assert ledger.questions.corrections() == []
    start(poems)
    check(poems, theirs, "Arles")
    check(main, mine, "Lyon")
    with producer(main.redis_url) as app:
        assert answering(app, ["corrections", "corrections.poems"]) == {"corrections", "corrections.poems"}
