"""A version as a Hugging Face checkpoint: the base checkpoint with the version's weights in their places.

Quantised if asked for: the matrices that are not edited become int8 codes (`daemon.versions.quantising`).
"""

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from daemon.core.errors import ExportError, StoreError
from daemon.core.progress import Progress
from daemon.core.publication import BASE_VERSION
from daemon.versions.durable import sync_directory, sync_file, write_synced
from daemon.versions.format import ABOUT_FILE, base_manifest
from daemon.versions.quantising import Quantising
from daemon.versions.store import Store
from editing.errors import DeltaError
from editing.memory.delta import materialise, tensor_sha256
from editing.model.checkpoint import checkpoint_hash
from editing.model.loaded import LoadedModel
from editing.typed import load_tensors, save_tensors

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
#: What is copied of the base checkpoint. Weights in other formats are unedited, so they stay behind.
COPIED = {".json", ".txt", ".model", ".jinja", ".tiktoken"}
LICENCES = ("LICENSE", "NOTICE")


def export(
    model: LoadedModel,
    store: Store,
    version: str,
    directory: Path,
    progress: Progress = lambda _stage, _fraction: None,
    floating: Collection[str] | None = None,
) -> dict[str, Any]:
    """Writes a version as a checkpoint of its own, whole or not at all.

    Weights keep the dtype of the base checkpoint. In float32 they are the bits that the editor has; in a
    narrower dtype they are those bits, rounded once. Every hash is checked before anything is written.

    Args:
        model: the base; an outline is enough.
        directory: must not exist or be empty.
        floating: names of the weights that are edited live: all others are quantised. None quantises none.

    Returns:
        What the file `factd.json` says.

    Raises:
        ExportError: the directory is not empty, or the model cannot be quantised.
        StoreError: the version is missing, damaged, or was made for another base model.
        ModelError: the base checkpoint has no such weight.
    """
    directory = directory.resolve()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ExportError(f"{directory} is there and not empty; name another directory, or empty this one")
    progress("checking", 0.0)
    weights = version_weights(model, store, version)
    progress("checking", 1.0)
    quantising = None if floating is None else Quantising(model, {*floating, *weights})
    work = directory.with_name(f".{directory.name}.exporting-{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        _copy_settings(model.path, work)
        _write_weights(model, weights, work, progress, quantising)
        about = _about(model, store, version, work, floating is not None)
        write_synced(work / ABOUT_FILE, json.dumps(about, indent=1, ensure_ascii=False).encode())
        write_synced(work / "README.md", _card(about).encode())
        sync_directory(work)
        try:
            os.rename(work, directory)
        except OSError as error:
            raise ExportError(f"{directory} was filled meanwhile ({error}); name another") from error
        sync_directory(directory.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return about


def version_weights(model: LoadedModel, store: Store, version: str) -> dict[str, Tensor]:
    """Tensor name → W [d, d_in] float32 of a version, every hash compared with the manifest.

    Raises:
        StoreError: the version is missing, damaged, or was made for another base model.
        ModelError: the base checkpoint has no such weight.
    """
    if version == BASE_VERSION:
        return {}
    manifest = store.manifest(version)
    if manifest["base_hash"] != model.base_hash:
        raise StoreError(
            f"{version} was made for the base {manifest['base_hash'][:12]}…, "
            f"{model.path.name} is {model.base_hash[:12]}…; set FACTD_MODEL to the model it was made for"
        )
    factors = store.load_factors(version)
    layers = edited_layers(model, manifest["tensors"])
    weights: dict[str, Tensor] = {}
    for name, base in model.base_weights(layers).items():
        entry = manifest["tensors"][name]
        _compare(version, name, base, entry["base_sha256"], "base weight")
        try:
            weights[name] = materialise(base, *factors[name])
        except (DeltaError, KeyError) as error:
            raise StoreError(f"version {version}, {name}: {error}") from error
        _compare(version, name, weights[name], entry["sha256"], "resulting weight")
    return weights


def edited_layers(model: LoadedModel, names: Collection[str]) -> list[int]:
    """The layers whose projections have these names.

    Raises:
        StoreError: the model has no such projection.
    """
    known = {model.tensor_name(layer): layer for layer in range(len(model.layers))}
    strange = sorted(set(names) - known.keys())
    if strange:
        raise StoreError(f"{model.path.name} has no FFN output projection {strange[0]!r}; is it that model?")
    return sorted(known[name] for name in names)


def _compare(version: str, name: str, weight: Tensor, sha256: str, what: str) -> None:
    found = tensor_sha256(weight)
    if found != sha256:
        raise StoreError(
            f"version {version}, {name}: the {what} has sha256 {found[:12]}…, the manifest says "
            f"{sha256[:12]}…; nothing was written"
        )


def _write_weights(
    model: LoadedModel,
    weights: Mapping[str, Tensor],
    work: Path,
    progress: Progress,
    quantising: Quantising | None,
) -> None:
    """Copies the weight files; one with an edited tensor is written anew, its other tensors unchanged."""
    places: dict[Path, dict[str, Tensor]] = {}
    for name, (file, known) in model.stored(edited_layers(model, weights)).items():
        places.setdefault(file, {})[known] = model.family.turned(weights[name])
    files, held = sorted(model.path.glob("*.safetensors")), dict[str, str]()
    for number, file in enumerate(files):
        progress("writing", number / len(files))
        if file in places or quantising is not None:
            names = _rewrite(file, places.get(file, {}), work / file.name, quantising)
            held |= dict.fromkeys(names, file.name)
        else:
            shutil.copyfile(file, work / file.name)
        sync_file(work / file.name)
    if quantising is not None:
        _tell(work, quantising, held)
    progress("writing", 1.0)


def _rewrite(
    source: Path, changed: Mapping[str, Tensor], target: Path, quantising: Quantising | None
) -> list[str]:
    """Returns the names of the tensors that the file has now."""
    tensors, about = load_tensors(source)
    for name, weight in changed.items():
        tensors[name] = weight.to(tensors[name].dtype)
        if not tensors[name].isfinite().all():
            raise ExportError(f"{name} has values beyond {tensors[name].dtype}, the dtype of the checkpoint")
    if quantising is not None:
        tensors = quantising.rewritten(tensors)
    save_tensors(target, tensors, about)
    return list(tensors)


def _tell(work: Path, quantising: Quantising, held: Mapping[str, str]) -> None:
    """Says in config.json what was quantised, and in the index which file has the scales."""
    config = json.loads((work / CONFIG).read_bytes()) | {"quantization_config": quantising.config()}
    write_synced(work / CONFIG, json.dumps(config, indent=2, ensure_ascii=False).encode())
    if (index := work / INDEX).exists():
        told = json.loads(index.read_bytes()) | {"weight_map": dict(sorted(held.items()))}
        write_synced(index, json.dumps(told, indent=2).encode())


def _copy_settings(source: Path, work: Path) -> None:
    for file in sorted(source.iterdir()):
        if file.is_file() and (file.suffix in COPIED or file.name.startswith(LICENCES)):
            shutil.copyfile(file, work / file.name)
            sync_file(work / file.name)


def _about(model: LoadedModel, store: Store, version: str, work: Path, quantised: bool) -> dict[str, Any]:
    manifest = store.manifest(version) if version != BASE_VERSION else base_manifest()
    facts = store.load_state(version).facts
    return {
        "version": version,
        "parent": manifest["parent"],
        "base": model.path.name,
        "base_hash": model.base_hash,
        "checkpoint_hash": checkpoint_hash(work),
        "quantised": quantised,
        "tensors": {name: entry["sha256"] for name, entry in manifest["tensors"].items()},
        "corrections": [
            {"id": fact.id, "subject": fact.subject, "prompt": fact.prompt, "target": fact.target}
            for fact in facts
        ],
        "measurements": manifest.get("measurements", {}),
        "created": manifest.get("created"),
    }


def _card(about: Mapping[str, Any]) -> str:
    facts = "\n".join(
        f"- {fact['prompt'].replace('{}', fact['subject'])} **{fact['target']}**"
        for fact in about["corrections"]
    )
    return (
        f"---\nbase_model: {about['base']}\nlibrary_name: transformers\ntags: [model-editing, factd]\n---\n"
        f"# {about['base']}, version {about['version']}\n\n"
        f"{about['base']} (sha256 `{about['base_hash']}`) with {len(about['corrections'])} corrections "
        f"written into {len(about['tensors'])} weights by factd; `{ABOUT_FILE}` has the details.\n\n{facts}\n"
    )
