"""Versions for stock vLLM servers, without factd's plugin: each as a LoRA adapter.

ΔW = A Bᵀ is an adapter of rank n exactly: lora_B = A [d, n], lora_A = Bᵀ [n, d_in], scale α / r = 1. The
server needs ``--enable-lora --max-loras 2 --max-lora-rank R`` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.

An adapter has a name of its own, `factd-v000012`: vLLM refuses the name of its base model, and a name that
is loaded anew in place would be read from disk at every step and leave running answers on mixed weights.
Clients take the last name that ``GET /v1/models`` lists. The one before it stays until the next
publication, for those who asked a moment ago; answers that run end on the adapter they began with.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from daemon.core.errors import StoreError
from daemon.core.publication import BASE_VERSION, PUBLISH_SECONDS
from daemon.publish.fencing import FenceFile
from daemon.publish.serving import PublishResult, Served, ServingError, VllmReplica
from daemon.versions.durable import sync_directory, write_synced
from daemon.versions.format import FACTORS_FILE as FACTORS
from daemon.versions.store import Store

if TYPE_CHECKING:
    from torch import Tensor

#: what an adapter of ours is called in vLLM
NAME = re.compile(r"factd-(v\d{6})")
#: vLLM's limit of --max-lora-rank
MAX_RANK = 512
#: the one projection that vLLM takes adapters for in every family that has adapters at all
MODULE = ".mlp.down_proj.weight"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
#: adapters on disk; a replica further behind than this gets the newest one anyway
KEPT = 8
FOREIGN = "foreign"


def adapter(factors: "Mapping[str, tuple[Tensor, Tensor]]") -> "tuple[dict[str, Any], dict[str, Tensor]]":
    """PEFT's configuration and tensors of W₀ + A Bᵀ for (A [d, n], B [d_in, n]) of each weight.

    All modules get the largest n as their rank, at least 1, filled up with zeros: vLLM takes no rank of 0.

    Raises:
        ServingError: an edited weight is one that vLLM takes no adapter for, or the rank is beyond it.
    """
    strange = sorted(name for name in factors if not name.endswith(MODULE))
    if strange:
        what = f"vLLM takes no LoRA adapter for {strange[0]}; set FACTD_PUBLISH to plugin or checkpoint"
        raise ServingError(what, retryable=False, code="refused")
    rank = max([1, *(a.shape[1] for a, _ in factors.values())])
    if rank > MAX_RANK:
        raise _rank_error(f"the version has rank {rank}, vLLM takes {MAX_RANK} at most")
    tensors = {}
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


def _filled(factor: "Tensor", rank: int) -> "Tensor":
    filled = factor.new_zeros(factor.shape[0], rank)
    filled[:, : factor.shape[1]] = factor
    return filled


def _rank_error(what: str) -> ServingError:
    mend = (
        f"raise vLLM's --max-lora-rank (up to {MAX_RANK}), run `factd compact` where the method's factors "
        "grow with every batch, or serve an exported checkpoint (FACTD_PUBLISH=checkpoint)"
    )
    return ServingError(f"{what}; {mend}", retryable=False, code="refused")


class LoraReplica(VllmReplica):
    """A stock vLLM server that is given versions as adapters.

    Args:
        directory: where adapters are written; the server sees it under the same path.
        store: where versions come from.
    """

    def __init__(
        self,
        base_url: str,
        directory: Path,
        store: Store,
        api_key: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(base_url, "", api_key, transport=transport)
        self.directory, self.store = directory, store
        self.fence = FenceFile(directory / "fence")

    def stage(self, version: str, fence: int) -> None:
        """Writes the adapter; every hash of the version is checked."""
        try:
            # Replicas that share the directory are staged at once: the first one writes, the others find it.
            with self.fence.admitted(fence):
                if version != BASE_VERSION and not self._path(version).exists():
                    self._write(version)
        except StoreError as error:
            raise ServingError(str(error), retryable=False, code="refused") from error
        except OSError as error:
            what = f"the adapter cannot be written: {error}; make room, or mend FACTD_PUBLISH_DIR"
            raise ServingError(what, retryable=True, code="unreachable") from error

    def _path(self, version: str) -> Path:
        # By content: a version that was never recorded may be written anew under its name, and vLLM finds
        # its cached prefixes by the adapter's name and path.
        return self.directory / f"{version}-{self.store.manifest(version)['files'][FACTORS][:12]}"

    def _write(self, version: str) -> None:
        from editing.memory.delta import write_tensors

        config, tensors = adapter(self.store.load_factors(version))
        path = self._path(version)
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
        """Loads the adapter, then unloads all but it and its predecessor; of the base, unloads all.

        The pause is an upper bound: how long vLLM took to load, between two steps of its scheduler.
        """
        started = time.perf_counter()
        self.stage(version, fence)
        adapters = self._adapters()
        if version == BASE_VERSION:
            self._unload(adapters)
            return PublishResult(version, time.perf_counter() - started, 0.0)
        name, path = f"factd-{version}", str(self._path(version))
        latest = next(reversed(adapters), None)
        seconds = 0.0
        if latest != name or adapters[name] != path:
            self._unload([name] if name in adapters else [])
            load = time.perf_counter()
            self._post("load", {"lora_name": name, "lora_path": path})
            seconds = time.perf_counter() - load
            self._unload([each for each in adapters if each not in (name, latest)])
        return PublishResult(version, time.perf_counter() - started, seconds, seconds)

    def _unload(self, names: Any) -> None:
        for name in names:
            self._post("unload", {"lora_name": name})

    def served(self) -> Served:
        """The adapter loaded last; its hashes are those of the weights that base and adapter stand for."""
        adapters = self._adapters()
        latest = next(reversed(adapters), None)
        if latest is None:
            # A stock server without an adapter serves the base, also when it has just started.
            return Served(BASE_VERSION, self.fence.value)
        version = latest.removeprefix("factd-")
        try:
            if adapters[latest] != str(self._path(version)):
                return Served(FOREIGN, self.fence.value)
            return Served(version, self.fence.value, self.store.weight_sha256(version))
        except StoreError:  # of another factd, or of a version that was cleaned away
            return Served(FOREIGN, self.fence.value)

    def _adapters(self) -> dict[str, str]:
        """Name → path of the adapters of ours that are loaded, in the order of loading."""
        answer = self._call("GET", "/v1/models", headers=self._api)
        try:
            models = {str(model["id"]): str(model.get("root")) for model in answer["data"]}
        except (KeyError, TypeError) as error:
            raise self._protocol_error(error) from error
        return {name: root for name, root in models.items() if NAME.fullmatch(name)}

    def _model_name(self) -> str:
        return next(reversed(self._adapters()), None) or super()._model_name()

    def _post(self, action: str, body: Mapping[str, str]) -> None:
        try:
            answer = self._http.post(
                f"/v1/{action}_lora_adapter", json=body, headers=self._api, timeout=PUBLISH_SECONDS
            )
        except httpx.HTTPError as error:
            what = f"{self.name} does not answer ({error!r}); is it running?"
            raise ServingError(what, retryable=True, code="unreachable") from error
        if answer.status_code != 200:
            raise self._told(answer)

    def _told(self, answer: httpx.Response) -> ServingError:
        """What vLLM's refusal means, with its mend."""
        text = answer.text[:500]
        if "max_lora_rank" in text:
            return _rank_error(f"{self.name} refuses the adapter: {text}")
        if answer.status_code == 404 and '"error"' not in text:
            mend = "start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
            what = f"{self.name} takes no adapters at run time; {mend}"
            return ServingError(what, retryable=False, code="refused", status=404)
        if answer.status_code == 404:
            what = f"{self.name}: {text}; it must see {self.directory} under the same path"
            return ServingError(what, retryable=False, code="missing", status=404)
        return self._refusal(answer)
