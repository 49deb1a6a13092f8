"""Versions that somebody with write access to the store might leave there to harm who reads them.

Each function changes a sound version's folder and its manifest; the manifest's hashes are right, since who
writes the one can write the other. What it returns, if anything, becomes manifest.json instead.
"""

import hashlib
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Manifest = dict[str, Any]
Attack = Callable[[Path, Manifest], bytes | None]

FACTORS = "factors.safetensors"


class Payload:
    """Makes a folder `unpickled` when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder / "unpickled"),)


def _sealed(directory: Path, manifest: Manifest, content: bytes) -> None:
    (directory / FACTORS).write_bytes(content)
    manifest["files"][FACTORS] = hashlib.sha256(content).hexdigest()


def _framed(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def _tensors(manifest: Manifest, shape: list[int], offsets: list[int], dtype: str = "F32") -> bytes:
    (name, *_) = manifest["tensors"]
    entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return json.dumps({f"{name}/A": entry, f"{name}/B": entry}).encode()


def a_pickle(directory: Path, manifest: Manifest) -> None:
    _sealed(directory, manifest, pickle.dumps(Payload(directory.parent)))


def a_header_longer_than_the_file(directory: Path, manifest: Manifest) -> None:
    _sealed(directory, manifest, _framed(b"{}", length=1 << 40))


def a_header_of_all_the_memory_there_is(directory: Path, manifest: Manifest) -> None:
    _sealed(directory, manifest, _framed(b"{}", length=(1 << 64) - 1))


def a_header_that_is_no_json(directory: Path, manifest: Manifest) -> None:
    _sealed(directory, manifest, _framed(b"\xff" * 64))


def a_header_nested_without_end(directory: Path, manifest: Manifest) -> None:
    _sealed(directory, manifest, _framed(b'{"__metadata__":' + b"[" * 100_000))


def an_empty_file(directory: Path, manifest: Manifest) -> None:
    _sealed(directory, manifest, b"")


def tensors_over_one_another(directory: Path, manifest: Manifest) -> None:
    _sealed(directory, manifest, _framed(_tensors(manifest, [2, 2], [0, 16]), bytes(16)))


def a_tensor_beyond_the_file(directory: Path, manifest: Manifest) -> None:
    _sealed(directory, manifest, _framed(_tensors(manifest, [2, 2], [0, 1 << 50]), bytes(16)))


def a_tensor_larger_than_the_memory(directory: Path, manifest: Manifest) -> None:
    _sealed(directory, manifest, _framed(_tensors(manifest, [1 << 40, 1 << 40], [0, 16]), bytes(16)))


def a_shape_below_zero(directory: Path, manifest: Manifest) -> None:
    _sealed(directory, manifest, _framed(_tensors(manifest, [-2, -2], [0, 16]), bytes(16)))


def a_type_nobody_knows(directory: Path, manifest: Manifest) -> None:
    _sealed(directory, manifest, _framed(_tensors(manifest, [2, 2], [0, 16], "OBJECT"), bytes(16)))


def a_file_beyond_the_cap(directory: Path, manifest: Manifest) -> None:
    os.truncate(directory / FACTORS, (32 << 30) + 1)  # a hole: it takes no place on the disk


def a_pipe_that_nobody_writes(directory: Path, manifest: Manifest) -> None:
    (directory / FACTORS).unlink()
    os.mkfifo(directory / FACTORS)


def a_folder_for_a_file(directory: Path, manifest: Manifest) -> None:
    (directory / FACTORS).unlink()
    (directory / FACTORS).mkdir()


def a_file_elsewhere(directory: Path, manifest: Manifest) -> None:
    elsewhere = directory.parent / "elsewhere"
    (directory / FACTORS).rename(elsewhere)
    (directory / FACTORS).symlink_to(elsewhere)


def a_path_for_the_factors(directory: Path, manifest: Manifest) -> None:
    manifest["files"][f"../{manifest['version']}/{FACTORS}"] = manifest["files"].pop(FACTORS)


def a_path_for_a_tensor(directory: Path, manifest: Manifest) -> None:
    (name, *_) = manifest["tensors"]
    manifest["tensors"]["../../" + name] = manifest["tensors"].pop(name)


def a_tensor_that_the_model_has_not(directory: Path, manifest: Manifest) -> None:
    (name, *_) = manifest["tensors"]
    manifest["tensors"]["model.layers.99.mlp.down_proj.weight"] = manifest["tensors"][name]


def half_a_character_in_a_name(directory: Path, manifest: Manifest) -> None:
    (name, *_) = manifest["tensors"]
    manifest["tensors"]["\ud800"] = manifest["tensors"].pop(name)


def half_a_character_in_the_base(directory: Path, manifest: Manifest) -> None:
    manifest["base_hash"] = "\udfff"


def no_hash(directory: Path, manifest: Manifest) -> None:
    manifest["files"][FACTORS] = None


def a_fence_without_end(directory: Path, manifest: Manifest) -> bytes:
    return json.dumps(manifest | {"fence": 0}).replace('"fence": 0', '"fence": 1e999').encode()


def a_fence_that_is_no_number(directory: Path, manifest: Manifest) -> bytes:
    return json.dumps(manifest | {"fence": float("nan")}).encode()


def a_fence_of_many_digits(directory: Path, manifest: Manifest) -> bytes:
    return json.dumps(manifest | {"fence": 0}).replace('"fence": 0', '"fence": ' + "9" * 10_000).encode()


def a_manifest_nested_without_end(directory: Path, manifest: Manifest) -> bytes:
    return b'{"schema":' + b"[" * 100_000


def a_manifest_that_is_no_text(directory: Path, manifest: Manifest) -> bytes:
    return b"\x80\x04\xff\x00"


def a_manifest_that_is_a_list(directory: Path, manifest: Manifest) -> bytes:
    return b"[]"


ATTACKS: tuple[Attack, ...] = (
    a_pickle, a_header_longer_than_the_file, a_header_of_all_the_memory_there_is, a_header_that_is_no_json,
    a_header_nested_without_end, an_empty_file, tensors_over_one_another, a_tensor_beyond_the_file,
    a_tensor_larger_than_the_memory, a_shape_below_zero, a_type_nobody_knows, a_file_beyond_the_cap,
    a_pipe_that_nobody_writes, a_folder_for_a_file, a_file_elsewhere, a_path_for_the_factors,
    a_path_for_a_tensor, a_tensor_that_the_model_has_not, half_a_character_in_a_name,
    half_a_character_in_the_base, no_hash, a_fence_without_end, a_fence_that_is_no_number,
    a_fence_of_many_digits, a_manifest_nested_without_end, a_manifest_that_is_no_text,
    a_manifest_that_is_a_list,
)  # fmt: skip


#: Of these nothing is wrong with the files: the names are found false when base and weights are compared.
FALSE_NAMES = (
    a_path_for_a_tensor, a_tensor_that_the_model_has_not, half_a_character_in_a_name,
    half_a_character_in_the_base,
)  # fmt: skip


def write_manifest(directory: Path, manifest: Manifest, attack: Attack) -> None:
    """Lets the attack change a version, and writes its manifest."""
    content = attack(directory, manifest)
    (directory / "manifest.json").write_bytes(json.dumps(manifest).encode() if content is None else content)
