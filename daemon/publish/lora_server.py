"""A stock vLLM server and the LoRA adapters that it holds: what it serves, and how to load another. No torch.

An adapter has a name of its own, `factd-v000012`, since vLLM refuses the name of its base model. A name that
is loaded anew would be read from disk at every step, and would leave running answers on mixed weights.
Clients take the last name that ``GET /v1/models`` lists. The one before it stays until the next
publication, for clients that asked a moment ago; answers that run end on the adapter they began with.

All names of this form are factd's. An adapter of the name to load that came from elsewhere is replaced.
"""

import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx

from daemon.core.errors import StoreError
from daemon.core.publication import ANSWER_SECONDS, BASE_VERSION, PUBLISH_SECONDS
from daemon.publish.fencing import FenceFile
from daemon.publish.serving import Served, ServingError
from daemon.publish.vllm_http import VllmHttp
from daemon.versions.format import FACTORS_FILE
from daemon.versions.manifests import Manifests

log = logging.getLogger("factd")

#: what an adapter of ours is called in vLLM
NAME = re.compile(r"factd-(v\d{6})")
#: vLLM's limit of --max-lora-rank
MAX_RANK = 512
#: said of an adapter that another factd loaded, or whose version was cleaned away
FOREIGN = "foreign"


class LoraServer:
    """A stock vLLM server that is given versions as adapters.

    Args:
        base_url: e.g. ``http://127.0.0.1:8000``.
        directory: where adapters are written; the server sees it under the same path.
        manifests: of the versions.
        api_key: its ``--api-key``, if it has one.
        transport: for tests.
        answer_seconds: after so long a server that has not answered a question counts as slow.
    """

    def __init__(
        self,
        base_url: str,
        directory: Path,
        manifests: Manifests,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.http = VllmHttp(base_url, api_key, transport, answer_seconds)
        self.name = self.http.address
        self.directory, self.manifests = directory, manifests
        self.fence = FenceFile(directory / "fence")

    def path(self, version: str) -> Path:
        """Where the adapter of a version is written.

        By content: a version that was never recorded may be written anew under its name, and vLLM finds its
        cached prefixes by the adapter's name and path.
        """
        factors = self.manifests.manifest(version)["files"][FACTORS_FILE]
        return self.directory / f"{version}-{factors[:12]}"

    def served(self) -> Served:
        """The adapter loaded last; its hashes are those of the weights that base and adapter stand for."""
        adapters = self.adapters()
        latest = next(reversed(adapters), None)
        if latest is None:
            # A stock server without an adapter serves the base, also when it has just started.
            return Served(BASE_VERSION, self.fence.value)
        version = latest.removeprefix("factd-")
        try:
            if adapters[latest] != str(self.path(version)):
                return Served(FOREIGN, self.fence.value)
            return Served(version, self.fence.value, self.manifests.weight_sha256(version))
        except StoreError:
            return Served(FOREIGN, self.fence.value)

    def healthy(self) -> bool:
        return self.http.healthy()

    def adapters(self) -> dict[str, str]:
        """Name → path of the adapters of ours that are loaded, in the order of loading."""
        return {name: root for name, root in self.http.models().items() if NAME.fullmatch(name)}

    def model_name(self) -> str:
        """What clients ask for: the newest adapter, or the base where there is none."""
        models = list(self.http.models())
        ours = [name for name in models if NAME.fullmatch(name)]
        return ours[-1] if ours else self.http.read(lambda: models[0])

    def complete(self, prompts: Sequence[str], max_tokens: int) -> list[str]:
        return self.http.complete(self.model_name(), prompts, max_tokens) if prompts else []

    def chat(self, messages: Sequence[str], max_tokens: int) -> list[str]:
        return self.http.chat(self.model_name(), messages, max_tokens) if messages else []

    def log_probs(self, passages: Sequence[Sequence[int]]) -> list[list[float]]:
        return self.http.log_probs(self.model_name(), passages) if passages else []

    def load(self, version: str) -> float:
        """Loads the adapter of a version unless it is there, and unloads all but it and its predecessor.

        Returns:
            How many seconds vLLM took to load it.
        """
        adapters = self.adapters()
        name, path = f"factd-{version}", str(self.path(version))
        latest = next(reversed(adapters), None)
        if latest == name and adapters[name] == path:
            return 0.0
        if name in adapters:
            self._make_way(name, adapters[name])
        started = time.perf_counter()
        try:
            self._load(name, path)
        except ServingError:
            # Another name than the latest: that one is still served, and loading this one would replace it.
            if name == latest:
                self._put_back(name, adapters[name])
            raise
        seconds = time.perf_counter() - started
        self._tidy(each for each in adapters if each not in (name, latest))
        return seconds

    def _make_way(self, name: str, path: str) -> None:
        """Unloads an adapter whose name is needed; vLLM takes no second one."""
        if Path(path).parent != self.directory:
            why = "names of this form are factd's: see that no other factd publishes to this server"
            log.warning("%s held %s from %s, which is replaced; %s", self.name, name, path, why)
        self.unload([name])

    def _put_back(self, name: str, path: str) -> None:
        """Serves again what had to make way, as far as it can be had; `served` tells."""
        with suppress(ServingError):
            self._load(name, path)

    def _tidy(self, names: Iterable[str]) -> None:
        """Unloads what nobody is led to any more. Where that fails the next publication tries again."""
        try:
            self.unload(names)
        except ServingError as error:
            log.warning("an old adapter stays loaded until the next publication: %s", error)

    def unload(self, names: Iterable[str]) -> None:
        """Unloads adapters in this order; one that is not there counts as unloaded.

        Raises:
            ServingError: one stays, and so do those behind it. With the newest behind all others a server
                goes on serving it.
        """
        for name in names:
            answer = self._send("unload", {"lora_name": name})
            if answer.status_code != 404 or '"error"' not in answer.text:  # vLLM's own 404: no such adapter
                self._check(answer)

    def _load(self, name: str, path: str) -> None:
        self._check(self._send("load", {"lora_name": name, "lora_path": path}))

    def _send(self, action: str, body: Mapping[str, str]) -> httpx.Response:
        return self.http.send("POST", f"/v1/{action}_lora_adapter", json=body, timeout=PUBLISH_SECONDS)

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code != 200:
            raise self._refusal(answer)

    def _refusal(self, answer: httpx.Response) -> ServingError:
        """What vLLM's refusal means, with its mend."""
        text = answer.text[:500]
        if "max_lora_rank" in text:
            return rank_error(f"{self.name} refuses the adapter: {text}")
        if answer.status_code == 404 and '"error"' not in text:
            mend = "start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
            what = f"{self.name} takes no adapters at run time; {mend}"
            return ServingError(what, retryable=False, code="refused", status=404)
        if answer.status_code == 404:
            what = f"{self.name}: {text}; it must see {self.directory} under the same path"
            return ServingError(what, retryable=False, code="missing", status=404)
        return self.http.refusal(answer)


def rank_error(what: str) -> ServingError:
    """An adapter whose rank vLLM does not take, with the mend."""
    mend = (
        f"raise vLLM's --max-lora-rank (up to {MAX_RANK}), run `factd compact` where the method's factors "
        "grow with every batch, or serve an exported checkpoint (FACTD_PUBLISH=checkpoint)"
    )
    return ServingError(f"{what}; {mend}", retryable=False, code="refused")
