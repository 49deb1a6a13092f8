"""The vLLM server that factd starts: its command line, its environment, its process."""

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from daemon.core.settings import Settings
from daemon.supervise.environment import below
from daemon.supervise.processes import ManagedProcess, answers
from daemon.versions.keys import VARIABLE, as_variable

VLLM_GRACE_SECONDS = 15.0
#: On CPU oneDNN keeps compiled code, some 0.3 MB, for each pair of a weight's shape and a number of tokens in
#: a step: by default for 1024 pairs. Each flip recomputes the cache of running answers, with a new number of
#: tokens. So memory grew with publications as if it leaked.
ONEDNN_PRIMITIVES = 128
# Variables of the caller's environment that would change the server's security or its plugins.
VLLM_REFUSED_ENV = ("VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_API_KEY")

#: The base model that versions must be made for; empty: any.
BASE_HASH = "FACTD_BASE_HASH"
#: vLLM's arguments that make it take versions.
EXTENSION = ("--worker-extension-cls", "daemon.plugin.worker.WorkerExtension")
#: vLLM's arguments that multiply its worker processes.
TENSOR, PIPELINE, DATA = "--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size"
RANK_ARGUMENTS = ((TENSOR, "-tp"), (PIPELINE, "-pp"), (DATA, "-dp"))
#: Those that are refused, and why.
REFUSED = {
    PIPELINE: f"a rank would be told versions of layers that another has; use {TENSOR}",
    DATA: "its engines share one server, and a version must reach each; start a server for each instead, "
    "and list them in FACTD_REPLICAS",
}


@dataclass(frozen=True)
class VllmOptions:
    """How the embedded vLLM is run; the defaults fit a small model on two cores.

    The caller's OMP_NUM_THREADS, VLLM_CPU_OMP_THREADS_BIND and VLLM_CPU_KVCACHE_SPACE win over these.

    Attributes:
        store: directory that holds `versions/`.
        admin_token: for the routes under /plugins/factd.
        served_name: model name that clients ask for.
        api_key: for clients; None leaves the server open to all who reach `host`.
        base_hash: versions made for another base model are refused. FACTD_BASE_HASH wins, also when empty.
        version_keys: public keys of which one must have signed a version; none: FACTD_VERSION_KEY as it is.
        kv_cache_gib: memory of the KV cache, whole GiB (CPU only).
        threads: OpenMP threads of all ranks together; None means all cores.
        extra: further vLLM arguments.
    """

    store: Path
    admin_token: str = field(repr=False)
    served_name: str = "factd"
    api_key: str | None = field(default=None, repr=False)
    base_hash: str | None = None
    version_keys: tuple[str, ...] = ()
    dtype: str = "bfloat16"
    max_model_len: int = 1024
    max_num_seqs: int = 32
    kv_cache_gib: int = 1
    threads: int | None = None
    host: str = "127.0.0.1"
    extra: tuple[str, ...] = ()


def serving_key(settings: Settings) -> str | None:
    """The key that clients of the served model must send; None where everybody may ask."""
    return settings.serving_api_key.get_secret_value() if settings.serving_api_key else None


def vllm_command(model_path: Path, port: int, options: VllmOptions) -> tuple[list[str], dict[str, str]]:
    """Command line and complete environment of a vLLM server with the factd plugin.

    Tokens travel in the environment, never in the command line.
    """
    argv = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    argv += ["--model", str(model_path), "--served-model-name", options.served_name]
    argv += ["--host", options.host, "--port", str(port), "--dtype", options.dtype, "--enforce-eager"]
    argv += ["--max-model-len", str(options.max_model_len), "--max-num-seqs", str(options.max_num_seqs)]
    argv += EXTENSION
    argv += ["--disable-uvicorn-access-log", *options.extra]
    caller = {name: value for name, value in os.environ.items() if name not in VLLM_REFUSED_ENV}
    env = below(caller, _tuned(options))
    env |= {
        "VLLM_PLUGINS": "factd",
        "FACTD_STORE": str(Path(options.store).resolve()),
        "FACTD_ADMIN_TOKEN": options.admin_token,
    }
    if options.api_key:
        env["VLLM_API_KEY"] = options.api_key
    if options.version_keys:
        env[VARIABLE] = as_variable(options.version_keys)
    if options.base_hash and BASE_HASH not in env:
        env[BASE_HASH] = options.base_hash
    return argv, env


def _tuned(options: VllmOptions) -> dict[str, str]:
    """What suits a small server on a shared host. The caller's own settings win."""
    threads = (options.threads or os.cpu_count() or 1) // ranks(options.extra)
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(options.kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # other processes share the cores
        # Saves a process that imports torch and vLLM: a server of one rank needs no worker process. vLLM's
        # CPU build would start one to bind threads, which "nobind" switches off.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": str(max(1, threads)),
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": str(ONEDNN_PRIMITIVES),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def ranks(arguments: Sequence[str]) -> int:
    """How many worker processes vLLM's arguments ask for; each has threads of its own."""
    return max(1, math.prod(_ranks(arguments).values()))


def refused(arguments: Sequence[str]) -> str | None:
    """Why a server with these arguments could not be published to; None where it can be."""
    told = _ranks(arguments)
    return next(
        (f"{name} {told[name]}: {why}" for name, why in REFUSED.items() if told.get(name, 1) > 1), None
    )


def _ranks(arguments: Sequence[str]) -> dict[str, int]:
    """Argument of `RANK_ARGUMENTS` → its number."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for names in RANK_ARGUMENTS:
        parser.add_argument(*names, type=int, default=1, dest=names[0])
    try:
        told, _ = parser.parse_known_args([_dashed(word) for word in arguments])
    except argparse.ArgumentError:
        return {}  # no number: vLLM refuses it, and says so better
    return vars(told)


def _dashed(word: str) -> str:
    return word.replace("_", "-") if word.startswith("--") else word


def vllm_process(argv: Sequence[str], env: Mapping[str, str], *, port: int, log: Path) -> ManagedProcess:
    """The server as a supervised child; ready when /health answers 200."""
    ready = partial(answers, f"http://127.0.0.1:{port}/health")
    return ManagedProcess("vLLM", argv, log=log, env=env, ready=ready, grace=VLLM_GRACE_SECONDS)
