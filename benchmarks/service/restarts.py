"""What clients are answered while the processes of `factd up` are killed, each alone and in pairs.

    python -m benchmarks.service.restarts --state DIR --out DIR

DIR of --state should hold a prepared model. --killed vllm,broker tries that case alone; the rows of others
stay in restarts.json. With FACTD_DATABASE_URL, --stop-ledger and --start-ledger are the shell commands that
end and start its server; else the ledger is SQLite, and is locked for a while.
"""

import argparse
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from kombu.exceptions import OperationalError
from redis import RedisError

from benchmarks.files import read_json, say, write_json
from benchmarks.service.interruptions import Heard, outcome
from daemon.http.client import Client
from daemon.intake.posting import answering, producer
from daemon.intake.server import policy_and_clock
from daemon.supervise.processes import answers

FACT = {"subject": "the Eiffel Tower", "prompt": "The city where {} stands is", "target": "Rome"}
PROMPT = FACT["prompt"].replace("{}", FACT["subject"])
#: how the command line of a part's reaper is known; the worker is two processes, intake and apply
MARKS = {"broker": "valkey", "worker": "--queue", "api": "daemon api", "vllm": "api_server"}
PARTS = ("vllm", "broker", "worker", "ledger", "api")
WORKERS = ("intake", "apply")
#: A SQLite ledger is kept locked for so long: more than its connections wait for a lock.
LOCK_SECONDS = 20.0
READY_SECONDS, BACK_SECONDS = 1800.0, 900.0
ASK_EVERY_SECONDS, LOOK_EVERY_SECONDS = 0.1, 0.2
#: A broker that takes longer to answer is not back.
ASK_SECONDS = 2.0
#: Clients go on asking for so long when all is back.
CALM_SECONDS = 5.0


class Clients:
    """Asks without a rest, and writes down what it hears."""

    def __init__(self, url: str, model: str) -> None:
        self.heard: list[Heard] = []
        self._body = {"model": model, "prompt": PROMPT, "max_tokens": 3, "temperature": 0}
        self._url, self._over = f"{url}/v1/completions", threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._over.wait(ASK_EVERY_SECONDS):
            asked = time.monotonic()
            try:
                answer = httpx.post(self._url, json=self._body, timeout=BACK_SECONDS, trust_env=False)
                version = answer.headers.get("x-factd-version", "")
                text = answer.json()["choices"][0]["text"] if answer.status_code == 200 else ""
                self.heard.append(Heard(asked, time.monotonic(), answer.status_code, version, text.strip()))
            except httpx.HTTPError:
                self.heard.append(Heard(asked, time.monotonic(), 0, "", ""))


class Parts:
    """The processes of one `factd up`: how each is ended, and whether it is back."""

    def __init__(self, up: Mapping[str, Any], stop_ledger: str | None, start_ledger: str | None) -> None:
        self.up, self.commands = up, (stop_ledger, start_ledger)

    def end(self, part: str) -> Callable[[], bool]:
        """Ends a part. What is returned says whether it is back."""
        if part == "ledger":
            thread = threading.Thread(target=self._end_ledger)
            thread.start()
            return lambda: not thread.is_alive()
        gone = [child for each in self._reapers(part) for child in each.children(recursive=True)]
        for process in gone:
            process.kill()
        psutil.wait_procs(gone, timeout=BACK_SECONDS)
        return {
            "broker": self._broker_answers,
            "worker": self._workers_answer,
            "api": lambda: answers(f"{self.up['api_url']}/healthz"),
            "vllm": lambda: answers(f"{self.up['vllm_url']}/health"),
        }[part]

    def _reapers(self, part: str) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for each in psutil.Process(self.up["pid"]).children():
            with suppress(psutil.NoSuchProcess):  # it has just ended by itself, and is a zombie
                words = " ".join(each.cmdline())
                if "reaper.py" in words and MARKS[part] in words:
                    found.append(each)
        return found

    def _workers_answer(self) -> bool:
        # A new producer each time: one that was connected to a killed broker fails once more.
        try:
            return len(answering(producer(self.up["redis_url"]), WORKERS)) == len(WORKERS)
        except (OperationalError, RedisError, OSError):  # the broker is away
            return False

    def _broker_answers(self) -> bool:
        try:
            return bool(policy_and_clock(self.up["redis_url"], ASK_SECONDS))
        except (RedisError, OSError):
            return False

    def _end_ledger(self) -> None:
        stop, start = self.commands
        if stop and start:
            subprocess.run(stop, shell=True, check=True)
            subprocess.run(start, shell=True, check=True)
            return
        with sqlite3.connect(Path(self.up["state_dir"]) / "ledger.sqlite3", isolation_level=None) as ledger:
            ledger.execute("PRAGMA busy_timeout = 60000")
            ledger.execute("BEGIN EXCLUSIVE")
            time.sleep(LOCK_SECONDS)
            ledger.execute("ROLLBACK")


@contextmanager
def factd_up(state: Path, out: Path):
    """What the ready file of a running `factd up` holds."""
    ready = out / "ready.json"
    ready.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "daemon", "up", "--state", str(state), "--ready-file", str(ready)]
    with (out / "up.log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            _until(lambda: ready.exists() or process.poll() is not None, READY_SECONDS)
            yield json.loads(ready.read_text())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(90)


def _until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s; see up.log")
        time.sleep(LOOK_EVERY_SECONDS)


def tried(parts: Parts, killed: Sequence[str], live: str, model: str) -> dict[str, Any]:
    """Ends these parts at once, waits until they are back and the live version answers."""
    clients = Clients(parts.up["vllm_url"], model)
    time.sleep(CALM_SECONDS)
    began = time.monotonic()
    waiting = {part: parts.end(part) for part in killed}
    back: dict[str, float] = {}
    while len(back) < len(killed):
        back |= {p: time.monotonic() for p, is_back in waiting.items() if p not in back and is_back()}
        if time.monotonic() > began + BACK_SECONDS:
            break
        time.sleep(LOOK_EVERY_SECONDS)
    edited = {"version": live, "text": FACT["target"]}
    _until(lambda: any(one.asked > max(back.values()) and one.says(**edited) for one in clients.heard), 900)
    time.sleep(CALM_SECONDS)
    clients.stop()
    return {"killed": list(killed), **outcome(clients.heard, began, back, **edited)}


def cases(told: Sequence[str]) -> list[tuple[str, ...]]:
    """What is killed together, of arguments such as "vllm,broker"; of none: each part alone, and all pairs.

    Raises:
        ValueError: there is no such part.
    """
    if not told:
        return list(itertools.chain(*(itertools.combinations(PARTS, n) for n in (1, 2))))
    found = [tuple(words.split(",")) for words in told]
    for part in itertools.chain(*found):
        if part not in PARTS:
            raise ValueError(f"--killed {part!r}: is none of {', '.join(PARTS)}")
    return found


def with_row(rows: Sequence[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows with this one in the place of the one of its case."""
    return [one for one in rows if set(one["killed"]) != set(row["killed"])] + [row]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--killed", action="append", default=[], metavar="PART[,PART]")
    parser.add_argument("--stop-ledger")
    parser.add_argument("--start-ledger")
    told = parser.parse_args(arguments)
    chosen = cases(told.killed)
    told.out.mkdir(parents=True, exist_ok=True)
    os.environ["FACTD_STATE_DIR"] = str(told.state)
    with factd_up(told.state, told.out) as up:
        client = Client(up["api_url"], json.loads(Path(up["tokens_file"]).read_text())["admin"])
        client.wait(client.post([FACT]), READY_SECONDS)
        live = client.versions()["live"]
        say(f"live: {live}")
        parts = Parts(up, told.stop_ledger, told.start_ledger)
        for killed in chosen:
            row = tried(parts, killed, live, up["served_model"])
            say(json.dumps(row))
            found = told.out / "restarts.json"
            write_json(found, with_row(read_json(found, []), row))


if __name__ == "__main__":
    main()
