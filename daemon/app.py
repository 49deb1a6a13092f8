"""Composition root of the Celery side: settings → Celery app, ledger, applier. Opens nothing at import."""

import functools
import logging
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.signals import celeryd_after_setup, worker_ready, worker_shutdown, worker_shutting_down
from celery.worker import WorkController
from celery.worker import state as worker_state

from daemon.core.errors import CorrectionError, Problem
from daemon.core.messages import Correction
from daemon.core.names import Queue
from daemon.core.progress import by_tenths
from daemon.core.ruling import why_compacts
from daemon.core.settings import Settings, load_settings
from daemon.intake.broker import celery_settings
from daemon.intake.consumer import Consumer
from daemon.intake.doorbell import Doorbell
from daemon.intake.intake import Room, submit_patiently
from daemon.intake.letters import DeadLetters
from daemon.intake.redelivery import GiveBack
from daemon.intake.returning import Returning
from daemon.intake.stream import StreamThread
from daemon.intake.trust.gate import gate_of
from daemon.intake.valve import Valve
from daemon.ledger.heartbeats import Heartbeat
from daemon.ledger.ledger import Ledger

if TYPE_CHECKING:
    from daemon.apply.applier import Applier

log = logging.getLogger("factd")


def _building() -> ModuleType:
    """`daemon.apply.building`, which loads torch: the one lazy import here.

    An intake worker imports this module too. Torch would cost it seconds at start and half a gigabyte.
    """
    from daemon.apply import building

    return building


def build_applier(settings: Settings, ledger: Ledger) -> "Applier":
    """Opens the model (minutes when it was not prepared before) and names the replicas."""
    if (why := why_compacts(settings)) is not None:
        log.warning("FACTD_GUARD_REWRITES = consolidate, but the guard compacts: %s", why)
    return _building().build_applier(settings, ledger, by_tenths(_say), celery.send_task)


def _say(text: str) -> None:
    log.info("preparing the model: %s", text)


def stopping() -> bool:
    """Whether this worker is told to end."""
    # None until SIGTERM arrives; afterwards the exit status, which may be 0.
    return worker_state.should_stop is not None


def refusing(problem: Problem) -> Correction:
    """Stands for the parsing of a message that holds no correction."""
    raise CorrectionError([problem])


class Services:
    """What the tasks work with. Each is made at first use and kept for the life of the process."""

    @functools.cached_property
    def settings(self) -> Settings:
        return load_settings()

    @functools.cached_property
    def ledger(self) -> Ledger:
        ledger = Ledger.of(self.settings)
        ledger.intake.gate = gate_of(self.settings)
        return ledger

    @functools.cached_property
    def room(self) -> Room:
        return Room(self.ledger, self.settings.max_pending)

    @functools.cached_property
    def valve(self) -> Valve:
        return Valve(self.room, self.settings.names.queue("corrections"))

    @functools.cached_property
    def doorbell(self) -> Doorbell:
        return Doorbell(celery)

    @functools.cached_property
    def stream(self) -> StreamThread:
        url, names = self.settings.redis_url, self.settings.names
        return StreamThread(url, self.ledger, self.room, self.doorbell.ring, names.stream)

    @functools.cached_property
    def heartbeat(self) -> Heartbeat:
        """Of the kinds of worker that this process is; started when it takes messages."""
        return Heartbeat(self.ledger.database, [kind for queue, kind in KINDS.items() if _takes(queue)])

    @functools.cached_property
    def applier(self) -> "Applier":
        return build_applier(self.settings, self.ledger)

    def refuse(self, id: str, problem: Problem) -> None:
        """Writes into the ledger that a message of Celery's is no correction."""
        with suppress(CorrectionError):
            self.submit(id, functools.partial(refusing, problem))

    def submit(self, id: str, parse: Callable[[], Correction]) -> str:
        """Records a message of Celery's, or why it is refused (`submit_patiently`)."""
        pause = max(1.0, self.settings.retry_seconds)
        return submit_patiently(self.ledger, id, parse, "celery", pause, stopping)

    @functools.cached_property
    def returning(self) -> Returning:
        """Looks after replicas while the broker, and with it the bell, is away."""
        return Returning(self.applier, max(1.0, self.settings.retry_seconds))

    @functools.cached_property
    def values(self) -> Callable[..., str]:
        """Finds values on the unedited model, for the applier that asks."""
        return _building().value_finder(self.settings, by_tenths(_say))


celery = Celery("factd")
# Called when the configuration is first needed, so importing this module reads no environment.
celery.add_defaults(lambda: celery_settings(load_settings()))
celery.steps["consumer"].add(GiveBack)
services = Services()
DeadLetters(celery, lambda: services.settings.names.queue("corrections"), services.refuse)


#: What a worker of a queue opens before it takes messages: a property of `Services`.
OPENED: dict[Queue, str] = {"corrections": "ledger", "apply": "applier", "values": "values"}


#: What a worker of a queue is called where it gives signs of life.
KINDS: dict[Queue, str] = {"corrections": "intake", "apply": "apply"}


def _takes(queue: Queue) -> bool:
    return services.settings.names.queue(queue) in celery.amqp.queues.consume_from


@celeryd_after_setup.connect(weak=False)
def _open(instance: WorkController, **_: Any) -> None:
    """Opens what the worker's queues need before it takes a message.

    A worker whose model or ledger cannot be opened would lose every message that it took.
    """
    if instance.app is celery:
        try:
            for queue, name in OPENED.items():
                if _takes(queue):
                    getattr(services, name)
            # Before the broker answers, which `worker_ready` would wait for.
            if _takes("apply"):
                services.returning.start()
        except Exception as error:
            # Celery would log the error of a signal and let the worker start without.
            log.exception("the model or the ledger cannot be opened")
            raise SystemExit(1) from error


@worker_ready.connect(weak=False)
def _ring_by_itself(sender: Consumer, **_: Any) -> None:
    """Rings at start and every few seconds: replicas restart, and retries become due."""
    if sender.app is celery and _takes("apply"):
        every = max(1.0, services.settings.retry_seconds)
        services.doorbell.ring()
        sender.timer.call_repeatedly(every, services.doorbell.ring, (), {"expires": every})


@worker_ready.connect(weak=False)
def _take_in(sender: Consumer, **_: Any) -> None:
    """An intake worker also reads the stream, and stops taking while the ledger is full."""
    if sender.app is celery and _takes("corrections"):
        services.valve.watch(sender)
        services.stream.start()


@worker_ready.connect(weak=False)
def _give_signs_of_life(sender: Consumer, **_: Any) -> None:
    if sender.app is celery and any(map(_takes, KINDS)):
        services.heartbeat.start()


@worker_shutting_down.connect(weak=False)
def _stop_taking(**_: Any) -> None:
    if "stream" in vars(services):
        services.stream.stop()


# Not `worker_shutting_down`: that comes in the middle of a task, which may hold the ledger's write lock.
@worker_shutdown.connect(weak=False)
def _give_no_more_signs(**_: Any) -> None:
    if "returning" in vars(services):
        services.returning.stop()
    if "heartbeat" in vars(services):
        services.heartbeat.stop()
