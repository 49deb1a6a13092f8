"""What lies between two versions: corrections, weights, measurements."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from daemon.core.progress import Progress
from daemon.core.publication import BASE_VERSION
from daemon.versions.export import edited_layers, version_weights
from daemon.versions.store import Store
from editing.facts import Fact
from editing.model.loaded import LoadedModel
from monitoring.measuring.spectral import frobenius_norm, spectrum
from monitoring.registry import LAYER_MEASURES, SCALAR_MEASURES


def difference(
    model: LoadedModel,
    store: Store,
    old: str,
    new: str,
    progress: Progress = lambda _stage, _fraction: None,
) -> dict[str, Any]:
    """What `new` has and `old` has not, from the store alone.

    Per layer, of D = W(new) − W(old) with the float32 masters: ‖D‖_F, σ₁(D), and ‖D‖_F / ‖W(old)‖_F;
    all three are 0 where the bits are the same. Measurements are those that the versions were accepted
    with.

    Raises:
        StoreError: a version is missing, damaged, or was made for another base model.
        ModelError: the base checkpoint lacks a weight.
    """
    facts = {version: {f.id: f for f in store.load_state(version).facts} for version in (old, new)}
    measured = [_measured(store, version) for version in (old, new)]
    return {
        "from": old,
        "to": new,
        "added": [_fact(f) for id, f in facts[new].items() if id not in facts[old]],
        "removed": [_fact(f) for id, f in facts[old].items() if id not in facts[new]],
        "kept": len(facts[old].keys() & facts[new].keys()),
        "layers": _layers(model, store, old, new, progress),
        "measurements": _measurements(*measured),
        "counts": _counts(*measured),
    }


def _layers(
    model: LoadedModel, store: Store, old: str, new: str, progress: Progress
) -> dict[int, dict[str, float]]:
    progress("comparing", 0.0)
    before, after = (version_weights(model, store, version) for version in (old, new))
    layers = edited_layers(model, before.keys() | after.keys())
    base = model.base_weights(layers)
    found: dict[int, dict[str, float]] = {}
    for number, layer in enumerate(layers, 1):
        name = model.tensor_name(layer)
        found[layer] = _change(before.get(name, base[name]), after.get(name, base[name]))
        progress("comparing", number / len(layers))
    return found


def _change(before: Tensor, after: Tensor) -> dict[str, float]:
    change = after.double() - before.double()
    norm, whole = frobenius_norm(change), frobenius_norm(before)
    return {
        "frobenius_norm": norm,
        "spectral_norm": spectrum(change.float()).spectral_norm if norm else 0.0,
        "relative_change": norm / whole if whole else 0.0,
    }


def _measured(store: Store, version: str) -> Mapping[str, Any]:
    return store.manifest(version).get("measurements", {}) if version != BASE_VERSION else {}


def _measurements(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Measure, or "measure, layer" → [old, new]; None where it was not measured."""
    found: dict[str, list[Any]] = {}
    for name in SCALAR_MEASURES:
        found[name] = [old.get(name), new.get(name)]
    for name in LAYER_MEASURES:
        before, after = _part(old, name), _part(new, name)
        for layer in sorted(before.keys() | after.keys(), key=int):
            found[f"{name}, layer {layer}"] = [before.get(layer), after.get(layer)]
    return {name: pair for name, pair in found.items() if pair != [None, None]}


def _counts(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[list[int] | None]]:
    """Share → [old, new] as [cases that came out well, cases asked]; None where they were not kept."""
    before, after = _part(old, "counts"), _part(new, "counts")
    return {name: [before.get(name), after.get(name)] for name in sorted(before.keys() | after.keys())}


def _part(measured: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return measured.get(name) or {}


def _fact(fact: Fact) -> dict[str, str]:
    return {"id": fact.id, "prompt": fact.text, "target": fact.target}
