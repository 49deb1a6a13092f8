"""What publications cost clients that stream: a real vLLM, versions from a seed, the product's own path.

A version is written to a store, staged, flipped and confirmed exactly as the applier does it; only the
edits are random low-rank updates, so that no editing competes for the processor.
"""

import math
import statistics
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.service.streaming import Answer, Clients
from daemon.core.publication import BASE_VERSION, IN_FLIGHT_SECONDS, InFlight
from daemon.publish.publishing import Publisher
from daemon.publish.serving import Serves
from daemon.publish.vllm_replica import VllmReplica
from daemon.supervise.environment import SERVER_CORES
from daemon.supervise.processes import free_port
from daemon.supervise.up import VLLM_READY_SECONDS
from daemon.supervise.vllm import VllmOptions, vllm_command, vllm_process
from daemon.versions.format import FACTORS_FILE, MANIFEST_FILE, TensorEntry
from daemon.versions.store import Draft, Store

if TYPE_CHECKING:
    from editing.memory.state import EditState
    from editing.model.loaded import LoadedModel

ADMIN_TOKEN = "bench"  # the server listens on 127.0.0.1 and dies with this process
SERVED_NAME = "bench"
#: of the one writer
FENCE = 1
#: ‖ΔW‖_F / ‖W‖_F of a version: some batches of real corrections
CHANGE = 0.01
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
    in_flight: InFlight = "keep"
    in_flight_seconds: float = IN_FLIGHT_SECONDS

    @property
    def count(self) -> int:
        return self.publications or max(1, int(self.seconds / self.every))


@dataclass(frozen=True)
class Flip:
    """One publication; times are of `time.perf_counter()`.

    Attributes:
        accepted: before the version was written.
        staged: every replica had read and verified it; the flip begins.
        flipped: every replica serves it.
        confirmed: the replicas' hashes were read back.
        pause_seconds: how long the scheduler stood still.
        drain_seconds: how long answers were let end before, while new ones waited.
        bytes: what a replica reads of the version.
        rss_bytes: memory of the server's processes afterwards.
    """

    version: str
    accepted: float
    staged: float
    flipped: float
    confirmed: float
    pause_seconds: float
    bytes: int
    rss_bytes: int
    drain_seconds: float = 0.0


class Updates:
    """Two random low-rank updates of the layers that editing would write; versions take turns."""

    def __init__(self, model: "LoadedModel", edits: int, seed: int) -> None:
        import torch

        from editing.facts import Fact
        from editing.methods.published import parameters

        self.model = model
        generator = torch.Generator().manual_seed(seed)
        base = model.base_weights(parameters("memit-seq", model).layers)
        facts = [Fact(f"subject {i}", "The city of {} is", f"city {i}", f"f{i}") for i in range(edits)]
        self.turns = [_random_state(base, facts, generator) for _ in range(2)]
        self.entries = [_entries(base, state) for state in self.turns]

    def write(self, store: Store, number: int) -> str:
        """Writes version `number` and removes those before the last one."""
        turn, version = number % 2, f"v{number:06d}"
        # Every version grows from the base: a chain of hundreds would be read anew at each write.
        draft = Draft(
            version, BASE_VERSION, self.model.base_hash, "bench", self.entries[turn], 1, time.time()
        )
        store.write(draft, self.turns[turn])
        store.clean(keep={version, f"v{number - 1:06d}"})
        return version


def _random_state(base: Mapping[str, Any], facts: Sequence[Any], generator: Any) -> "EditState":
    import torch

    from editing.memory.state import EditState

    factors = {}
    for name, weight in base.items():
        a, b = (torch.randn(size, len(facts), generator=generator) for size in weight.shape)
        # ‖A Bᵀ‖_F of independent normal columns is near √(n d_out d_in)
        size = (len(facts) * weight.numel()) ** 0.5
        factors[name] = a * float(CHANGE * weight.norm() / size), b
    return EditState(tuple(facts), factors)


def _entries(base: Mapping[str, Any], state: "EditState") -> dict[str, TensorEntry]:
    from editing.memory.delta import materialise, tensor_sha256

    return {
        name: {
            "shape": list(weight.shape),
            "dtype": "float32",
            "base_sha256": tensor_sha256(weight),
            "sha256": tensor_sha256(materialise(weight, *state.factors[name])),
        }
        for name, weight in base.items()
    }


def bench(model: "LoadedModel", plan: Plan, out: Path, say: Say) -> tuple[dict[str, Any], dict[str, Any]]:
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
    publisher, flips = Publisher([replica], store, fence=FENCE), []
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


def felt_pauses(flips: Sequence[Flip], answers: Sequence[Answer]) -> list[float]:
    """For each flip and each client that was being answered: its longest wait for a token around the flip.

    Around: the wait began before every replica served the new version and ended after the flip began.
    """
    longest: dict[tuple[int, int], float] = {}
    for answer in answers:
        for number, flip in enumerate(flips):
            first = max(1, bisect_right(answer.times, flip.staged))
            last = bisect_right(answer.times, flip.flipped) + 1
            waits = _waits(answer.times[first - 1 : last])
            if waits:
                key = number, answer.client
                longest[key] = max(longest.get(key, 0.0), *waits)
    return list(longest.values())


def longest_wait(flips: Sequence[Flip], answers: Sequence[Answer]) -> float | None:
    """Of any client around any flip, for the next token or for the first: new requests wait too."""
    waits = [
        after - before
        for answer in answers
        for before, after in pairwise((answer.asked, *answer.times))
        if any(before <= flip.flipped and after >= flip.staged for flip in flips)
    ]
    return max(waits, default=None)


def ordinary_waits(flips: Sequence[Flip], answers: Sequence[Answer]) -> list[float]:
    """Waits between two tokens while nothing was published at all."""
    busy = [(flip.accepted, flip.confirmed) for flip in flips]
    return [
        after - before
        for answer in answers
        for before, after in pairwise(answer.times)
        if not any(before <= end and after >= start for start, end in busy)
    ]


def _waits(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value that `share` of all do not pass (nearest rank); None of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def growth(values: Sequence[int]) -> int:
    """Median of the last fifth less median of the second: the first fifth fills caches."""
    fifth = max(1, len(values) // 5)
    return round(statistics.median(values[-fifth:]) - statistics.median(values[fifth : 2 * fifth] or values))


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
