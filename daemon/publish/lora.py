"""Versions for stock vLLM servers, without factd's plugin: each written as a LoRA adapter.

ΔW = A Bᵀ is an adapter of rank n exactly: lora_B = A [d, n], lora_A = Bᵀ [n, d_in], scale α / r = 1. The
server needs ``--enable-lora --max-loras 2 --max-lora-rank R`` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.
What the server holds, and how adapters are named, is `daemon.publish.lora_server`'s.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from daemon.core.errors import StoreError
from daemon.core.publication import BASE_VERSION
from daemon.publish.lora_server import MAX_RANK, LoraServer, rank_error
from daemon.publish.serving import PublishResult, Served, ServingError
from daemon.versions.durable import sync_directory, write_synced
from daemon.versions.store import Store
from editing.memory.delta import write_tensors

#: the one projection that vLLM takes adapters for in every family that has adapters at all
MODULE = ".mlp.down_proj.weight"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
#: adapters on disk; a replica further behind than this gets the newest one anyway
KEPT = 8


class LoraReplica:
    """A stock vLLM server that is given versions as adapters. It serves and scores.

    Args:
        server: the server, with the directory where adapters are written.
        store: where versions come from.
    """

    def __init__(self, server: LoraServer, store: Store) -> None:
        self.server, self.store = server, store
        self.name, self.directory = server.name, server.directory

    def stage(self, version: str, fence: int) -> None:
        """Writes the adapter; every hash of the version is checked."""
        try:
            # Replicas that share the directory are staged at once: the first one writes, the others find it.
            with self.server.fence.admitted(fence):
                if version != BASE_VERSION and not self.server.path(version).exists():
                    self._write(version)
        except StoreError as error:
            raise ServingError(str(error), retryable=False, code="refused") from error
        except OSError as error:
            what = f"the adapter cannot be written: {error}; make room, or mend FACTD_PUBLISH_DIR"
            raise ServingError(what, retryable=True, code="unreachable") from error

    def _write(self, version: str) -> None:
        config, tensors = adapter(self.store.load_factors(version))
        path = self.server.path(version)
        for left in self.directory.glob(".v*"):  # of a writer that was killed
            shutil.rmtree(left)
        work = self.directory / f".{path.name}"
        work.mkdir(parents=True)
        write_tensors(work / WEIGHTS, tensors, {"format": "pt", "version": version})
        write_synced(work / CONFIG, json.dumps(config, indent=1).encode())
        sync_directory(work)
        os.rename(work, path)
        sync_directory(self.directory)
        old = sorted(self.directory.glob("v*-*"), key=lambda each: each.stat().st_mtime)[:-KEPT]
        for each in old:
            shutil.rmtree(each, ignore_errors=True)

    def publish(self, version: str, fence: int) -> PublishResult:
        """Loads the adapter; of the base, unloads all.

        The pause is an upper bound: how long vLLM took to load, between two steps of its scheduler.
        """
        started, loading = time.perf_counter(), 0.0
        self.stage(version, fence)
        if version == BASE_VERSION:
            self.server.unload(self.server.adapters())
        else:
            loading = self.server.load(version)
        return PublishResult(version, time.perf_counter() - started, loading, loading)

    def served(self) -> Served:
        return self.server.served()

    def healthy(self) -> bool:
        return self.server.healthy()

    def complete(self, prompts: Sequence[str], max_tokens: int = 12) -> list[str]:
        return self.server.complete(prompts, max_tokens)

    def chat(self, messages: Sequence[str], max_tokens: int = 12) -> list[str]:
        return self.server.chat(messages, max_tokens)

    def log_probs(self, passages: Sequence[Sequence[int]]) -> list[list[float]]:
        return self.server.log_probs(passages)

    def close(self) -> None:
        self.server.http.close()


def adapter(factors: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """PEFT's configuration and tensors of W₀ + A Bᵀ for (A [d, n], B [d_in, n]) of each weight.

    All modules get the largest n as their rank, filled up with zeros. It is at least 1: vLLM takes no
    rank of 0.

    Raises:
        ServingError: vLLM takes no adapter for an edited weight, or none of so high a rank.
    """
    strange = sorted(name for name in factors if not name.endswith(MODULE))
    if strange:
        what = f"vLLM takes no LoRA adapter for {strange[0]}; set FACTD_PUBLISH to plugin or checkpoint"
        raise ServingError(what, retryable=False, code="refused")
    rank = max([1, *(a.shape[1] for a, _ in factors.values())])
    if rank > MAX_RANK:
        raise rank_error(f"the version has rank {rank}, vLLM takes {MAX_RANK} at most")
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in factors.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{module}.lora_A.weight"] = _filled(b, rank).T.contiguous()
        tensors[f"{module}.lora_B.weight"] = _filled(a, rank)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": [name.removesuffix(".weight") for name in factors],
        "base_model_name_or_path": None,
    }
    return config, tensors


def _filled(factor: Tensor, rank: int) -> Tensor:
    filled = factor.new_zeros(factor.shape[0], rank)
    filled[:, : factor.shape[1]] = factor
    return filled
