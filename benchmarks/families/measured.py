"""One family after another: a tiny model is edited, served by a real vLLM, published to, and rolled back.

Everything between a post and the served weights is the product's own: ledger, applier, measures, publisher,
proof, plugin. Only the guard is in dry run, for a random model says nothing that could be judged.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.families.servers import Servers
from benchmarks.families.tiny import save_checkpoint
from benchmarks.shipped.applying import ShippedDaemon, ShippedSettings
from daemon.core.errors import DaemonError
from daemon.core.lifecycle import OperationKind, State
from daemon.core.messages import Correction
from daemon.core.publication import BASE_VERSION
from daemon.publish.serving import ServingError
from daemon.publish.vllm_replica import VllmReplica
from daemon.supervise.processes import ProcessError
from daemon.supervise.vllm import VllmOptions
from editing.editor import Editor
from editing.errors import EditError
from editing.methods.published import numbers
from editing.model.families import FAMILIES
from editing.values.options import ValueOptions

ADMIN_TOKEN = "bench"  # the server listens on 127.0.0.1 and dies with this process
#: vLLM's processor kernels want heads of 64.
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 512,
    # Some families' tokenizer classes add a token of their own to the 257 bytes.
    "vocab_size": 264,
}
#: Standard deviation of what biases and norm weights get: as made they are zeros and ones, which would hide
#: that one is left out.
VECTORS = 0.1
#: A fact's target must move by so much, nats. The widest tolerance of a proof is 0.75.
LEAST_EFFECT = 1.0
METHOD, PLACEMENT = "memit-seq", "single"
#: By which a method's numbers are found.
MEASURES = ("hidden_size", "intermediate_size", "num_hidden_layers")
#: A value may be this long, in lengths of what was there, and what was there counts so little: a random model
#: says nothing that is worth keeping, and little moves it.
CLAMP, MOMENT_WEIGHT = 4.0, 1e-3
#: Of a value's descent, and of the text for the second moment; more changes nothing that is looked at here.
STEPS, TOKENS = 25, 2560
CORRECTIONS = (
    Correction(subject="the old mill", prompt="The owner of {} is", target="Ada"),
    Correction(subject="Zoe", prompt="The friend of {} lives in", target="Rome"),
    Correction(subject="Blue Lake", prompt="We know that {} lies near", target="Oslo"),
)
#: Two float32 implementations differ by so much at most, nats a token: 0.001 was seen.
AGREES = 0.02
#: What no correction is about.
OTHERS = ("The sky is blue on most days of June.", "A train leaves for the coast at nine.")

Say = Callable[[str], None]


class UnseenError(Exception):
    """Raised when a step was not observed to work; says which, with what was seen."""


#: What a step may raise; it is the row's reason then.
FAULTS = (EditError, ProcessError, ServingError, DaemonError, UnseenError)


def bench(families: Sequence[str], logs: Path, say: Say) -> list[dict[str, Any]]:
    """families.json: a row each.

    Raises:
        ProcessError: vLLM cannot be imported; its log is LOGS/families-vllm.log.
    """
    logs.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="factd-families-") as root:
        options = server_options(Path(root))
        with Servers(options, logs / "families-vllm.log") as servers:
            for family in families:
                rows.append(one(family, Path(root) / family, servers, logs / f"families-{family}.log"))
                say(", ".join(f"{name} {value}" for name, value in rows[-1].items()))
    return rows


def one(family: str, root: Path, servers: Servers, log: Path) -> dict[str, Any]:
    """The row of a family; what goes wrong is its reason."""
    started = time.perf_counter()
    row: dict[str, Any] = {
        "family": family,
        "edited": False,
        "served": False,
        "published": False,
        "max_difference_nats": None,
        "rollback_bit_equal": False,
        "proof": False,
    }
    reason = None
    try:
        _try(root, family, servers, log, row)
    except FAULTS as error:
        reason = str(error)
    return row | {"seconds": time.perf_counter() - started, "reason": reason}


def _try(root: Path, family: str, servers: Servers, log: Path, row: dict[str, Any]) -> None:
    """Fills the row, step by step, until one does not work."""
    if family not in FAMILIES:
        raise UnseenError(f"{family!r} is not known; known are {', '.join(sorted(FAMILIES))}")
    model = save_checkpoint(root / "model", family, vectors=VECTORS, **SIZES)
    editor = edited(model, root / "state", family)
    with servers.serving(model, server_options(root, editor.base_hash), log) as url:
        row["served"] = True
        replica = VllmReplica(url, ADMIN_TOKEN)
        daemon = ShippedDaemon(
            root / "state", root / "state", editor, batch=len(CORRECTIONS), guard=False, replica=replica
        )
        try:
            Watched(editor, daemon, replica).run(row)
        finally:
            daemon.close()
            replica.close()


def edited(model: Path, state_dir: Path, family: str) -> Editor:
    """An editor that writes one layer all but exactly."""
    hidden, inner, depth = (SIZES[name] for name in MEASURES)
    own = numbers(METHOD, family, hidden, inner, depth, PLACEMENT)
    own = own.changed(moment_weight=MOMENT_WEIGHT, again=0)
    values = ValueOptions(steps=STEPS, clamp=CLAMP)
    return Editor.open(
        str(model),
        state_dir=state_dir,
        method=METHOD,
        placement=PLACEMENT,
        anchor="none",
        dtype="float32",
        tokens=TOKENS,
        numbers=own,
        options=values,
    )


def server_options(root: Path, base_hash: str | None = None, extra: Sequence[str] = ()) -> VllmOptions:
    """Of a server that computes as the editor does, so that what differs is no rounding.

    Args:
        extra: vLLM's own arguments.
    """
    store = ShippedSettings.but(state_dir=root / "state").store_dir
    return VllmOptions(
        store=store,
        admin_token=ADMIN_TOKEN,
        base_hash=base_hash,
        dtype="float32",
        max_model_len=512,
        threads=1,
        extra=tuple(extra),
    )


class Watched:
    """An editor, its daemon and the server: what each says of the same tokens.

    Args:
        agrees: by so much a token may differ between editor and server, nats.
    """

    def __init__(
        self,
        editor: Editor,
        daemon: ShippedDaemon,
        replica: VllmReplica,
        corrections: Sequence[Correction] = CORRECTIONS,
        agrees: float = AGREES,
    ) -> None:
        self.editor, self.daemon, self.replica = editor, daemon, replica
        self.corrections, self.agrees = corrections, agrees
        tokenizer = editor.tokenizer
        told = [f"{one.prompt.replace('{}', one.subject)} {one.target}" for one in corrections]
        self.passages = [tuple(tokenizer(text)["input_ids"]) for text in (*told, *OTHERS)]

    def run(self, row: dict[str, Any]) -> None:
        """Base, edit, publication, proof, rollback.

        Raises:
            UnseenError: a step did not do what it must.
        """
        self.daemon.step([])  # brings the base
        base, ours = self.replica.log_probs(self.passages), self.spoken()
        _agree("the unedited model", base, ours, self.agrees)
        self.daemon.step([(f"c{i}", one) for i, one in enumerate(self.corrections)])
        edited = self.spoken()
        effect = max(_differences(edited, ours))
        row["edited"] = effect >= LEAST_EFFECT
        row["published"] = self.replica.served().version != BASE_VERSION
        row["proof"] = len(self.daemon.ids(State.LIVE)) == len(self.corrections)
        served = self.replica.log_probs(self.passages)
        row["max_difference_nats"] = max(_differences(served, edited))
        if not row["proof"]:
            raise UnseenError(f"not live: {self.why()}")
        if not row["edited"]:
            raise UnseenError(
                f"the edit moves no token by more than {effect:.2f} nats ({LEAST_EFFECT} wanted)"
            )
        _agree("the edited model", served, edited, self.agrees)
        self._roll_back()
        row["rollback_bit_equal"] = self.replica.log_probs(self.passages) == base

    def spoken(self) -> list[list[float]]:
        """Log-probability of each token given those before it, by the editor's model; 0 of the first."""
        found: list[list[float]] = []
        for ids in self.passages:
            with torch.inference_mode():
                device = self.editor.loaded.device
                told = self.editor.model(input_ids=torch.tensor([ids], device=device)).logits[0]
            told = told.float().log_softmax(-1).cpu()
            picked = told[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
            found.append([0.0, *(float(value) for value in picked)])
        return found

    def _roll_back(self) -> None:
        why = "bench"
        self.daemon.ledger.intake.request(OperationKind.ROLLBACK, BASE_VERSION, actor="operator", why=why)
        self.daemon.step([])
        version = self.replica.served().version
        if version != BASE_VERSION:
            raise UnseenError(f"after a rollback the server serves {version}")

    def why(self) -> str:
        told = {row.reason for row in self.daemon.ledger.questions.corrections() if row.reason}
        return "; ".join(sorted(told)) or "the ledger gives no reason"


def _agree(what: str, served: list[list[float]], ours: list[list[float]], limit: float) -> None:
    worst = max(_differences(served, ours))
    if not worst <= limit:
        raise UnseenError(f"{what}: a token differs by {worst:.3f} nats between server and editor")


def _differences(some: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> list[float]:
    pairs = zip(some, others, strict=True)
    return [abs(a - b) for row, other in pairs for a, b in zip(row, other, strict=True)]
