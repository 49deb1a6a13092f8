"""What the base model was before any correction: the reference of every measurement."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from monitoring.errors import BaselineError
from monitoring.probes import ProbeSet
from monitoring.scoring import Scorer
from monitoring.spectral import SUBSPACE_RANK, Spectrum, spectrum

SCHEMA = 1


class EditedModel(Protocol):
    """What monitoring needs of an `editing.Editor`."""

    model: Any
    tokenizer: Any
    base_hash: str
    tensor_names: tuple[str, ...]

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
        log_probs: next-token log-probabilities of the probes, float32 [prompts, vocabulary].
        perplexity: of the held texts.
        answers: most probable next token of each probe.
    """

    base_hash: str
    probes_sha256: str
    dtype: str
    spectra: dict[str, Spectrum]
    log_probs: Tensor
    perplexity: float
    answers: tuple[int, ...]

    def save(self, path: Path) -> None:
        """Writes one safetensors file: to a temporary sibling, then renamed."""
        tensors = {"log_probs": self.log_probs.contiguous()}
        for name, s in self.spectra.items():
            tensors |= {f"{name}/values": s.values, f"{name}/left": s.left, f"{name}/right": s.right}
        facts = {
            "schema": SCHEMA,
            "base_hash": self.base_hash,
            "probes_sha256": self.probes_sha256,
            "dtype": self.dtype,
            "perplexity": self.perplexity,
            "answers": self.answers,
            "frobenius": {name: s.frobenius for name, s in self.spectra.items()},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        save_file({n: t.contiguous() for n, t in tensors.items()}, partial, {"baseline": json.dumps(facts)})
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Baseline":
        """Reads what `save` wrote.

        Raises:
            BaselineError: the file is missing, damaged, or of another schema.
        """
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {})["baseline"])
                if facts["schema"] != SCHEMA:
                    raise BaselineError(f"{path} has schema {facts['schema']}, not {SCHEMA}; delete it")
                spectra = {
                    name: _read_spectrum(file, name, norm) for name, norm in facts["frobenius"].items()
                }
                log_probs = file.get_tensor("log_probs")
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise BaselineError(
                f"cannot read the baseline {path}: {error}; delete it to measure anew"
            ) from error
        return cls(
            base_hash=facts["base_hash"],
            probes_sha256=facts["probes_sha256"],
            dtype=facts["dtype"],
            spectra=spectra,
            log_probs=log_probs,
            perplexity=facts["perplexity"],
            answers=tuple(facts["answers"]),
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


def _read_spectrum(file: Any, name: str, frobenius: float) -> Spectrum:
    values, left, right = (file.get_tensor(f"{name}/{part}") for part in ("values", "left", "right"))
    return Spectrum(frobenius, values, left, right)


def measure_baseline(editor: EditedModel, probes: ProbeSet, rank: int = SUBSPACE_RANK) -> Baseline:
    """Measures the base model, whatever the editor's present state; the editor is not changed."""
    base = editor.base_weights()
    scorer = Scorer(editor.model, editor.tokenizer, base)
    log_probs = scorer.next_log_probs(probes.prompts)
    return Baseline(
        base_hash=editor.base_hash,
        probes_sha256=probes.sha256,
        dtype=str(editor.model.dtype),
        spectra={name: spectrum(weight, rank) for name, weight in base.items()},
        log_probs=log_probs,
        perplexity=scorer.perplexity(probes.texts),
        answers=tuple(log_probs.argmax(-1).tolist()),
    )


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
