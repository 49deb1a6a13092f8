"""What the base model was before any correction: the reference of every measurement."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from torch import Tensor

from editing.memory.state import EditState
from editing.typed import entries, load_tensors, save_tensors
from monitoring.errors import BaselineError
from monitoring.measuring.activations import Activations, recorded
from monitoring.measuring.behaviour import FREE_TOKENS, Behaviour, behaviour, read_probes
from monitoring.measuring.calibration import REPLICAS, behaviour_noise, replica_weights, weight_noise
from monitoring.measuring.change import HeldKeys
from monitoring.measuring.probes import ProbeSet
from monitoring.measuring.scoring import Scorer
from monitoring.measuring.spectral import SUBSPACE_RANK, Spectrum, entropy_rank, spectrum
from monitoring.thresholds import Thresholds, calibrated

SCHEMA = 2

#: Keys of ordinary text held back for each edited weight; evenly spaced over the probes.
HELD_KEYS = 128


class EditedModel(Protocol):
    """What monitoring needs of an `editing.Editor`."""

    model: Any
    tokenizer: Any
    state: EditState

    @property
    def base_hash(self) -> str: ...
    @property
    def tensor_names(self) -> tuple[str, ...]: ...
    def weights(self) -> dict[str, Tensor]: ...
    def base_weights(self) -> dict[str, Tensor]: ...


@dataclass
class Baseline:
    """The base model's spectra and behaviour.

    Attributes:
        base_hash: hash of the base model's weights.
        probes_sha256: hash of the probes it was measured on.
        dtype: dtype the model computed in; float32 and bfloat16 baselines are not interchangeable.
        spectra: edited tensor name → its spectrum before any edit.
        entropy_ranks: edited tensor name → its entropy rank.
        held: edited tensor name → keys of the probes and what it made of them.
        log_probs: next-token log-probabilities of the watched prompts, float32 [prompts, vocabulary].
        perplexity: of the held texts.
        activations: of every layer on the probes.
        answers: most probable next token of each watched prompt.
        free_answers: to the probes that are answered freely.
        noise: measure → how far the unedited model's own noise carries it (monitoring.measuring.calibration).
    """

    base_hash: str
    probes_sha256: str
    dtype: str
    spectra: dict[str, Spectrum]
    entropy_ranks: dict[str, float]
    held: dict[str, HeldKeys]
    log_probs: Tensor
    perplexity: float
    activations: Activations
    answers: tuple[int, ...]
    free_answers: tuple[str, ...]
    noise: dict[str, float]

    def thresholds(self, overrides: Mapping[str, float] | None = None) -> Thresholds:
        """The thresholds in force: calibrated on this model's noise, then what was set on purpose."""
        return calibrated(self.noise).overridden(overrides or {})

    def save(self, path: Path) -> None:
        """Writes one safetensors file: to a temporary sibling, then renamed."""
        tensors = {"log_probs": self.log_probs}
        tensors |= {f"activations/{part}": tensor for part, tensor in vars(self.activations).items()}
        for name, s in self.spectra.items():
            tensors |= {f"{name}/values": s.values, f"{name}/left": s.left, f"{name}/right": s.right}
            tensors |= {f"{name}/{part}": tensor for part, tensor in vars(self.held[name]).items()}
        facts = {
            "schema": SCHEMA,
            "base_hash": self.base_hash,
            "probes_sha256": self.probes_sha256,
            "dtype": self.dtype,
            "perplexity": self.perplexity,
            "answers": self.answers,
            "canaries": self.free_answers,  # the name of schema 2
            "noise": self.noise,
            "entropy_ranks": self.entropy_ranks,
            "frobenius": {name: s.frobenius for name, s in self.spectra.items()},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        save_tensors(partial, tensors, {"baseline": json.dumps(facts)})
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Baseline":
        """Reads what `save` wrote.

        Raises:
            BaselineError: the file is missing, damaged, or of another schema.
        """
        try:
            tensors, about = load_tensors(path)
            facts: dict[str, Any] = json.loads(about["baseline"])
            if facts["schema"] != SCHEMA:
                raise BaselineError(f"{path} has schema {facts['schema']}, not {SCHEMA}; delete it")
            norms: dict[str, float] = facts["frobenius"]
            spectra = {
                name: Spectrum(norm, **_under(tensors, name, "values", "left", "right"))
                for name, norm in norms.items()
            }
            held = {name: HeldKeys(**_under(tensors, name, "keys", "outputs")) for name in spectra}
            activations = Activations(**_under(tensors, "activations", "norms", "bases", "shares"))
            log_probs = tensors["log_probs"]
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise BaselineError(
                f"cannot read the baseline {path}: {error}; delete it to measure anew"
            ) from error
        return cls(
            base_hash=facts["base_hash"],
            probes_sha256=facts["probes_sha256"],
            dtype=facts["dtype"],
            spectra=spectra,
            entropy_ranks=facts["entropy_ranks"],
            held=held,
            log_probs=log_probs,
            perplexity=facts["perplexity"],
            activations=activations,
            answers=tuple(facts["answers"]),
            free_answers=tuple(facts["canaries"]),
            noise=facts["noise"],
        )

    def check(self, editor: EditedModel, probes: ProbeSet) -> None:
        """Raises `BaselineError` when the baseline was measured on another model or other probes."""
        wanted: Mapping[str, tuple[object, object]] = {
            "base model": (self.base_hash, editor.base_hash),
            "probes": (self.probes_sha256, probes.sha256),
            "dtype": (self.dtype, str(editor.model.dtype)),
            "edited tensors": (sorted(self.spectra), sorted(editor.tensor_names)),
        }
        for what, (found, expected) in wanted.items():
            if found != expected:
                raise BaselineError(
                    f"the baseline's {what} is {found}, not {expected}; measure a new baseline"
                )


def _under(tensors: Mapping[str, Tensor], prefix: str, *parts: str) -> dict[str, Tensor]:
    return {part: tensors[f"{prefix}/{part}"] for part in parts}


def measure_baseline(editor: EditedModel, probes: ProbeSet, rank: int = SUBSPACE_RANK) -> Baseline:
    """Measures the base model and its noise, whatever the editor's present state.

    Costs `REPLICAS` + 1 readings of the probes and the free answers, some 8 s of one core for the
    bundled model.
    """
    base = editor.base_weights()
    scorer = Scorer(editor.model, editor.tokenizer, base)
    with recorded(editor.model, editor.tensor_names, keys=True) as recording:
        reading = read_probes(scorer, probes, recording)
    keys = {name: recording.held_keys(name, HELD_KEYS) for name in base}
    spectra = {name: spectrum(weight, rank) for name, weight in base.items()}
    return Baseline(
        base_hash=editor.base_hash,
        probes_sha256=probes.sha256,
        dtype=str(editor.model.dtype),
        spectra=spectra,
        entropy_ranks={name: entropy_rank(weight) for name, weight in base.items()},
        held={name: HeldKeys(keys[name], weight.cpu() @ keys[name]) for name, weight in base.items()},
        log_probs=reading.log_probs,
        perplexity=reading.perplexity,
        activations=reading.activations,
        answers=tuple(entries(reading.log_probs.argmax(-1))),
        free_answers=tuple(scorer.greedy(probes.free, FREE_TOKENS)),
        noise=_noise(editor, probes, reading, spectra),
    )


def _noise(
    editor: EditedModel, probes: ProbeSet, base: Behaviour, spectra: Mapping[str, Spectrum]
) -> dict[str, float]:
    weights = [replica_weights(editor.base_weights(), seed) for seed in range(REPLICAS)]
    scorers = [Scorer(editor.model, editor.tokenizer, replica) for replica in weights]
    replicas = [behaviour(scorer, probes, editor.tensor_names) for scorer in scorers]
    return behaviour_noise(base, replicas) | weight_noise(spectra, weights)


def baseline_path(folder: Path, editor: EditedModel, probes: ProbeSet) -> Path:
    """Where the baseline of this model, these probes and these edited tensors is kept."""
    key = json.dumps([editor.base_hash, probes.sha256, str(editor.model.dtype), sorted(editor.tensor_names)])
    return folder / f"baseline-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"


def open_baseline(editor: EditedModel, probes: ProbeSet, folder: Path) -> Baseline:
    """The stored baseline of `editor`, measured and stored first when there is none that can be used."""
    path = baseline_path(folder, editor, probes)
    try:
        baseline = Baseline.load(path)
        baseline.check(editor, probes)
    except BaselineError:
        baseline = measure_baseline(editor, probes)
        baseline.save(path)
    return baseline
