"""Consolidation: the facts of a joint solution, trained in epochs into the weights of more layers.

    min over W_l:   mean_i w_i · CE(target_i ⊕ end | form_i)  +  Σ_s β_s · KL(p₀ ‖ p_W) on ordinary texts s

by Adam in seeded mini-batches over all facts in all their forms, never one fact after another (LocFT-BF,
arXiv 2509.22072), from the joint solution on. w_i is small where the answer is said already, so that what is
not yet said, and what the facts have moved of everything else, has the say. Steps may be kept to directions
that ability does not use (CrispEdit, arXiv 2602.15823; REVIVE, arXiv 2601.11042).

All of it follows from the set of facts, the numbers and the start: the same set gives the same bits, on
processors of the same kind with as many threads.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from editing.consolidation.numbers import ConsolidationNumbers
from editing.consolidation.passes import Pass, divergence
from editing.consolidation.projectors import projectors
from editing.consolidation.prompts import Lesson, Ordinary, drawn_order, lessons, ordinary_texts
from editing.consolidation.weights import Master, everything, put
from editing.facts import Fact
from editing.install import Installation
from editing.memory.delta import tensor_sha256
from editing.model.loaded import LoadedModel
from editing.model.tokens import Prompt
from editing.moments import replace_file
from editing.solve.ridge import Factors
from editing.solve.second_moment import Progress
from editing.typed import backward, load_tensors, save_tensors

#: Seconds of training that an interruption may cost.
SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class Epoch:
    """What an epoch's steps saw on their way.

    Attributes:
        surprise: mean over all prompts of facts, nats.
        said: share of them whose tokens were all the most probable ones.
        divergence: of each kind of ordinary text, the mean, nats.
    """

    surprise: float
    said: float
    divergence: tuple[float, ...]


@dataclass(frozen=True)
class Consolidated:
    """What a consolidation gives.

    Attributes:
        factors: tensor name → factors of its whole update.
        epochs: one after the other.
    """

    factors: dict[str, Factors]
    epochs: tuple[Epoch, ...]


def consolidate(
    install: Installation,
    facts: Sequence[Fact],
    start: Mapping[str, Factors],
    numbers: ConsolidationNumbers,
    *,
    folder: Path | None = None,
    progress: Progress = lambda _stage, _fraction: None,
    ordinary: Sequence[Ordinary] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Consolidated:
    """Must be called on the unedited weights, and leaves them.

    Args:
        start: tensor name → factors of the joint solution, of whatever layers it writes.
        folder: keeps the state of the training; one that was killed goes on from there to the same bits.
        progress: called with (stage, fraction done).
        ordinary: texts to stay the same on; those of the installation when None.
        stop: asked after each step; a training that is told to ends there, for another to go on.

    Raises:
        OptionError, SolveError: numbers are of no use.
    """
    loaded = install.loaded
    every = lessons(loaded, facts, install.contexts(), numbers)
    if not every:
        return Consolidated({}, ())
    if numbers.epochs and ordinary is None:
        progress("what the unedited model answers", 0.0)
        ordinary = ordinary_texts(install, facts, numbers)
    training = Training(install, every, start, numbers, ordinary or ())
    saved = None if folder is None else folder / f"{training.about}.safetensors"
    try:
        training.run(saved, progress, stop)
    finally:
        training.leave()
    return Consolidated(training.factors(), tuple(training.epochs))


class Training:
    """A consolidation on its way.

    Attributes:
        about: names all that its weights follow from.
        done: steps.
        epochs: those that are over.
    """

    def __init__(
        self,
        install: Installation,
        every: Sequence[Lesson],
        start: Mapping[str, Factors],
        numbers: ConsolidationNumbers,
        ordinary: Sequence[Ordinary],
    ) -> None:
        self._loaded, self._lessons = install.loaded, list(every)
        start = self._start = {name: (numbers.start * a, b) for name, (a, b) in start.items()}
        self._numbers, self._ordinary = numbers, list(ordinary)
        names = {self._loaded.tensor_name(layer): layer for layer in range(len(self._loaded.layers))}
        written = [names[name] for name in start]
        self._names = {layer: name for name, layer in names.items()}
        layers = sorted({*numbers.layers, *written})
        base, project = self._loaded.base_weights(layers), projectors(install, numbers)
        self._masters = {
            layer: Master(
                base[self._names[layer]].to(self._loaded.device),
                start.get(self._names[layer]),
                project.get(layer, everything),
                numbers.rank,
                numbers.seed + layer,
            )
            for layer in layers
        }
        self._first = min(layers)
        self.done, self._seen, self.epochs = 0, list[list[float]](), list[Epoch]()
        self.about = self._about()

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return -(-len(self._lessons) // self._numbers.batch)

    def _about(self) -> str:
        digest = hashlib.sha256(repr((self._loaded.base_hash, self._numbers, self._lessons)).encode())
        digest.update(repr(self._ordinary).encode())
        for name, factors in sorted(self._start.items()):
            digest.update(repr((name, *map(tensor_sha256, factors))).encode())
        return digest.hexdigest()[:32]

    def run(self, saved: Path | None, progress: Progress, stop: Callable[[], bool]) -> None:
        """Trains to the end, from what is saved on."""
        if saved is not None and saved.exists():
            self._load(saved)
        total, since = self.steps * self._numbers.epochs, time.monotonic()
        while self.done < total:
            self.step()
            progress("consolidating", self.done / total)
            ended = stop()
            if saved is not None and (ended or time.monotonic() - since > SAVE_SECONDS or self.done == total):
                self._save(saved)
                since = time.monotonic()
            if ended:
                break

    def step(self) -> None:
        """One mini-batch of facts beside ordinary texts."""
        n = self._numbers
        epoch, at = divmod(self.done, self.steps)
        order = drawn_order(len(self._lessons), n.seed, epoch)
        batch = order[at * n.batch : (at + 1) * n.batch]
        gradients = {layer: torch.zeros_like(self._masters[layer].base) for layer in n.layers}
        found = self._of_ordinary(gradients)
        surprise, said = self._of_facts([self._asked(i, epoch) for i in batch], gradients)
        self._note([surprise, said, float(len(batch)), *found])
        rate = n.rate * (1 - self.done / (self.steps * n.epochs))
        self.done += 1
        for layer, gradient in gradients.items():
            self._masters[layer].step(gradient, rate)

    def _asked(self, lesson: int, epoch: int) -> Prompt:
        """The bare prompt alone in one epoch and behind a context in the next."""
        prompts = self._lessons[lesson]
        return prompts[(lesson + epoch) % len(prompts) if epoch % 2 else 0]

    def _of_facts(self, prompts: Sequence[Prompt], gradients: Mapping[int, Tensor]) -> tuple[float, float]:
        """Adds the gradient of a batch; its sums of surprise, nats, and of what is said."""
        n, surprise, said = self._numbers, 0.0, 0
        put(self._loaded, self._masters)
        for start in range(0, len(prompts), n.rows):
            part = Pass(self._loaded, prompts[start : start + n.rows], self._first)
            with self._differentiable(gradients):
                losses, right = part.surprise()
                settled = right & (losses.detach() < n.margin)
                weight = torch.where(settled, n.said_weight, 1.0)
                backward((weight * losses).sum() / len(prompts))
            surprise, said = surprise + float(losses.detach().sum()), said + int(right.sum())
        return surprise, float(said)

    def _of_ordinary(self, gradients: Mapping[int, Tensor]) -> list[float]:
        """Adds the gradient of the ordinary texts' divergence; the mean of each kind, nats."""
        found: list[float] = []
        for kind in self._ordinary:
            texts = kind.drawn(self.done, self._numbers.seed)
            if not texts:
                found.append(0.0)
                continue
            part = Pass(self._loaded, texts, self._first)
            put(self._loaded, self._masters, unedited=True)
            with torch.no_grad():
                before = part.logits().float().log_softmax(-1)
            put(self._loaded, self._masters)
            with self._differentiable(gradients):
                told = part.mean(divergence(before, part.logits())).mean()
                backward(kind.weight * told)
            found.append(float(told.detach()))
        return found

    def _differentiable(self, gradients: Mapping[int, Tensor]) -> "_Differentiable":
        return _Differentiable(self._loaded, gradients)

    def _note(self, seen: list[float]) -> None:
        self._seen.append(seen)
        if len(self._seen) < self.steps:
            return
        told = torch.tensor(self._seen, dtype=torch.float64)
        count = float(told[:, 2].sum())
        kinds = (float(x) for x in told[:, 3:].mean(0))
        self.epochs.append(
            Epoch(float(told[:, 0].sum()) / count, float(told[:, 1].sum()) / count, tuple(kinds))
        )
        self._seen = []

    def factors(self) -> dict[str, Factors]:
        return {self._names[layer]: master.factors() for layer, master in self._masters.items()}

    def leave(self) -> None:
        """The unedited weights again."""
        put(self._loaded, self._masters, unedited=True)

    def _save(self, path: Path) -> None:
        tensors = {
            f"{layer}/{name}": x
            for layer in self._numbers.layers
            for name, x in self._masters[layer].saved().items()
        }
        tensors["done"] = torch.tensor(self.done)
        tensors["seen"] = torch.tensor(self._seen, dtype=torch.float64)
        tensors["epochs"] = torch.tensor(
            [[one.surprise, one.said, *one.divergence] for one in self.epochs], dtype=torch.float64
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda p: save_tensors(p, tensors))

    def _load(self, path: Path) -> None:
        saved, _ = load_tensors(path)
        for layer in self._numbers.layers:
            own = {name.partition("/")[2]: x for name, x in saved.items() if name.startswith(f"{layer}/")}
            self._masters[layer].load(own)
        self.done = int(saved["done"])
        self._seen = [[float(x) for x in row] for row in saved["seen"]]
        rows = [[float(x) for x in row] for row in saved["epochs"]]
        self.epochs = [Epoch(row[0], row[1], tuple(row[2:])) for row in rows]


class _Differentiable:
    """Asks the weights of some layers for gradients, and adds them up in float32 behind the backward pass."""

    def __init__(self, loaded: LoadedModel, gradients: Mapping[int, Tensor]) -> None:
        self._loaded, self._gradients = loaded, gradients

    def __enter__(self) -> None:
        for layer in self._gradients:
            self._loaded.projection(layer).weight.requires_grad_(True)

    def __exit__(self, *_error: object) -> None:
        for layer, total in self._gradients.items():
            weight = self._loaded.projection(layer).weight
            if weight.grad is not None:
                total.add_(self._loaded.family.turned(weight.grad).float())
            weight.grad = None
            weight.requires_grad_(False)
