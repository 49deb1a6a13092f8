"""One server of the usual kind, and a correction put in place, proved, measured and taken back.

On a processor, with the bundled model and so many ranks; DIR of --state may hold it prepared:

    python -m benchmarks.service.in_place --ranks 3 --state DIR --out DIR
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.families.measured import ADMIN_TOKEN, AGREES, UnseenError, Watched, server_options
from benchmarks.files import say, write_json
from benchmarks.shipped.applying import ShippedDaemon
from daemon.core.messages import Correction
from daemon.core.publication import BASE_VERSION
from daemon.publish.vllm_replica import VllmReplica
from daemon.supervise.processes import free_port
from daemon.supervise.vllm import vllm_command, vllm_process
from editing.editor import Editor
from editing.model.checkpoint import BUNDLED

CORRECTION = Correction(subject="the Eiffel Tower", prompt="The city where {} stands is", target="Rome")
#: What the server may take to start, many times what it takes on quiet cores.
READY_SECONDS = 600.0
#: Publications of which the pause is told, there and back.
PUBLICATIONS = 20
#: Tokens of an answer whose steps are compared with one pass over them all.
DECODED = 12
#: What must hold of a correction.
MUST = ("edited", "published", "proof", "rollback_bit_equal")


@dataclass(frozen=True)
class Device:
    """What the server runs on.

    Attributes:
        name: "cuda", or "cpu" to try all but the device itself.
        arguments: vLLM's for such a device.
        graphs: vLLM's that let it capture CUDA graphs, which read weights from where they were.
    """

    name: str
    arguments: tuple[str, ...] = ()
    graphs: tuple[str, ...] = ()

    def free_bytes(self) -> int:
        """Free memory of the GPU, whoever uses the rest; 0 of a processor."""
        return torch.cuda.mem_get_info()[0] if self.name == "cuda" else 0


#: The editor of this process has its model on the same GPU.
CUDA = Device("cuda", ("--gpu-memory-utilization", "0.3"), ("--no-enforce-eager",))
CPU = Device("cpu")


@dataclass(frozen=True)
class Trial:
    """What is served, and how.

    Attributes:
        editor: opens an editor in float32 on the unedited model.
        corrections: what is published.
        dtype: of the server. In float32 it must agree with the editor.
        graphs: whether it captures CUDA graphs.
    """

    editor: Callable[[], Editor]
    corrections: Sequence[Correction]
    dtype: str
    graphs: bool


def in_place(
    trial: Trial, device: Device, root: Path, log: Path, seconds: float, row: dict[str, Any]
) -> None:
    """Fills the row: a server's start, a correction's publication, proof and rollback, and the pauses.

    Args:
        root: a new folder, for ledger and versions.
        seconds: the server must answer by then.

    Raises:
        FAULTS of `benchmarks.families.measured`.
    """
    editor, free = trial.editor(), device.free_bytes()
    arguments = (*device.arguments, *(device.graphs if trial.graphs else ()))
    options = replace(server_options(root, editor.base_hash, arguments), dtype=trial.dtype)
    port, state = free_port(), root / "state"
    state.mkdir()
    argv, env = vllm_command(editor.loaded.path, port, options)
    with vllm_process(argv, env, port=port, log=log) as server:
        row["start_seconds"] = server.wait_until_ready(seconds)
        row["device_bytes"] = free - device.free_bytes()
        if device.name == "cuda" and row["device_bytes"] <= 0:
            raise UnseenError(f"the server takes no memory of the GPU: it runs elsewhere; see {log}")
        replica = VllmReplica(f"http://127.0.0.1:{port}", ADMIN_TOKEN)
        batch = len(trial.corrections)
        daemon = ShippedDaemon(state, state, editor, batch=batch, guard=False, replica=replica)
        try:
            _watched(trial, Watched(editor, daemon, replica, trial.corrections, _agrees(trial)), row)
        finally:
            daemon.close()
            replica.close()


def _agrees(trial: Trial) -> float:
    """bfloat16 rounds by more than any bound would tell; there the proof's own noise decides."""
    return AGREES if trial.dtype == "float32" else math.inf


def _watched(trial: Trial, watched: Watched, row: dict[str, Any]) -> None:
    watched.run(row)
    broken = [name for name in MUST if not row[name]]
    if broken:
        raise UnseenError(f"not observed: {', '.join(broken)}")
    replica, pauses = watched.replica, list[float]()
    edited, fence = "v000001", watched.replica.served().fence
    for number in range(PUBLICATIONS):
        pauses.append(replica.publish((edited, BASE_VERSION)[number % 2], fence).pause_seconds)
    row["pause_p50_ms"], row["pause_longest_ms"] = 1000 * median(pauses), 1000 * max(pauses)
    replica.publish(edited, fence)
    prompt = watched.passages[0][:-1]
    row["decoded_difference_nats"] = apart = decoded_apart(replica, prompt, decoded(replica, prompt))
    replica.publish(BASE_VERSION, fence)
    if not apart <= _agrees(trial):
        raise UnseenError(
            f"a token of an answer differs by {apart:.3f} nats from one pass over the whole answer: steps of "
            "the answer compute with other weights"
        )


def decoded(replica: VllmReplica, prompt: Sequence[int]) -> tuple[list[int], list[float]]:
    """An answer, made token by token, and the log-probability of each token.

    Single tokens are what CUDA graphs compute, and a graph that was captured over other weights keeps them.
    """
    body = {
        "model": next(iter(replica.http.models())),
        "prompt": list(prompt),
        "max_tokens": DECODED,
        "temperature": 0.0,
        "ignore_eos": True,
        "logprobs": 0,
        "return_token_ids": True,
    }
    choice = replica.http.call("POST", "/v1/completions", json=body)["choices"][0]
    return choice["token_ids"], choice["logprobs"]["token_logprobs"]


def decoded_apart(
    replica: VllmReplica, prompt: Sequence[int], answer: tuple[Sequence[int], Sequence[float]]
) -> float:
    """How far one log-probability of an answer is off that of a single pass over the whole answer, nats."""
    ids, told = answer
    whole = replica.log_probs([(*prompt, *ids)])[0][len(prompt) :]
    return max(abs(a - b) for a, b in zip(told, whole, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--state", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    device = replace(CPU, arguments=("--tensor-parallel-size", str(given.ranks)))
    trial = Trial(lambda: Editor.open(BUNDLED, state_dir=given.state), [CORRECTION], "bfloat16", False)
    row: dict[str, Any] = {"ranks": given.ranks}
    with tempfile.TemporaryDirectory(prefix="factd-in-place-") as root:
        in_place(trial, device, Path(root), given.out / "in-place-vllm.log", READY_SECONDS, row)
    say(json.dumps(row))
    write_json(given.out / f"in-place-{given.ranks}.json", row)


if __name__ == "__main__":
    main()
