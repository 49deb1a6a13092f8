"""Where a running `factd up` can be found: files under STATE/run, readable by the owner alone."""

import json
import os
import secrets
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from daemon.core.settings import Settings, load_settings


@dataclass(frozen=True)
class Tokens:
    """Bearer tokens; `admin` may do all that `submit` may."""

    submit: str
    admin: str


@dataclass(frozen=True)
class Running:
    """Addresses of one running instance."""

    pid: int
    model: str
    redis_url: str
    database_url: str
    api_url: str
    vllm_url: str
    tokens_file: str
    served_model: str = "factd"
    name: str = ""


def run_dir(state_dir: Path) -> Path:
    """STATE/run, made with mode 0700."""
    path = state_dir / "run"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def write_private(path: Path, content: object) -> None:
    """Writes JSON in one step, mode 0600."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(name, path)


def ensure_tokens(state_dir: Path, submit: str | None = None, admin: str | None = None) -> Tokens:
    """The tokens of this state directory. One that is neither given nor stored is made once, at random."""
    path = run_dir(state_dir) / "tokens.json"
    stored: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    tokens = Tokens(
        submit=submit or stored.get("submit") or secrets.token_urlsafe(24),
        admin=admin or stored.get("admin") or secrets.token_urlsafe(24),
    )
    if stored != asdict(tokens):
        write_private(path, asdict(tokens))
    return tokens


def announce(state_dir: Path, running: Running) -> None:
    write_private(run_dir(state_dir) / "up.json", asdict(running))


def withdraw(state_dir: Path) -> None:
    (state_dir / "run" / "up.json").unlink(missing_ok=True)


def find_running(state_dir: Path) -> Running | None:
    """The instance that runs on this state directory; None when there is none, or its process is gone."""
    path = state_dir / "run" / "up.json"
    if not path.exists():
        return None
    try:
        running = Running(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        return None
    return running if psutil.pid_exists(running.pid) else None


def settings_for(state: Path | None = None, **overrides: Any) -> Settings:
    """Settings of a command: options, then FACTD_*, then what a running `factd up` has announced."""
    chosen = {name: value for name, value in overrides.items() if value is not None}
    if state is not None:
        chosen["state_dir"] = state
    settings = load_settings(**chosen)
    running = find_running(settings.state_dir)
    if running is None:
        return settings
    tokens = ensure_tokens(settings.state_dir)
    found = {
        "redis_url": running.redis_url,
        "database_url": running.database_url,
        "replicas": (running.vllm_url,),
        "admin_token": tokens.admin,
        "submit_token": tokens.submit,
        "served_model_name": running.served_model,
        "model": running.model,
        "name": running.name,
    }
    return load_settings(
        **{**{k: v for k, v in found.items() if k not in settings.model_fields_set}, **chosen}
    )
