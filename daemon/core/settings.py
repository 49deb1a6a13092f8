"""The one reader of the environment: frozen settings with the prefix FACTD_."""

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from limits import parse
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from daemon.core.errors import SettingsError
from daemon.core.names import PATTERN, Names
from daemon.core.publication import IN_FLIGHT_MOST_SECONDS, IN_FLIGHT_SECONDS, PUBLISH_SECONDS, InFlight
from monitoring.thresholds import Thresholds

DEFAULT_STATE_DIR = Path("~/.local/state/factd")


class Settings(BaseSettings):
    """Everything a factd process can be told. Secrets are masked in `repr`.

    Lists are given as comma-separated text or JSON, e.g.
    ``FACTD_REPLICAS=http://127.0.0.1:8001,http://127.0.0.1:8002``.
    A secret may be a file instead: ``factd_admin_token`` in the directory FACTD_SECRETS_DIR. A variable of
    the same name wins.
    """

    model_config = SettingsConfigDict(env_prefix="FACTD_", frozen=True, extra="ignore")

    #: ledger and versions live here
    state_dir: Path = DEFAULT_STATE_DIR
    #: of this model, where several share a broker: in queues, keys and workers; "" for the only or main one
    name: str = ""
    #: what was measured on unedited models, and unpacked models; in state_dir when None. May be shared
    statistics_dir: Path | None = None
    #: bundled name or a Hugging Face directory
    model: str = "smollm2-135m-instruct"
    #: name under which the replicas serve the model; their own default when None
    served_model_name: str | None = None
    #: Celery broker and result backend: redis:// URL of a Redis or Valkey server
    redis_url: str = Field("redis://127.0.0.1:6379/0", repr=False)  # may hold a password
    #: SQLAlchemy URL of the ledger; a SQLite file in state_dir when None
    database_url: str | None = Field(None, repr=False)  # may hold a password
    #: base URLs of the vLLM servers that get every version
    replicas: Annotated[tuple[str, ...], NoDecode] = ()
    #: how they get it: "plugin" (vLLM with factd's plugin), "lora" (stock vLLM: each version is an adapter),
    #: or "checkpoint" (any server: no URLs; a directory with the link `current` to the live checkpoint)
    publish: Literal["plugin", "lora", "checkpoint"] = "plugin"
    #: requests that run at a flip: "keep" (recomputed on the new weights), "wait" (end on the old ones), or
    #: "abort" (answered with what they have); plugin mode only
    in_flight: InFlight = "keep"
    #: "wait": after so long what still runs is kept and recomputed, seconds; new requests wait meanwhile
    in_flight_seconds: float = Field(IN_FLIGHT_SECONDS, ge=0, le=IN_FLIGHT_MOST_SECONDS)
    #: a replica that took longer to read, verify and flip a version hangs: it is taken out, the others go on,
    #: seconds; plugin mode only
    publish_seconds: float = Field(PUBLISH_SECONDS, ge=1, le=86400)
    #: replica that gets each new version first: its URL, or "first"; None: all get it at once
    canary: str | None = None
    #: so long it is watched there before the others get it, seconds
    canary_seconds: float = Field(60.0, ge=0, le=86400)
    #: where the modes without the plugin write, seen by the servers under the same path; STATE/published
    publish_dir: Path | None = None
    #: bearer token of the publish routes of the replicas and of the admin scope of the HTTP API
    admin_token: SecretStr | None = None
    #: bearer token of the submit scope of the HTTP API
    submit_token: SecretStr | None = None
    #: the key that vLLM's own routes ask for (`--api-key`)
    serving_api_key: SecretStr | None = None
    #: address that the HTTP API binds; other hosts reach it only through another one than 127.0.0.1
    api_host: str = "127.0.0.1"
    #: its port; `factd up` takes a free one where this is not set and taken
    api_port: int = Field(8321, ge=0, le=65535)
    #: port of the vLLM server that `factd up` and `factd serve` start; the same holds
    serving_port: int = Field(8320, ge=0, le=65535)

    #: editing method: rome, memit, memit-seq, pmet, emmet, alphaedit, encore, nse, deltaedit, eac, rect,
    #: prune, ft or lora
    method: str = "memit-seq"
    #: which layers are written: spread, boundary (BLUE) or single; the method's own when None
    placement: str | None = None
    #: to what values are scaled: nas, nas-cap or none; the method's own when None
    anchor: str | None = None
    #: dominant directions that updates leave alone: revive, revive-after or none
    protect: str = "none"
    #: of the editor's forward passes: auto, float32 or bfloat16; auto takes bfloat16 where it is faster
    dtype: str = "auto"
    #: text file for the second moments; the model's own samples when None
    corpus: Path | None = None
    #: tokens that the second moments are measured on; None: 10 times the FFN's width. More cost time once and
    #: disturb what is not edited less
    tokens: int | None = Field(None, ge=1)

    #: corrections written by one solve at most
    batch_size: int = Field(16, ge=1, le=1000)
    #: ask workers of the queue `values` for values; needs a method whose values follow from the fact alone
    value_workers: bool = False
    #: such a worker that has begun and says nothing for so long is not waited for, seconds
    value_workers_seconds: float = Field(120.0, gt=0)
    #: the first correction of an incomplete batch waits so long for company, seconds
    batch_wait_seconds: float = Field(0.2, ge=0, le=60)
    #: unfinished attempts (crash, inconclusive, failed publish) before a correction is dead
    max_attempts: int = Field(3, ge=1)
    #: pause before a held correction is tried again, seconds
    retry_seconds: float = Field(5.0, ge=0)
    #: corrections that may wait; then every intake says "full" until a batch has made room
    max_pending: int = Field(100_000, ge=1)
    #: requests of a token to the HTTP API, such as "2000/second"; "" for no limit
    request_rate: str = "2000/second"
    #: corrections that a token may post to the HTTP API; a request may hold as many as the window
    correction_rate: str = "100000/10 seconds"
    #: where rates are counted: memory:// for each API process by itself, redis:// for several together
    rates_url: str = "memory://"
    #: life of the single-writer lease without a heartbeat, seconds; a crashed host blocks for so long
    lease_seconds: float = Field(30.0, gt=0)
    #: Redis hands an unacknowledged message to another worker after so long, seconds
    visibility_timeout_seconds: int = Field(3600, ge=60)
    #: versions hold whole weights beside their factors: for replicas whose processors sum in another order
    full_tensors: bool = False
    #: earlier facts asked again by each measurement, at most
    measure_sample: int = Field(32, ge=0)
    #: other levels at which measures warn and stop a version, by name, e.g. {"probe_kl_nats_limit": 0.2}
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
            if all(isinstance(part, str) for part in parts):
                return tuple(part.strip().rstrip("/") for part in parts if part.strip())
            return parts  # pydantic says which of them is no text
        return value

    @field_validator("admin_token", "submit_token", "serving_api_key")
    @classmethod
    def _given(cls, value: SecretStr | None) -> SecretStr | None:
        # An empty token is the one that a request without any carries: it would open everything.
        return value if value is not None and value.get_secret_value().strip() else None

    @field_validator("thresholds")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        known = Thresholds().as_settings()
        for name, number in value.items():
            if name not in known:
                raise ValueError(f"{name!r} is none of {', '.join(sorted(known))}")
            if math.isnan(number):  # nothing lies beyond it: the guard would be off, and nobody would know
                raise ValueError(f"{name} is NaN; give a number")
        return value

    @field_validator("canary")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        # as the names of replicas are; "" in an environment file means none
        return value.strip().rstrip("/") or None if value else None

    @field_validator("request_rate", "correction_rate")
    @classmethod
    def _rate(cls, value: str) -> str:
        if value:
            try:
                parse(value)
            except ValueError:
                raise ValueError("is not a rate; write a count and a time, such as 100/10 seconds") from None
        return value

    @field_validator("name")
    @classmethod
    def _own_name(cls, value: str, info: ValidationInfo) -> str:
        if not PATTERN.fullmatch(value):
            raise ValueError(
                "is no name; use at most 40 small letters, digits, - and _, a letter or digit first"
            )
        # A named model in the main one's ledger would be no other model.
        if value and info.data.get("state_dir") == cls._absolute(DEFAULT_STATE_DIR):
            raise ValueError("needs a state directory of its own; set FACTD_STATE_DIR")
        return value

    @field_validator("state_dir", "statistics_dir", "publish_dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value is not None else None

    @property
    def names(self) -> Names:
        return Names(self.name)

    @property
    def statistics(self) -> Path:
        return self.statistics_dir or self.state_dir

    @property
    def published(self) -> Path:
        return self.publish_dir or self.state_dir / "published"

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
    secrets = os.environ.get("FACTD_SECRETS_DIR") or None
    if secrets and not Path(secrets).is_dir():
        raise SettingsError(f"FACTD_SECRETS_DIR = {secrets!r}: no such directory; mount the secrets there")
    try:
        return Settings(_secrets_dir=secrets, **overrides)  # pyright: ignore[reportCallIssue]
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
