"""What it costs to have values found by other processes, and how fast many of them would be.

Measured: the time of each task in one process, the costs of a message, and whole batches with few real
workers behind a real Valkey. Simulated from that: many workers, each on a core of its own.
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from celery import Celery

from benchmarks.service.fan_out import Costs, makespan
from daemon.apply.building import open_installation
from daemon.apply.value_workers import POLL_SECONDS, Fleet, decoded, parts, plain
from daemon.core.names import MAIN
from daemon.core.settings import Settings
from daemon.intake.posting import answering
from daemon.supervise.embedded import EmbeddedValkey
from daemon.supervise.processes import ManagedProcess
from editing.facts import Fact
from editing.install import Installation
from editing.methods import numbers_of
from editing.values.anchor import pilot_facts
from editing.values.options import ValueOptions

#: a worker loads its model within seconds on a free core, within minutes on a crowded one
READY_SECONDS = 600.0
#: a message that is not answered for so long counts as lost
ANSWER_SECONDS = 600.0
#: batches (facts) and workers that are simulated
BATCHES, WORKERS = (16, 64, 256, 1000), (1, 2, 8, 64)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """The facts, and where their values are kept: a folder of this run alone.

    Attributes:
        install: of the unedited model, without any value.
        layer: for which values are found.
    """

    install: Installation
    options: ValueOptions
    layer: int
    facts: Sequence[Fact]

    def forget(self) -> None:
        """Every value found so far."""
        folder = self.install.directory / self.install.value_key(self.layer, self.options)
        shutil.rmtree(folder, ignore_errors=True)

    def alone(self) -> list[tuple[float, float]]:
        """Seconds of a core and seconds of the clock for each task, in this process alone."""
        self.install.find(self.facts[:1], self.layer, self.options)  # what only the first one pays for
        self.forget()
        return [self._found(part) for part in parts(self.facts)]

    def _found(self, part: list[Fact]) -> tuple[float, float]:
        core, clock = time.process_time(), time.perf_counter()
        self.install.find(part, self.layer, self.options)
        return time.process_time() - core, time.perf_counter() - clock

    def together(self, send: Callable[[dict[str, Any]], Any]) -> float:
        """Seconds of the clock with the workers that hear `send`."""
        self.forget()
        started = time.perf_counter()
        Fleet(send, ANSWER_SECONDS)(self.install, self.facts, self.layer, self.options)
        return time.perf_counter() - started

    def costs(self, send: Callable[[dict[str, Any]], Any]) -> Costs:
        """Of messages whose values are there already; medians."""
        seen = [self._message(send, part) for part in parts(self.facts) for _ in range(3)]
        return Costs(*(statistics.median(times) for times in zip(*seen, strict=True)), poll=POLL_SECONDS)

    def _message(self, send: Callable[[dict[str, Any]], Any], part: list[Fact]) -> tuple[float, ...]:
        key, base = self.install.value_key(self.layer, self.options), self.install.loaded.base_hash
        started = time.perf_counter()
        answer = send({"facts": plain(part), "layer": self.layer, "key": key, "base": base})
        sent = time.perf_counter()
        assert answer.state != "FAILURE"
        asked = time.perf_counter()
        values = answer.get(timeout=ANSWER_SECONDS)
        answered = time.perf_counter()
        self.install.keep(part, self.layer, self.options, decoded(values, len(part)))
        answer.forget()
        taken = time.perf_counter()
        return sent - started, answered - sent, asked - sent, taken - answered


def bench(settings: Settings, edits: int, workers: int, say: Say) -> dict[str, Any]:
    """Measures with up to so many real workers, and simulates more.

    Raises:
        EditError: the model cannot be used.
        ProcessError: a service did not start.
    """
    with tempfile.TemporaryDirectory(prefix="factd-bench-") as name, ExitStack() as services:
        services.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)  # as each worker does: a core is what is counted
        made = _bench(settings, Path(name), edits, say)
        say(f"values of {edits} facts in one process")
        # Of a core, not of the clock: that measures what else runs here.
        tasks, clock = zip(*made.alone(), strict=True)
        valkey = services.enter_context(EmbeddedValkey(Path(name) / "valkey"))
        app = services.enter_context(Celery(broker=valkey.url, backend=valkey.url, set_as_current=False))
        app.conf.task_routes = MAIN.routes

        def send(named: dict[str, Any]) -> Any:
            return app.send_task("factd.values", kwargs=named)

        measured: list[dict[str, Any]] = []
        costs: Costs | None = None
        for number in range(1, workers + 1):
            say(f"{number} workers beside the applier")
            services.enter_context(_worker(made, settings, app, valkey.url, number))
            seconds = made.together(send)
            costs = costs or made.costs(send)
            told = makespan(tasks, number, costs)
            measured.append({"workers": number, "seconds": seconds, "simulated_seconds": told})
    assert costs is not None
    return {
        "model": settings.model,
        "edits": edits,
        "cpus": os.cpu_count(),
        "task_seconds": list(tasks),
        "costs_seconds": asdict(costs) | {"total": costs.total},
        "cost_ratio": costs.total / statistics.mean(tasks),
        "alone_seconds": sum(tasks),
        "alone_clock_seconds": sum(clock),
        "measured": measured,
        "simulated": list(simulated(tasks, edits, costs)),
    }


def simulated(tasks: Sequence[float], edits: int, costs: Costs) -> Iterator[dict[str, Any]]:
    """Batches made of the measured tasks, again and again."""
    for batch in BATCHES:
        repeated = [tasks[i % len(tasks)] for i in range(max(1, round(batch * len(tasks) / edits)))]
        for workers in WORKERS:
            seconds = makespan(repeated, workers, costs)
            speedup = sum(repeated) / seconds
            yield {"edits": batch, "workers": workers, "seconds": seconds, "speedup": speedup}


def _bench(settings: Settings, folder: Path, edits: int, say: Say) -> Bench:
    installed, options = open_installation(settings, lambda stage, _fraction: say(stage))
    installed.contexts()  # there from now on
    own = Installation(installed.loaded, folder, settings.corpus, installed.progress)
    shutil.copy(installed.directory / "contexts.json", own.directory)
    layer = numbers_of(settings.method, installed.loaded).layers[-1]
    return Bench(own, options, layer, pilot_facts(edits))


@contextmanager
def _worker(bench: Bench, settings: Settings, app: Celery, url: str, number: int) -> Generator[None]:
    folder = bench.install.directory.parents[1]
    name = f"values{number}"
    own = {
        "FACTD_STATE_DIR": str(folder),
        "FACTD_REDIS_URL": url,
        "FACTD_MODEL": str(bench.install.loaded.path),
        "FACTD_METHOD": settings.method,
        # What this process found: "auto" is measured, and on a busy machine the worker could find the other.
        "FACTD_DTYPE": str(bench.install.loaded.model.dtype).removeprefix("torch."),
        "OMP_NUM_THREADS": "1",
    }
    own |= {"FACTD_CORPUS": str(settings.corpus)} if settings.corpus else {}
    outside = {name: value for name, value in os.environ.items() if not name.startswith("FACTD_")}
    argv = [sys.executable, "-m", "daemon", "worker", "--queue", "values", "--name", name]
    process = ManagedProcess(
        name,
        argv,
        log=folder / f"{name}.log",
        env=outside | own,
        ready=lambda: bool(answering(app, [name])),
    )
    with process:
        process.wait_until_ready(READY_SECONDS)
        yield
