"""A stub of serving that holds weights: what is measured on it is what clients would be answered with."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from daemon.core.publication import UNPUBLISHED
from daemon.publish.proving.noise import Noise
from daemon.publish.serving import PublishResult, Served, ServingError
from daemon.versions.store import Store
from editing.editor import Editor
from editing.memory.delta import materialise, tensor_sha256
from monitoring.measuring.scoring import Encoded, Scorer

#: Of vLLM's bfloat16 on a processor, as the proof measured it on the unedited bundled model (2026-11-29). The
#: stub shares the editor's kernels, so that its own would be 0. But other batches round otherwise, which the
#: bounds for 0 forbid.
NOISE = Noise(passage=0.118, token=0.236, typical=0.080)


class HeldWeights:
    """A replica in this process. It reads versions from the store, as vLLM's plugin does, and holds tensors
    of its own: whatever becomes of the editor's weights, these change at a flip alone.

    It computes with the editor's network, its own tensors put in place for the call.

    Args:
        flipped: called with the version whenever other weights are served.

    Attributes:
        weights: tensor name → float32 [d, d_in] as served.
    """

    name = "held"

    def __init__(self, store: Store, editor: Editor, flipped: Callable[[str], None]) -> None:
        self._store, self._flipped = store, flipped
        self._model, self._tokenizer, self._base = editor.model, editor.tokenizer, editor.base_weights()
        self._staged: tuple[str, Mapping[str, Tensor]] | None = None
        self.version, self.fence = UNPUBLISHED, 0
        self.weights: Mapping[str, Tensor] = self._base

    @property
    def scorer(self) -> Scorer:
        """Scores with the weights served now."""
        return Scorer(self._model, self._tokenizer, self.weights)

    def stage(self, version: str, fence: int) -> None:
        """Rebuilds the version's weights from the store and compares them with the manifest."""
        if fence < self.fence:
            raise ServingError(f"fence {fence} < {self.fence}", retryable=False, code="stale_fence")
        factors, weights = self._store.load_factors(version), dict(self._base)
        for name, (a, b) in factors.items():
            weights[name] = materialise(weights[name], a, b)
        for name, sha256 in self._store.weight_sha256(version).items():
            if tensor_sha256(weights[name]) != sha256:
                why = f"{name} of {version} has another hash than the manifest says"
                raise ServingError(why, retryable=False, code="refused")
        self._staged = version, weights

    def publish(self, version: str, fence: int) -> PublishResult:
        if self._staged is None or self._staged[0] != version:
            self.stage(version, fence)
        assert self._staged is not None
        (self.version, self.weights), self._staged, self.fence = self._staged, None, fence
        self._flipped(version)
        return PublishResult(version, 0.0, 0.0)

    def served(self) -> Served:
        """With hashes of the tensors held, not of those that were asked for."""
        held: Mapping[str, Tensor] = {} if self.version == UNPUBLISHED else self.weights
        return Served(self.version, self.fence, {name: tensor_sha256(w) for name, w in held.items()})

    def complete(self, prompts: Sequence[str], max_tokens: int = 12) -> list[str]:
        """No answers: the ledger would only keep them, and generating them takes as long as measuring."""
        return [""] * len(prompts)

    def log_probs(self, passages: Sequence[Sequence[int]]) -> list[list[float]]:
        """Each token given those before it; the first has none before it, and 0."""
        found = self.scorer.log_probs([Encoded(tuple(ids), 1) for ids in passages])
        return [[0.0] * bool(ids) + told for ids, told in zip(passages, found, strict=True)]

    def healthy(self) -> bool:
        return True

    def close(self) -> None:
        pass
