"""The one reader of the environment: frozen settings with the prefix FACTD_."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from daemon.errors import SettingsError


class Settings(BaseSettings):
    """Everything a factd process can be told. Secrets are masked in `repr`.

    Lists are given as comma-separated text or JSON, e.g.
    ``FACTD_REPLICAS=http://127.0.0.1:8001,http://127.0.0.1:8002``.
    """

    model_config = SettingsConfigDict(env_prefix="FACTD_", frozen=True, extra="ignore")

    #: ledger and versions live here
    state_dir: Path = Path("~/.local/state/factd")
    #: what was measured on unedited models, and unpacked models; in state_dir when None. May be shared
    statistics_dir: Path | None = None
    #: bundled name or a Hugging Face directory
    model: str = "smollm2-135m-instruct"
    #: name under which the replicas serve the model; their own default when None
    served_model_name: str | None = None
    #: Celery broker and result backend: redis:// URL of a Redis or Valkey server
    redis_url: str = "redis://127.0.0.1:6379/0"
    #: SQLAlchemy URL of the ledger; a SQLite file in state_dir when None
    database_url: str | None = None
    #: base URLs of the vLLM servers that get every version
    replicas: Annotated[tuple[str, ...], NoDecode] = ()
    #: bearer token of the publish routes of the replicas and of the admin scope of the HTTP API
    admin_token: SecretStr | None = None
    #: bearer token of the submit scope of the HTTP API
    submit_token: SecretStr | None = None
    #: the key that vLLM's own routes ask for (`--api-key`)
    serving_api_key: SecretStr | None = None
    api_host: str = "127.0.0.1"
    api_port: int = Field(8321, ge=0, le=65535)
    serving_port: int = Field(8320, ge=0, le=65535)

    method: str = "memit-seq"
    placement: str = "spread"
    anchor: str = "nas"
    protect: str = "none"
    dtype: str = "auto"
    #: text file for the second moments; the model's own samples when None
    corpus: Path | None = None

    #: corrections written by one solve at most
    batch_size: int = Field(16, ge=1, le=1000)
    #: unfinished attempts (crash, inconclusive, failed publish) before a correction is dead
    max_attempts: int = Field(3, ge=1)
    #: pause before a held correction is tried again, seconds
    retry_seconds: float = Field(5.0, ge=0)
    #: life of the single-writer lease without a heartbeat, seconds; a crashed host blocks for so long
    lease_seconds: float = Field(30.0, gt=0)
    #: Redis hands an unacknowledged message to another worker after so long, seconds
    visibility_timeout_seconds: int = Field(3600, ge=60)
    #: versions hold whole weights beside their factors: for replicas whose processors sum in another order
    full_tensors: bool = False
    #: earlier facts asked again by each measurement, at most
    measure_sample: int = Field(32, ge=0)
    #: overrides of monitoring.verdict.Thresholds by name, e.g. {"probe_kl_nats_limit": 0.2}
    thresholds: dict[str, float] = Field(default_factory=dict)

    #: the guard says what it would do and lets everything through
    guard_dry_run: bool = False
    #: rest after a rollback by the guard or an alert, in which nothing is accepted or rolled back, seconds
    guard_cooldown_seconds: float = Field(60.0, ge=0)
    #: rollbacks by guard and alerts within a day; instead of one more the queue is paused
    guard_rollbacks: int = Field(3, ge=0)
    #: inconclusive verdicts in a row before the queue is paused
    guard_holds: int = Field(5, ge=1)
    #: the live version is measured again after so long, seconds; 0: never
    guard_watch_seconds: float = Field(600.0, ge=0)
    #: the guard compacts when the forecast leaves fewer edits than this; 0: never for that reason
    guard_compact_edits: int = Field(50, ge=0)
    #: versions between two compactions by the guard, at least
    guard_compact_versions: int = Field(20, ge=1)

    @field_validator("replicas", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            text = value.strip()
            parts = json.loads(text) if text.startswith("[") else text.split(",")
            return tuple(part.strip().rstrip("/") for part in parts if part.strip())
        return value

    @field_validator("state_dir", "statistics_dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value is not None else None

    @property
    def statistics(self) -> Path:
        return self.statistics_dir or self.state_dir

    @property
    def ledger_url(self) -> str:
        return self.database_url or f"sqlite:///{self.state_dir / 'ledger.sqlite3'}"

    @property
    def store_dir(self) -> Path:
        """Root that holds `versions/`; vLLM gets it as FACTD_STORE."""
        return self.state_dir / "store"


def load_settings(**overrides: Any) -> Settings:
    """Reads the environment once; `overrides` win.

    Raises:
        SettingsError: names every setting at fault at once.
    """
    try:
        return Settings(**overrides)
    except (ValidationError, ValueError) as error:
        raise SettingsError(_describe(error)) from error


def _describe(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    lines = [
        f"FACTD_{'_'.join(map(str, item['loc'])).upper()} = {str(item['input'])[:80]!r}: {item['msg']}"
        for item in error.errors()
    ]
    return "\n".join(lines)
