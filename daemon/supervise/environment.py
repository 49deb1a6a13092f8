"""What the child processes of `factd up` are told: addresses and environment."""

import hashlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from daemon.core.settings import Settings
from daemon.supervise.processes import free_port
from daemon.supervise.running import Running, Tokens, run_dir

#: How the model server and the editor share this host.
CORES = os.cpu_count() or 1
SERVER_CORES = max(1, CORES // 2)


def broker_password(tokens: Tokens) -> str:
    """Derived from the admin token, so that it is the same after a restart of the supervisor."""
    return hashlib.sha256(f"valkey:{tokens.admin}".encode()).hexdigest()[:32]


def addresses(settings: Settings, redis_url: str) -> Running:
    """Where the services of this process will answer."""
    api_port, vllm_port = _port(settings, "api_port"), _port(settings, "serving_port")
    return Running(
        pid=os.getpid(),
        model=settings.model,
        name=settings.name,
        redis_url=redis_url,
        database_url=settings.ledger_url,
        api_url=f"http://{settings.api_host}:{api_port}",
        vllm_url=f"http://127.0.0.1:{vllm_port}",
        tokens_file=str(run_dir(settings.state_dir) / "tokens.json"),
        served_model=settings.served_model_name or Path(settings.model).name,
    )


def _port(settings: Settings, name: str) -> int:
    # A port that the user asked for is used, or starting fails. A default port that is taken is replaced.
    wanted = getattr(settings, name)
    if name in settings.model_fields_set and wanted:
        return wanted
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return free_port()
    return wanted or free_port()


def environment(settings: Settings, running: Running, tokens: Tokens) -> dict[str, str]:
    """The complete environment of the workers and of the API."""
    return {**below(os.environ, _tuned()), **_told(settings, running, tokens)}


def below(caller: Mapping[str, str], tuned: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment, with `tuned` where it says nothing: what the caller has set wins."""
    return {**caller, **{name: value for name, value in tuned.items() if not caller.get(name)}}


def _told(settings: Settings, running: Running, tokens: Tokens) -> dict[str, str]:
    key = settings.serving_api_key
    return {
        "FACTD_STATE_DIR": str(settings.state_dir),
        "FACTD_NAME": settings.name,
        "FACTD_STATISTICS_DIR": str(settings.statistics),
        "FACTD_MODEL": running.model,
        "FACTD_REDIS_URL": running.redis_url,
        "FACTD_DATABASE_URL": running.database_url,
        "FACTD_LEDGER_EXISTS": "true",
        "FACTD_REPLICAS": ",".join((running.vllm_url, *settings.replicas)),
        "FACTD_ADMIN_TOKEN": tokens.admin,
        "FACTD_SUBMIT_TOKEN": tokens.submit,
        "FACTD_SERVED_MODEL_NAME": running.served_model,
        "FACTD_API_PORT": running.api_url.rsplit(":", 1)[1],
        "FACTD_SERVING_PORT": running.vllm_url.rsplit(":", 1)[1],
        **({"FACTD_SERVING_API_KEY": key.get_secret_value()} if key else {}),
    }


def _tuned() -> dict[str, str]:
    return {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        # Editor and server together use no more threads than there are cores. With one core too few, two
        # threads that wait for each other are slower than one thread (docs/experiments.md).
        "OMP_NUM_THREADS": str(max(1, CORES - SERVER_CORES)),
        # By default glibc gives large freed blocks back at once and faults them in again at every step of
        # the value optimisation. That costs a quarter of its time.
        "MALLOC_TRIM_THRESHOLD_": str(2 << 30),
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    }
