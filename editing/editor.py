"""The editor: a model, its memory of facts, and the one way to change them."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editing.anchor import AnchorRule, anchored, outlier_reason, skipped
from editing.delta import materialise, tensor_sha256
from editing.errors import EditError, FactError, OptionError
from editing.facts import Fact
from editing.forward import capture
from editing.install import Installation
from editing.methods import prior
from editing.model import BUNDLED, LoadedModel, load_model
from editing.placement import Placement, Write, rounds, window
from editing.second_moment import Progress
from editing.solve import solve
from editing.state import EditState
from editing.tokens import encode
from editing.values import ValueOptions, Values, optimise

#: Where statistics and unpacked models are kept unless told otherwise.
DEFAULT_STATE_DIR = Path.home() / ".local" / "state" / "factd"


@dataclass(frozen=True)
class Outcome:
    """What became of one fact of a batch.

    Attributes:
        id: the fact's id.
        written: whether it is in the weights now; a fact that is not has left nothing behind.
        reason: why it was not written.
        value_norm: ‖v*‖ before anchoring, at the last layer a value was optimised for.
        value_norm_ratio: that over the anchor; NaN without an anchor.
        loss: the value optimisation's final loss, nats.
        steps: its evaluations of the loss.
    """

    id: str
    written: bool
    reason: str | None
    value_norm: float
    value_norm_ratio: float
    loss: float
    steps: int


@dataclass(frozen=True)
class Report:
    """Outcomes of a batch, in the order given, and the seconds spent on values, keys and solves."""

    outcomes: tuple[Outcome, ...]
    seconds: dict[str, float]

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the facts that were written."""
        return tuple(outcome.id for outcome in self.outcomes if outcome.written)


class Editor:
    """Writes facts into a model and takes them out again.

    The weights are always those that follow from `state`: base weights plus the factors solved
    jointly from all live facts. One editor is used by one thread at a time.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        install: Installation,
        *,
        method: str = "memit-seq",
        placement: Placement = "spread",
        anchor: AnchorRule = "nas",
        protect: str = "none",
        options: ValueOptions | None = None,
    ) -> None:
        if protect != "none":
            raise OptionError(f"protect = {protect!r}: only 'none' is offered yet")
        if anchor not in ("nas", "nas-cap", "none"):
            raise OptionError(f"anchor = {anchor!r}: use nas, nas-cap or none")
        self.loaded, self.install = loaded, install
        self.options = options or ValueOptions()
        self.rule: AnchorRule = anchor
        self.rounds = rounds(placement, window(len(loaded.layers)))
        self.layers = tuple(sorted({layer for write in self.rounds for layer in write.layers}))
        self.settings_hash = hashlib.sha256(
            f"{method}|{self.rounds}|{anchor}|{protect}|{self.options}|{loaded.model.dtype}".encode()
        ).hexdigest()
        self.contexts = install.contexts()
        moments = install.moments(self.layers)
        self._priors = {layer: prior(method, moments[layer]) for layer in self.layers}
        self.anchors = {
            write.target: install.anchor(write.target, self.options) if anchor != "none" else float("nan")
            for write in self.rounds
        }
        self._base = loaded.base_weights(self.layers)
        self._weights = dict(self._base)
        self.state = EditState()

    @classmethod
    def open(
        cls,
        model: str = BUNDLED,
        *,
        state_dir: Path | None = None,
        dtype: str = "auto",
        corpus: Path | None = None,
        tokens: int | None = None,
        progress: Progress | None = None,
        **choices: Any,
    ) -> "Editor":
        """Loads a model and its statistics; measures on the unedited model what is missing.

        Args:
            model: a Hugging Face directory or the bundled model's name.
            state_dir: where statistics are kept.
            dtype: "auto", "float32" or "bfloat16", of the forward passes.
            corpus: text file for the second moments.
            tokens: how much of it is used; None: 10 times the FFN's width.
            progress: called with (stage, fraction done).
            choices: method, placement, anchor, protect, options.

        Raises:
            ModelError, OptionError, SolveError.
        """
        directory = Path(state_dir) if state_dir is not None else DEFAULT_STATE_DIR
        loaded = load_model(model, directory, dtype)
        progress = progress or (lambda _stage, _fraction: None)
        install = Installation(loaded, directory, corpus, progress, tokens)
        return cls(loaded, install, **choices)

    @property
    def model(self) -> Any:
        """The edited transformers model."""
        return self.loaded.model

    @property
    def tokenizer(self) -> Any:
        return self.loaded.tokenizer

    @property
    def path(self) -> Path:
        """The unedited checkpoint."""
        return self.loaded.path

    @property
    def base_hash(self) -> str:
        return self.loaded.base_hash

    @property
    def tensor_names(self) -> tuple[str, ...]:
        return tuple(self.loaded.tensor_name(layer) for layer in self.layers)

    def weights(self) -> dict[str, Tensor]:
        """Float32 masters [d, d_in] of the edited tensors at the current state."""
        return dict(self._weights)

    def base_weights(self) -> dict[str, Tensor]:
        return dict(self._base)

    def weight_hashes(self) -> dict[str, str]:
        return {name: tensor_sha256(weight) for name, weight in self._weights.items()}

    def restore(self, state: EditState) -> None:
        """Goes to `state`: the weights are the very bits they were there.

        Raises:
            DeltaError: the state belongs to another model; nothing is changed.
        """
        weights = {}
        for name in self.tensor_names:
            factors = state.factors.get(name)
            weights[name] = self._base[name] if factors is None else materialise(self._base[name], *factors)
        for layer in self.layers:
            self._set_weight(layer, weights[self.loaded.tensor_name(layer)])
        self.state = state

    def apply(self, facts: Sequence[Fact], remove: Sequence[str] = ()) -> Report:
        """Writes a batch of facts and drops the facts of ids `remove`, in one step.

        All or nothing: on any error the weights are those from before.

        Raises:
            FactError: an id is already live or appears twice, or a fact cannot be tokenised as needed.
            EditError: an id of `remove` is not live.
            SolveError: the numbers went bad.
        """
        self._check_ids(facts, remove)
        with self._all_or_nothing():
            return self._apply(list(facts), remove)

    def retract(self, *ids: str) -> None:
        """Takes facts out exactly: the weights are as if solved without their columns."""
        self._check_ids((), ids)
        with self._all_or_nothing():
            self._drop(ids)

    def compact(self) -> None:
        """Writes all live facts anew from the base weights in one batch, with their recorded targets.

        Keys of the upper layers, recorded while other facts were not yet there, become exact again.
        """
        with self._all_or_nothing():
            old = self.state
            self.restore(EditState())
            for write in self.rounds:
                self._write(old.facts, write, old.columns[f"targets/{write.target}"], _Clock())

    def _check_ids(self, facts: Sequence[Fact], remove: Sequence[str]) -> None:
        live = set(self.state.ids)
        for id in remove:
            if id not in live:
                raise EditError(f"no live fact has id {id!r}; see editor.state.ids")
        seen = live - set(remove)
        for fact in facts:
            if fact.id in seen:
                raise FactError("id", fact.id, "it is live already or twice in the batch; use another id")
            seen.add(fact.id)
            for context in self.contexts:
                encode(self.tokenizer, fact, context)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        before = self.state
        try:
            yield
        except BaseException:
            self.restore(before)
            raise

    def _apply(self, facts: list[Fact], remove: Sequence[str]) -> Report:
        start = self.state
        self._drop(remove)
        clock = _Clock()
        outcomes: dict[str, Outcome] = {}
        for write in self.rounds if facts else ():
            with clock.time("values"):
                values = optimise(self.loaded, facts, write.target, self.contexts, self.options)
            targets, norms, outliers = anchored(values, self.anchors[write.target], self.rule)
            outcomes |= self._outcomes(facts, write, values, norms, outliers)
            bad = skipped(outliers, facts)
            if bad and write is not self.rounds[0]:
                # An earlier round has written them already: begin again without them.
                self.restore(start)
                again = self._apply([fact for fact in facts if fact.id not in bad], remove)
                found = outcomes | {outcome.id: outcome for outcome in again.outcomes}
                return Report(tuple(found[id] for id in outcomes), again.seconds)
            keep = torch.tensor([fact.id not in bad for fact in facts], device=targets.device)
            facts = [fact for fact in facts if fact.id not in bad]
            if not facts:
                break
            self._write(facts, write, targets[:, keep].cpu(), clock)
        return Report(tuple(outcomes.values()), clock.seconds)

    def _outcomes(self, facts, write: Write, values: Values, norms: Tensor, outliers: Tensor):
        anchor = self.anchors[write.target]
        return {
            fact.id: Outcome(
                fact.id,
                not bad,
                outlier_reason(norm, anchor) if bad else None,
                norm,
                norm / anchor,
                loss,
                steps,
            )
            for fact, norm, bad, loss, steps in zip(
                facts,
                norms.tolist(),
                outliers.tolist(),
                values.loss.tolist(),
                values.steps.tolist(),
                strict=True,
            )
        }

    def _write(self, facts: Sequence[Fact], write: Write, targets: Tensor, clock: "_Clock") -> None:
        """Writes residual-stream targets [d, n] into the round's layers, lowest first."""
        prompts = [
            encode(self.tokenizer, fact, context, target=False) for fact in facts for context in self.contexts
        ]
        bare = prompts[:: len(self.contexts)]
        columns = {f"targets/{write.target}": targets}
        for i, layer in enumerate(write.layers):
            with clock.time("keys"):
                keys = self._mean_keys(capture(self.loaded, prompts, [layer]).keys[layer])
                hidden = capture(self.loaded, bare, [write.target]).hidden[write.target].cpu()
            with clock.time("solve"):
                name = self.loaded.tensor_name(layer)
                residual = (targets - hidden) / (len(write.layers) - i)
                columns[f"{name}/keys"] = keys
                output = (self._weights[name].double() @ keys.double()).float()
                columns[f"{name}/values"] = self.loaded.projected(layer, output, residual)
                table = self._table(columns, name)
                self.state = replace(self.state, factors=self.state.factors | self._factors(layer, table))
                self._set_weight(layer, materialise(self._base[name], *self.state.factors[name]))
        known = self.state.facts if facts[0].id in self.state.ids else self.state.facts + tuple(facts)
        joined = self.state.with_columns((), columns).columns
        self.state = EditState(known, self.state.factors, joined)

    def _table(self, columns: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """Keys and values of a tensor: those of the live facts, then the batch's."""
        old = self.state.columns
        return {
            kind: torch.cat([old[f"{name}/{kind}"], new], dim=1) if f"{name}/{kind}" in old else new
            for kind, new in ((kind, columns[f"{name}/{kind}"]) for kind in ("keys", "values"))
        }

    def _factors(self, layer: int, table: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        name = self.loaded.tensor_name(layer)
        return {name: solve(self._base[name], table["keys"], table["values"], self._priors[layer])}

    def _mean_keys(self, keys: Tensor) -> Tensor:
        """[d_in, n · contexts] → [d_in, n]: half the bare prompt's key, half the others' mean (MEMIT)."""
        grouped = keys.reshape(len(keys), -1, len(self.contexts)).cpu()
        if len(self.contexts) == 1:
            return grouped[:, :, 0].contiguous()
        return (grouped[:, :, 0] / 2 + grouped[:, :, 1:].mean(dim=2) / 2).contiguous()

    def _drop(self, ids: Sequence[str]) -> None:
        """Removes columns and solves every layer without them."""
        if not ids:
            return
        left = self.state.without(ids)
        factors: dict[str, tuple[Tensor, Tensor]] = {}
        for layer in self.layers if left.facts else ():
            name = self.loaded.tensor_name(layer)
            table = {kind: left.columns[f"{name}/{kind}"] for kind in ("keys", "values")}
            factors |= self._factors(layer, table)
        self.restore(EditState(left.facts, factors, left.columns if left.facts else {}))

    def _set_weight(self, layer: int, weight: Tensor) -> None:
        self._weights[self.loaded.tensor_name(layer)] = weight
        self.loaded.set_weight(layer, weight)


class _Clock:
    """Adds up seconds by stage."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {"values": 0.0, "keys": 0.0, "solve": 0.0}
        self._now = now

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self.seconds[stage] += self._now() - start
