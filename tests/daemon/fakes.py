"""Small stand-ins: an editor whose weights are a few numbers, a replica that lives in a file."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from daemon.core.progress import Progress
from daemon.publish.proof import Proof
from daemon.publish.proving.passages import Passage
from daemon.publish.serving import PublishResult, Served, ServingError
from editing.errors import EditError
from editing.facts import Fact
from editing.memory.delta import materialise, tensor_sha256
from editing.memory.rebase import unchanged
from editing.memory.state import EditState
from editing.report import Outcome, Report

NAME = "model.layers.0.mlp.down_proj.weight"


def _column(fact: Fact, rows: int) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(fact.text.encode() + fact.target.encode()).digest()[:4], "big")
    return torch.randn(rows, 1, generator=torch.Generator().manual_seed(seed))


def solved(table: EditState) -> EditState:
    factors = {NAME: (table.columns[f"{NAME}/values"] * 0.1, table.columns[f"{NAME}/keys"])}
    return EditState(table.facts, factors, table.columns)


class FakeEditor:
    """Deterministic; the answer to a live fact's prompt is its target."""

    base_hash, settings_hash, tensor_names, layers = "b" * 64, "s" * 64, (NAME,), (0,)
    forms, chats = ("prompt",), False
    #: targets whose values are skipped
    outliers = frozenset({"outlier"})

    def __init__(self, base: torch.Tensor | None = None) -> None:
        self.base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 7 if base is None else base
        self.state = EditState()
        self.applied: list[tuple[str, ...]] = []

    def apply(self, facts: Sequence[Fact], remove: Sequence[str] = ()) -> Report:
        self.applied.append(tuple(fact.id for fact in facts))
        if any(fact.target == "unwritable" for fact in facts):
            raise EditError("target = 'unwritable': cannot be encoded")
        if {fact.id for fact in facts} & set(self.state.ids) or set(remove) - set(self.state.ids):
            raise EditError("a fact is live already, or one to be removed is not")
        written = [fact for fact in facts if fact.target not in self.outliers]
        new = {
            f"{NAME}/{kind}": torch.cat([torch.zeros(rows, 0), *(_column(f, rows) for f in written)], 1)
            for kind, rows in (("values", self.base.shape[0]), ("keys", self.base.shape[1]))
        }
        table = self.state.without(remove).with_columns(written, new)
        self.state = solved(table)
        return Report(tuple(self._outcome(fact) for fact in facts), {})

    def _outcome(self, fact: Fact) -> Outcome:
        skipped = fact.target in self.outliers
        reason = "skipped_outlier: 12.1 is more than 2 x anchor 4.4" if skipped else None
        return Outcome(fact.id, not skipped, reason, 4.4, 1.0, 0.0, 1)

    def compact(
        self, folder: Path | None = None, progress: Progress = lambda _stage, _fraction: None
    ) -> None:
        """The keys become others, as a real compaction's do: the version is a snapshot."""
        progress("writing", 0.5)
        self._with_keys(0.75)

    def consolidate(
        self, folder: Path | None = None, progress: Progress = lambda _stage, _fraction: None
    ) -> None:
        """The same; the facts stand in another order afterwards."""
        progress("consolidating", 0.5)
        facts = self.state.facts[::-1]
        self.restore(EditState())
        self.apply(facts)
        self._with_keys(0.5)

    def _with_keys(self, share: float) -> None:
        columns = dict(self.state.columns)
        columns[f"{NAME}/keys"] = columns[f"{NAME}/keys"] * share
        self.state = solved(EditState(self.state.facts, {}, columns))

    def rebase(self, start: EditState, compacted: EditState) -> None:
        same = unchanged(start, self.state, [f"{NAME}/values"])
        gone = [id for id in compacted.ids if id not in same]
        new = self.state.without(same)
        self.state = solved(compacted.without(gone).with_columns(new.facts, new.columns))

    def restore(self, state: EditState) -> None:
        self.state = state

    def base_weights(self) -> dict[str, torch.Tensor]:
        return {NAME: self.base}

    def weights(self) -> dict[str, torch.Tensor]:
        if NAME not in self.state.factors:
            return self.base_weights()
        return {NAME: materialise(self.base, *self.state.factors[NAME])}

    def weight_hashes(self) -> dict[str, str]:
        return {name: tensor_sha256(weight) for name, weight in self.weights().items()}


class DiskServing:
    """A replica whose memory outlives the process that talks to it, as a real one's does."""

    def __init__(self, store: Path, state: Path, name: str = "disk") -> None:
        self.store, self.file, self.name = Path(store), Path(state), name
        self.failures: list[str] = []
        self.alive = True

    def _memory(self) -> dict[str, Any]:
        if not self.alive:
            raise ServingError(f"{self.name} is down", retryable=True, code="unreachable")
        if self.file.exists():
            return json.loads(self.file.read_text())
        return {"version": "default", "fence": 0, "published": []}

    def _manifest(self, version: str) -> dict[str, Any]:
        if version in ("v000000", "default"):
            return {"tensors": {}, "facts": {}}
        path = self.store / "versions" / version / "manifest.json"
        if not path.exists():
            raise ServingError(f"{version} is missing", retryable=False, code="missing")
        return json.loads(path.read_text())

    def _facts(self, version: str) -> dict[str, str]:
        facts: dict[str, dict[str, str]] = {}
        chain = []
        while version not in ("v000000", "default"):
            chain.append(self._manifest(version))
            version = "v000000" if chain[-1]["snapshot"] else chain[-1]["parent"]
        for manifest in reversed(chain):
            for id in manifest["facts_removed"]:
                facts.pop(id, None)
            facts |= {f["id"]: f for f in manifest["facts_added"]}
        return {f["prompt"].replace("{}", f["subject"]): f["target"] for f in facts.values()}

    def stage(self, version: str, fence: int) -> None:
        self._memory()
        self._manifest(version)

    def publish(self, version: str, fence: int) -> PublishResult:
        memory = self._memory()
        if fence < memory["fence"]:
            raise ServingError("stale fence", retryable=False, code="stale_fence")
        if version in self.failures:
            self.failures.remove(version)
            raise ServingError("swap failed", retryable=True, code="swap_failed")
        self._manifest(version)
        memory |= {"version": version, "fence": fence, "published": [*memory["published"], version]}
        work = self.file.with_suffix(".new")
        work.write_text(json.dumps(memory))
        os.replace(work, self.file)
        return PublishResult(version, 0.0, 0.0)

    def served(self) -> Served:
        memory = self._memory()
        try:
            tensors = self._manifest(memory["version"])["tensors"]
        except ServingError:  # it still serves what was given up and removed from the store
            tensors = {}
        hashes = {name: tensor["sha256"] for name, tensor in tensors.items()}
        return Served(memory["version"], memory["fence"], hashes)

    def complete(self, prompts: Sequence[str], max_tokens: int = 12) -> list[str]:
        facts = self._facts(self._memory()["version"])
        return [facts.get(prompt, "unknown") for prompt in prompts]

    def log_probs(self, passages: Sequence[Sequence[int]]) -> list[list[float]]:
        facts = self._facts(self._memory()["version"])
        return [[knows(facts, passage)] * len(passage) for passage in passages]

    def restart(self) -> None:
        memory = self._memory()
        self.file.write_text(json.dumps(memory | {"version": "default", "fence": 0}))

    def healthy(self) -> bool:
        return self.alive

    def close(self) -> None:
        pass


def passage_ids(prompt: str, target: str) -> tuple[int, ...]:
    return tuple(f"{prompt}\0{target}".encode())


def knows(facts: dict[str, str], passage: Sequence[int]) -> float:
    """Log-probability of each token of a passage for a model that knows these facts."""
    prompt, target = bytes(passage).decode().split("\0")
    return -0.1 if facts.get(prompt) == target else -5.0


def fake_proof(editor: FakeEditor) -> Proof:
    def score(pairs: Sequence[tuple[str, str]]) -> list[Passage]:
        facts = {fact.text: fact.target for fact in editor.state.facts}
        ids = [passage_ids(*pair) for pair in pairs]
        return [Passage(each, 1, (knows(facts, each),) * (len(each) - 1)) for each in ids]

    return Proof(score, [("The sky is", "blue")], editor)


@dataclass
class FakeMeasurements:
    targets: dict[str, str]
    earlier: int = 0
    live: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"targets": self.targets, "earlier": self.earlier}


@dataclass
class FakeVerdict:
    outcome: str
    reasons: tuple[str, ...] = ()
    blamed: tuple[str, ...] = ()
    states: dict[str, str] = field(default_factory=dict)


def fake_measure(batch: Any, earlier: Any, ratio: float | None) -> FakeMeasurements:
    targets = {row.id: row.target for row in batch}
    return FakeMeasurements(targets, len(earlier), tuple(row.target for row in earlier))


WEARING = {
    "wearing": "weight_norm_ratio",
    "fading": "retention_ratio",
    "babbling": "probe_perplexity_ratio",
}


def fake_judge(measured: FakeMeasurements, previous: Any) -> FakeVerdict:
    """`bad` is blamed, `poison` spoils its batch without a trace, `foggy` cannot be measured, `heavy` makes
    the weights too large and `light` does where they are worn, `crowded` makes earlier facts forgotten,
    `loud` is one too much for other text. Of live facts: `rotten` spoils the live version, `misty` hides it,
    `wearing` wears the weights, `fading` is forgotten little by little, `babbling` blurs other text, `stiff`
    cannot be compacted."""
    targets, live = measured.targets, measured.live
    if "foggy" in targets.values():
        return FakeVerdict("inconclusive", ("probe_kl_nats was not measured",))
    if "poison" in targets.values():
        return FakeVerdict("rejected", ("perplexity rose",))
    if "heavy" in targets.values():
        return FakeVerdict("rejected", ("weight_norm_ratio = 2",), states={"weight_norm_ratio": "limit"})
    if "light" in targets.values() and "wearing" in live:
        return FakeVerdict("rejected", ("weight_norm_ratio = 1.6",), states={"weight_norm_ratio": "limit"})
    if "crowded" in targets.values():
        return FakeVerdict("rejected", ("retention_ratio = 0.8",), states={"retention_ratio": "limit"})
    if "loud" in targets.values():
        return FakeVerdict("rejected", ("perplexity = 1.3",), states={"probe_perplexity_ratio": "limit"})
    blamed = tuple(id for id, target in targets.items() if target == "bad")
    if blamed:
        return FakeVerdict("rejected", ("does not answer",), blamed)
    judged_live = not targets and previous is None
    if judged_live and "misty" in live:
        return FakeVerdict("inconclusive", ("perplexity is NaN",))
    if judged_live and "rotten" in live:
        return FakeVerdict("rejected", ("perplexity has risen since",))
    if not targets and previous is not None and "stiff" in live:
        return FakeVerdict("rejected", ("compaction forgets",))
    here = {*live, *targets.values()}
    worn = {measure: "warn" for target, measure in WEARING.items() if target in here}
    return FakeVerdict("accepted", states=worn)


def fake_foresee(history: Any) -> dict[str, Any]:
    """A version that added `greedy` leaves room for five edits; of others nothing is known."""
    if history and "greedy" in history[-1][1].get("targets", {}).values():
        forecasts = [{"measure": "drift", "edits": 5.0}, {"measure": "probe_kl_nats", "edits": None}]
        return {"known": True, "nearest": "drift reaches 1 in 5 edits", "forecasts": forecasts}
    return {"known": False, "nearest": f"nothing yet: {len(history)} of 8 versions", "forecasts": []}
