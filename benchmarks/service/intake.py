"""How fast corrections are taken in: a real API process on a ledger of its own, posts over real sockets.

Every post counted was acknowledged, which means durable: the ledger commits with an fsync before it answers.
"""

import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.http.client import Client
from daemon.supervise.embedded import EmbeddedValkey
from daemon.supervise.processes import ManagedProcess, answers, free_port

#: an API process is up within seconds on a free core, within minutes on a crowded one
READY_SECONDS = 180.0
TOKEN = "bench"


@dataclass(frozen=True)
class Load:
    """What is sent.

    Attributes:
        clients: that post at the same time.
        single: corrections posted one by one, as fast as they go.
        bulk, chunk: corrections posted `chunk` in a request, as fast as they go.
        rate, seconds: posts a second at a steady pace, and for how long.
    """

    clients: int = 8
    single: int = 3000
    bulk: int = 40_000
    chunk: int = 500
    rate: float = 150.0
    seconds: float = 10.0


def intake(load: Load, say: Callable[[str], object]) -> dict[str, Any]:
    """Measures on services in a temporary folder; nothing is edited.

    Raises:
        ProcessError: a service did not start.
    """
    with tempfile.TemporaryDirectory(prefix="factd-bench-") as folder, _api(Path(folder)) as url:
        numbers = itertools.count()
        lock = threading.Lock()

        def corrections(count: int) -> list[dict[str, Any]]:
            with lock:
                return [_correction(next(numbers)) for _ in range(count)]

        with _Clients(url, load.clients) as clients:
            clients.send(load.clients, lambda client: client.post(corrections(1)[0]))  # connections opened
            say("single posts")
            single = clients.send(load.single, lambda client: client.post(corrections(1)[0]))
            say("bulk posts")
            bulk = clients.send(load.bulk // load.chunk, lambda client: client.post(corrections(load.chunk)))
            say(f"posts at {load.rate:g} a second")
            count = int(load.rate * load.seconds)
            paced = clients.send(count, lambda client: client.post(corrections(1)[0]), load.rate)
    return {
        "cpus": os.cpu_count(),
        "clients": load.clients,
        "single_posts": load.single,
        "single_posts_per_second": single.per_second,
        "single_p50_seconds": single.quantile(0.5),
        "single_p99_seconds": single.quantile(0.99),
        "bulk_corrections": load.bulk,
        "bulk_chunk": load.chunk,
        "bulk_corrections_per_second": bulk.per_second * load.chunk,
        "paced_posts_per_second": paced.per_second,
        "paced_p50_seconds": paced.quantile(0.5),
        "paced_p99_seconds": paced.quantile(0.99),
        "paced_max_seconds": paced.quantile(1.0),
    }


def _correction(number: int) -> dict[str, Any]:
    return {
        "subject": f"Subject {number}",
        "prompt": "The capital of {} is",
        "target": f"Town {number % 100}",
    }


@contextmanager
def _api(folder: Path) -> Generator[str]:
    with EmbeddedValkey(folder / "valkey") as valkey:
        port = free_port()
        own = {
            "FACTD_STATE_DIR": str(folder),
            "FACTD_REDIS_URL": valkey.url,
            "FACTD_ADMIN_TOKEN": TOKEN,
            "FACTD_MAX_PENDING": "10000000",
            "FACTD_REQUEST_RATE": "",
            "FACTD_CORRECTION_RATE": "",
        }
        outside = {name: value for name, value in os.environ.items() if not name.startswith("FACTD_")}
        url = f"http://127.0.0.1:{port}"
        argv = [sys.executable, "-m", "daemon", "api", "--port", str(port)]
        process = ManagedProcess(
            "api", argv, log=folder / "api.log", env=outside | own, ready=lambda: answers(f"{url}/healthz")
        )
        process.start()
        try:
            process.wait_until_ready(READY_SECONDS)
            yield url
        finally:
            process.stop()


@dataclass(frozen=True)
class Sent:
    """Times of the answers, seconds: each from when its request was due."""

    latencies: list[float]
    seconds: float

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class _Clients:
    def __init__(self, url: str, count: int) -> None:
        self._clients = [Client(url, TOKEN) for _ in range(count)]

    def __enter__(self) -> "_Clients":
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    def send(self, count: int, act: Callable[[Client], object], rate: float | None = None) -> Sent:
        """Sends `count` requests, as fast as they are answered or each when it is due."""
        turns, latencies = itertools.count(), list[float]()
        started = time.perf_counter()

        def run(client: Client) -> None:
            while (turn := next(turns)) < count:
                due = time.perf_counter() if rate is None else started + turn / rate
                time.sleep(max(0.0, due - time.perf_counter()))
                act(client)
                # A late start counts: whoever posts then waits for it.
                latencies.append(time.perf_counter() - due)

        with ThreadPoolExecutor(len(self._clients)) as pool:
            for done in [pool.submit(run, client) for client in self._clients]:
                done.result()
        return Sent(latencies, time.perf_counter() - started)
