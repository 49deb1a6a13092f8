"""What publications cost clients that stream: a real vLLM, versions from a seed, the product's own path.

A version is written to a store, staged, flipped and confirmed exactly as the applier does it; only the
edits are random low-rank updates, so that no editing competes for the processor.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.service.flips import Flip, felt_pauses, growth, longest_wait, ordinary_waits, percentile
from benchmarks.service.streaming import Answer, Clients
from benchmarks.service.updates import Updates
from daemon.core.publication import BASE_VERSION, IN_FLIGHT, IN_FLIGHT_SECONDS, InFlight
from daemon.publish.publishing import Publisher
from daemon.publish.serving import Serves
from daemon.publish.vllm_replica import VllmReplica
from daemon.supervise.environment import SERVER_CORES
from daemon.supervise.processes import free_port
from daemon.supervise.up import VLLM_READY_SECONDS
from daemon.supervise.vllm import VllmOptions, vllm_command, vllm_process
from daemon.versions.format import FACTORS_FILE, MANIFEST_FILE
from daemon.versions.store import Store
from editing.model.loaded import LoadedModel

ADMIN_TOKEN = "bench"  # the server listens on 127.0.0.1 and dies with this process
SERVED_NAME = "bench"
#: of the one writer
FENCE = 1
#: vLLM compiles and fills its caches under the first requests; these seconds are not counted
WARM_UP_SECONDS = 5.0
#: A small KV cache of so many blocks a client is touched whole in the first seconds. That of a served model
#: is touched bit by bit for hours, which would look like memory that publications leak.
BLOCKS, BLOCK_TOKENS, FEWEST_BLOCKS = 4, 128, 16

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        clients: how many stream at once.
        seconds: how long publications go on.
        every: seconds from one publication to the next.
        publications: how many there are; None: as many as `seconds` has room for.
        tokens: length of every answer.
        edits: facts that a version holds.
        seed: of the random updates.
        in_flight: what becomes of the answers that run at a flip.
        in_flight_seconds: how long "wait" waits for them.
    """

    clients: int = 16
    seconds: float = 300.0
    every: float = 5.0
    publications: int | None = None
    tokens: int = 64
    edits: int = 16
    seed: int = 0
    in_flight: InFlight = IN_FLIGHT
    in_flight_seconds: float = IN_FLIGHT_SECONDS

    @property
    def count(self) -> int:
        return self.publications or max(1, int(self.seconds / self.every))


def bench(model: LoadedModel, plan: Plan, out: Path, say: Say) -> tuple[dict[str, Any], dict[str, Any]]:
    """Starts a server, measures, and stops it.

    Returns:
        What publish.json holds, and the details beside it.

    Raises:
        ProcessError: vLLM did not start; its log is OUT/publish-vllm.log.
        ServingError, PublishError: a publication failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="factd-bench-") as root:
        store, port = Store(Path(root)), free_port()
        # What `factd up` would give a server on this host.
        options = VllmOptions(
            store=store.root,
            admin_token=ADMIN_TOKEN,
            served_name=SERVED_NAME,
            base_hash=model.base_hash,
            max_num_seqs=max(VllmOptions.max_num_seqs, plan.clients),
            threads=SERVER_CORES,
            extra=(
                "--block-size",
                str(BLOCK_TOKENS),
                "--num-gpu-blocks-override",
                str(max(FEWEST_BLOCKS, BLOCKS * plan.clients)),
            ),
        )
        argv, env = vllm_command(model.path, port, options)
        say(f"starting vLLM with {model.path.name}")
        log = out / "publish-vllm.log"
        with vllm_process(argv, env, port=port, log=log) as server:
            server.wait_until_ready(VLLM_READY_SECONDS)
            replica = VllmReplica(
                f"http://127.0.0.1:{port}",
                ADMIN_TOKEN,
                in_flight=plan.in_flight,
                in_flight_seconds=plan.in_flight_seconds,
            )
            clients = Clients(replica.name, SERVED_NAME, plan.clients, plan.tokens)
            guard = psutil.Process(server.pid)
            updates = Updates(model, plan.edits, plan.seed)
            replica.publish(BASE_VERSION, FENCE)  # until then the server holds requests
            clients.start()
            try:
                time.sleep(WARM_UP_SECONDS)
                flips = publications(replica, store, updates, plan, lambda: resident_bytes(guard), say)
            finally:
                say("waiting for the last answers")
                answers = clients.stop()
                replica.close()
    return summary(flips, answers, plan), details(flips, answers, plan, model.path.name)


def publications(
    replica: Serves,
    store: Store,
    updates: Updates,
    plan: Plan,
    resident: Callable[[], int],
    say: Say,
) -> list[Flip]:
    """Publishes version after version, on time as far as publishing itself allows."""
    publisher, flips = Publisher([replica], store, fence=FENCE), list[Flip]()
    started = time.perf_counter()
    for number in range(1, plan.count + 1):
        time.sleep(max(0.0, started + number * plan.every - time.perf_counter()))
        staged: list[float] = []
        accepted = time.perf_counter()
        version = updates.write(store, number)
        stood = publisher.publish(version, staged=lambda at=staged: at.append(time.perf_counter()))
        flipped = time.perf_counter()
        publisher.confirm(version)
        confirmed = time.perf_counter()
        read = sum((store.path(version) / name).stat().st_size for name in (MANIFEST_FILE, FACTORS_FILE))
        times = accepted, staged[0], flipped, confirmed, stood.pause_seconds
        flips.append(Flip(version, *times, read, resident(), stood.drain_seconds))
        if number % max(1, plan.count // 10) == 0:
            say(f"{number} of {plan.count} publications; the last took {confirmed - accepted:.2f} s")
    return flips


def resident_bytes(process: psutil.Process) -> int:
    """Resident memory of a process and all its descendants; shared pages count in each."""
    found = 0
    for each in (process, *process.children(recursive=True)):
        try:
            found += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue  # a helper process that ended between listing and reading
    return found


def summary(flips: Sequence[Flip], answers: Sequence[Answer], plan: Plan) -> dict[str, Any]:
    """publish.json; needs a flip. A truncated answer is a failed one; pauses are those that clients feel."""
    felt = felt_pauses(flips, answers)
    return {
        "publications": len(flips),
        "requests": len(answers),
        "failed_requests": sum(answer.failure is not None for answer in answers),
        "pause_p50_seconds": percentile(felt, 0.5),
        "pause_p99_seconds": percentile(felt, 0.99),
        "accepted_to_served_p50_seconds": percentile([f.flipped - f.accepted for f in flips], 0.5),
        "bytes_per_edit": statistics.mean(flip.bytes for flip in flips) / plan.edits,
        "rss_growth_bytes": growth([flip.rss_bytes for flip in flips]),
    }


def details(flips: Sequence[Flip], answers: Sequence[Answer], plan: Plan, model: str) -> dict[str, Any]:
    """publish-details.json: what the summary was made from, and what to compare the pauses with."""
    pauses = [flip.pause_seconds for flip in flips]
    ordinary = ordinary_waits(flips, answers)
    times = [at for answer in answers for at in answer.times]
    span = max(times) - min(times) if times else 0.0
    return {
        "model": model,
        "threads": SERVER_CORES,
        **asdict(plan),
        "scheduler_pause_p50_seconds": percentile(pauses, 0.5),
        "scheduler_pause_p99_seconds": percentile(pauses, 0.99),
        "drain_p50_seconds": percentile([flip.drain_seconds for flip in flips], 0.5),
        "drain_max_seconds": max((flip.drain_seconds for flip in flips), default=None),
        "longest_wait_seconds": longest_wait(flips, answers),
        "accepted_to_confirmed_p50_seconds": percentile([f.confirmed - f.accepted for f in flips], 0.5),
        "ordinary_wait_p50_seconds": percentile(ordinary, 0.5),
        "ordinary_wait_p99_seconds": percentile(ordinary, 0.99),
        "tokens_per_second": sum(answer.tokens for answer in answers) / span if span else None,
        "failures": [answer.failure for answer in answers if answer.failure is not None],
        "flips": [asdict(flip) for flip in flips],
    }
