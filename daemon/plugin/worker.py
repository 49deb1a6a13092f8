"""The part of factd inside vLLM's workers, and the entry points; `daemon.plugin.routes` has the routes.

Needs `VLLM_PLUGINS=factd`, `--worker-extension-cls daemon.plugin.worker.WorkerExtension`, and in the
environment FACTD_STORE and FACTD_ADMIN_TOKEN. vLLM's developer mode is not used.

Order of a publication: authenticate, stage (read, materialise and verify in a thread of the worker
while generation goes on), pause, swap, resume. Nothing is paused for a version that is refused.
"""

# vLLM leaves `finalize_layerwise_reload` untyped, and torch's native setter has no public name.
# pyright: reportUnknownVariableType=false, reportPrivateUsage=false

import os
import queue
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from vllm.config import set_current_vllm_config
from vllm.logger import init_logger
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from daemon.core.publication import UNPUBLISHED
from daemon.plugin.multiplying import answer
from daemon.plugin.routes import PublishPlugin
from daemon.plugin.staging import (
    SERVE_FLOAT,
    Checkpoint,
    Held,
    Staged,
    StagingError,
    admit,
    stage_version,
    to_served,
)
from daemon.versions.keys import VARIABLE, told_keys

logger = init_logger("vllm.factd")

#: vLLM's names of a layer that holds its weight as it is; a module without a method has none to hold.
UNQUANTISED = ("UnquantizedLinearMethod", "NoneType")


def register() -> None:
    """Entry point of `vllm.general_plugins`. vLLM asks for one; there is nothing to do."""


def endpoint() -> PublishPlugin:
    """Entry point of `vllm.endpoint_plugins`."""
    return PublishPlugin()


class _Rank:
    """What one worker holds: the served version, the staged one, and how to put tensors in place."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.model = worker.model_runner.get_model()
        self.store = Path(os.environ["FACTD_STORE"])
        self.checkpoint = Checkpoint(Path(worker.model_config.model))
        self.base_hash = os.environ.get("FACTD_BASE_HASH") or None
        self.keys = told_keys(os.environ.get(VARIABLE, ""))
        self.modules = dict(self.model.named_modules())
        self.renamed = _renaming(self.model)
        self.fence = 0
        self.sound: set[str] = set()
        self.held = Held()
        self.served = Staged(UNPUBLISHED, {}, {})
        self.previous: Staged | None = None
        self.staged: Staged | None = None
        self.packed: dict[str, Any] = {}
        self.outcome: dict[str, Any] | None = None
        self.busy = False
        # One thread for all stagings: the C library gives each new thread a memory arena, and every arena
        # keeps as much as the largest staging took in it.
        self.jobs: queue.SimpleQueue[tuple[str, int, int]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="factd-stage", daemon=True).start()

    def begin(self, version: str, fence: int) -> dict[str, Any]:
        """Starts staging in the thread; a stale fence is refused at once."""
        if fence < self.fence:
            return _failure(
                "stale_fence", f"fence {fence} is older than {self.fence}: another writer took over"
            )
        if self.busy:
            return _failure("stale_fence", "another version is being staged")
        if self.staged is not None and self.staged.version == version and fence == self.fence:
            return {}  # staged before any replica flipped: the flip need not read it again
        self.fence, self.staged, self.outcome, self.packed = fence, None, None, {}
        self.busy = True
        self.jobs.put((version, fence, torch.get_num_threads()))
        return {}

    def _work(self) -> None:
        while True:
            outcome = self._stage(*self.jobs.get())
            # Not busy first, outcome second: a caller that reads the outcome may begin the next at once.
            self.busy = False
            self.outcome = outcome

    def _stage(self, version: str, fence: int, threads: int) -> dict[str, Any]:
        started = time.perf_counter()
        # vLLM's CPU worker replaces torch.set_num_threads by a no-op, which would let the product run on
        # several threads and sum in another order. The native setter acts on the calling thread.
        torch._C.set_num_threads(1)
        try:
            manifest = admit(self.store, version, fence, self.base_hash, self.sound, self.keys)
            dtype = self.worker.model_config.dtype
            staged = stage_version(self.store, manifest, self.checkpoint, dtype, self.held)
            tensors = dict(staged.tensors)
            for name in self.served.tensors.keys() - tensors.keys():
                tensors[name] = to_served(name, self.checkpoint.read(name), dtype)
            self.packed = {
                name: packed for name in tensors if (packed := _pack(self._module(name), tensors[name]))
            }
            self.staged = Staged(version, tensors, staged.sha256)
            return {"seconds": time.perf_counter() - started, "sha256": staged.sha256}
        except StagingError as error:
            return _failure(error.code, str(error))
        except Exception as error:  # the caller must hear of it; a dead thread would be silence
            logger.exception("factd: staging %s failed", version)
            return _failure("refused", f"staging failed: {error!r}")
        finally:
            torch._C.set_num_threads(threads)

    def _module(self, name: str) -> torch.nn.Module:
        """The module that owns a checkpoint tensor alone.

        A fused one (q/k/v, gate/up) exists under another name in vLLM; loading part of it would leave
        the rest of the fused weight uninitialised.
        """
        path, _, leaf = self.renamed(name).rpartition(".")
        module = self.modules.get(path)
        method = type(getattr(module, "quant_method", None)).__name__
        if module is not None and not hasattr(module, "weight") and method not in UNQUANTISED:
            raise StagingError("refused", f"{name} is quantised in vLLM ({method}); {SERVE_FLOAT}")
        if module is None or leaf != "weight" or "weight" not in dict(module.named_parameters(recurse=False)):
            raise StagingError("refused", f"{name} is not a weight of its own in vLLM (fused or unknown)")
        return module

    def swap(self, version: str, fence: int) -> dict[str, Any]:
        """Puts the staged version in place; on failure the last good tensors are put back."""
        # A rank that refuses or fails has nothing to undo; an earlier publication must not be undone.
        self.previous = None
        if fence < self.fence or self.staged is None or self.staged.version != version:
            return _failure("stale_fence", f"{version} is not what this worker staged last")
        started = time.perf_counter()
        staged, last = self.staged, self.served
        try:
            self._load({name: t for name, t in staged.tensors.items() if name not in self.packed})
        except Exception as error:
            logger.exception("factd: swap to %s failed; restoring %s", version, last.version)
            self._load(self._absolute(last, staged.tensors.keys() - self.packed.keys()))
            return _failure("swap_failed", f"swap failed, {last.version} was restored: {error!r}")
        for name, packed in self.packed.items():
            self._module(name).cpu_linear = packed
        self.packed = {}
        kept = {name: staged.tensors[name] for name in staged.sha256}
        self.previous, self.served, self.staged = last, Staged(version, kept, staged.sha256), None
        return {"seconds": time.perf_counter() - started}

    def undo(self) -> None:
        """Puts back what was served before the last swap (another rank failed)."""
        if self.previous is not None:
            self._load(self._absolute(self.previous, self.served.tensors.keys()))
            self.served, self.previous = self.previous, None

    def products(self, version: str, seed: int, tensors: Collection[str]) -> dict[str, Any]:
        """What the named matrices make of a challenge as they are held, while a version is served."""
        if version != self.served.version:
            return _failure("refused", f"served is {self.served.version}, not {version}; publish it first")
        dtype = self.worker.model_config.dtype
        try:
            told = {name: answer(self._module(name), name, seed, dtype) for name in tensors}
        except (StagingError, ValueError) as error:
            return _failure("refused", str(error))
        return {"dtype": str(dtype).removeprefix("torch."), "tensors": told}

    def _absolute(self, version: Staged, names: Collection[str]) -> dict[str, torch.Tensor]:
        dtype = self.worker.model_config.dtype
        absent = set(names) - version.tensors.keys()
        return {**version.tensors, **{n: to_served(n, self.checkpoint.read(n), dtype) for n in absent}}

    def _load(self, tensors: dict[str, torch.Tensor]) -> None:
        if not tensors:
            return
        modules = [self._module(name) for name in tensors]
        # CPU: linear weights were repacked and the parameter emptied, so the layer must be rebuilt. With
        # the plain layout the model's own loader copies in place, which keeps CUDA graphs valid.
        rebuild = [m for m in modules if not _plain(m)]
        stored = [(name, self.checkpoint.family.turned(tensor)) for name, tensor in tensors.items()]
        with torch.no_grad(), set_current_vllm_config(self.worker.vllm_config):
            try:
                for module in rebuild:
                    initialize_layerwise_reload(module)
                self.model.load_weights(stored)
            finally:  # without it the layers stay on the meta device and the next step kills the engine
                for module in rebuild:
                    finalize_layerwise_reload(module, self.worker.model_config)


def _plain(module: torch.nn.Module) -> bool:
    """Whether the parameter still has the layout of the checkpoint (an unquantised layer on a GPU)."""
    method = type(getattr(module, "quant_method", None)).__name__
    weight = module.weight
    return isinstance(weight, torch.Tensor) and weight.is_cuda and method == "UnquantizedLinearMethod"


def _renaming(model: torch.nn.Module) -> Callable[[str], str]:
    """Checkpoint name → the served model's own. They differ where vLLM runs transformers' code (GPT-NeoX)."""
    mapper: Any = getattr(model, "hf_to_vllm_mapper", None)
    if mapper is None:
        return str
    renames = mapper.get_rename_mapper()  # what is left out of it fuses layers
    return lambda name: renames.map_name(name) or name


def _pack(module: torch.nn.Module, weight: torch.Tensor) -> Any:
    """The CPU backend's product with `weight` repacked, made ahead so that swapping is one assignment.

    None where the layer is not such a one (GPU, quantised): it is then loaded during the pause.
    """
    method = type(getattr(module, "quant_method", None)).__name__
    if weight.is_cuda or method != "UnquantizedLinearMethod":
        return None
    if not hasattr(module, "cpu_linear") or cast(torch.Tensor, module.weight).numel() != 0:
        return None
    part = _part(module, weight)
    if part is None:
        return None
    stand_in: Any = SimpleNamespace(weight=torch.nn.Parameter(part, requires_grad=False), bias=None)
    dispatch_cpu_unquantized_gemm(stand_in, remove_weight=True)
    return stand_in.cpu_linear if stand_in.weight.numel() == 0 else None


def _part(module: torch.nn.Module, weight: torch.Tensor) -> torch.Tensor | None:
    """What this rank multiplies with: the weight, or its columns of it; None where it is cut otherwise."""
    layer = cast(Any, module)
    ranks = getattr(layer, "tp_size", 1)
    if ranks == 1:
        return weight
    width = getattr(layer, "input_size_per_partition", 0)
    if width * ranks != weight.shape[1]:
        return None
    return weight.narrow(1, layer.tp_rank * width, width).contiguous()


def _failure(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


class WorkerExtension:
    """Methods mixed into vLLM's worker, called through `collective_rpc`."""

    def _factd(self) -> _Rank:
        rank = self.__dict__.get("_factd_rank")
        if rank is None:
            rank = self.__dict__["_factd_rank"] = _Rank(self)
        return rank

    def factd_stage(self, version: str, fence: int) -> dict[str, Any]:
        return self._factd().begin(version, fence)

    def factd_stage_outcome(self) -> dict[str, Any] | None:
        return self._factd().outcome

    def factd_swap(self, version: str, fence: int) -> dict[str, Any]:
        return self._factd().swap(version, fence)

    def factd_undo(self) -> None:
        self._factd().undo()

    def factd_products(self, version: str, seed: int, tensors: list[str]) -> dict[str, Any]:
        return self._factd().products(version, seed, tensors)

    def factd_served(self) -> dict[str, Any]:
        rank = self._factd()
        return {
            "version": rank.served.version,
            "fence": rank.fence,
            "sha256": rank.served.sha256,
        }
