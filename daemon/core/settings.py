"""The one reader of the environment: frozen settings with the prefix FACTD_."""

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from daemon.core import publication
from daemon.core.errors import SettingsError
from daemon.core.names import PATTERN, Names
from daemon.core.times import Rate
from editing.consolidation.numbers import ConsolidationNumbers
from editing.forms import Kind
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

    #: folder of the ledger and the versions
    state_dir: Path = DEFAULT_STATE_DIR
    #: name of this model where several share a broker: part of its queues, keys, workers; "" for the main one
    name: str = ""
    #: folder of what was measured on unedited models, and of unpacked models; state_dir when None. Several
    #: models may share it
    statistics_dir: Path | None = None
    #: name of the bundled model, or a Hugging Face directory
    model: str = "smollm2-135m-instruct"
    #: name under which the replicas serve the model; their own default when None
    served_model_name: str | None = None
    #: Celery broker and result backend: redis:// URL of a Redis or Valkey server
    redis_url: str = Field("redis://127.0.0.1:6379/0", repr=False)  # may hold a password
    #: SQLAlchemy URL of the ledger; a SQLite file in state_dir when None
    database_url: str | None = Field(None, repr=False)  # may hold a password
    #: the ledger must be there: a process that finds none ends, rather than begin with an empty one. `factd
    #: up` tells its processes so
    ledger_exists: bool = False
    #: base URLs of the vLLM servers that get every version
    replicas: Annotated[tuple[str, ...], NoDecode] = ()
    #: how the servers get a version: "plugin" (vLLM with factd's plugin), "lora" (plain vLLM: each version is
    #: an adapter), or "checkpoint" (any server, no URLs: a directory whose link `current` leads to the live
    #: checkpoint)
    publish: Literal["plugin", "lora", "checkpoint"] = "plugin"
    #: what happens to running requests when a version is flipped: "carry" (they keep their cache), "keep" (it
    #: is computed anew), "wait" (they end on the old weights), "abort" (they end at once); plugin mode only
    in_flight: publication.InFlight = publication.IN_FLIGHT
    #: "wait": a request that runs after so long is kept and recomputed, seconds; new requests wait meanwhile
    in_flight_seconds: float = Field(
        publication.IN_FLIGHT_SECONDS, ge=0, le=publication.IN_FLIGHT_MOST_SECONDS
    )
    #: a replica that takes longer to read, verify and flip a version counts as hung, seconds: it is taken
    #: out, and the others go on; plugin mode only
    publish_seconds: float = Field(publication.PUBLISH_SECONDS, ge=1, le=86400)
    #: a replica that takes longer to answer a question is taken out, seconds; no correction loses an attempt
    answer_seconds: float = Field(publication.ANSWER_SECONDS, ge=1, le=86400)
    #: what a server with the plugin does with requests between its start and the first publication: "wait"
    #: holds them, "refuse" answers 503 with Retry-After, "serve" answers from the unedited model
    before_live: publication.BeforeLive = "wait"
    #: "wait": a request that was held for so long is answered with 503, seconds
    before_live_seconds: float = Field(publication.BEFORE_LIVE_SECONDS, ge=0, le=86400)
    #: the replica that gets each new version first: its URL, or "first"; None: all replicas get it at once
    canary: str | None = None
    #: so long the version is watched on the canary before the other replicas get it, seconds
    canary_seconds: float = Field(60.0, ge=0, le=86400)
    #: where the modes without the plugin write; the servers must see it under the same path. STATE/published
    #: when None
    publish_dir: Path | None = None
    #: public keys, or a file of them, whose versions are accepted beside those of this state directory's own
    version_key: str = ""
    #: folder of the key that signs versions; STATE/keys when None. Servers must not be able to read it
    keys_dir: Path | None = None
    #: bearer token of the admin scope of the HTTP API, and of the replicas' publish routes
    admin_token: SecretStr | None = None
    #: bearer token of the submit scope of the HTTP API
    submit_token: SecretStr | None = None
    #: the key that vLLM's own routes ask for (`--api-key`)
    serving_api_key: SecretStr | None = None
    #: address that the HTTP API binds; with 127.0.0.1 other hosts cannot reach it
    api_host: str = "127.0.0.1"
    #: port of the HTTP API. Unless it is set, `factd up` takes a free port when this one is taken
    api_port: int = Field(8321, ge=0, le=65535)
    #: port of the vLLM server that we start; unless it is set, `factd up` takes a free port when it is taken
    serving_port: int = Field(8320, ge=0, le=65535)
    #: a file of relations of your own (TOML): `factd say` and the status page read sentences by them too
    relations: Path | None = None
    #: who reads sentences: lexicon, or served: the model is asked as well where the lexicon has no relation
    reader: Literal["lexicon", "served"] = "lexicon"
    #: a file of sources (TOML, docs/trust.md): who may post what, what is held for review; None: all is taken
    sources_file: Path | None = None
    #: what the model shall say where a feed calls a fact obsolete and names no other; "": ours is taken out
    no_answer: str = ""

    #: editing method: rome, memit, memit-seq, pmet, emmet, alphaedit, encore, nse, deltaedit, eac, rect,
    #: prune, evoedit, ultraedit, stableedit, locft, ft or lora
    method: str = "memit-seq"
    #: which layers are written: spread, boundary (BLUE), single or replay (FE); the method's own when None
    placement: str | None = None
    #: what values are scaled to: nas, nas-cap or none; the method's own choice when None
    anchor: str | None = None
    #: which dominant directions updates leave alone: revive, revive-after, crisp (locft) or none
    protect: str = "none"
    #: number format of the editor's forward passes: auto, float32 or bfloat16; auto takes bfloat16 where that
    #: is faster
    dtype: str = "auto"
    #: text file that the second moments are measured on; text sampled from the model itself when None
    corpus: Path | None = None
    #: how many tokens the second moments are measured on; None: 10 times the FFN's width. More tokens take
    #: longer, once, and unrelated text then changes less
    tokens: int | None = Field(None, ge=1)
    #: in which forms a correction is written (docs/asking.md): prompt (always), chat, questions, plain
    #: questions, paraphrases, chat paraphrases. A model without a chat template is asked nothing in chat
    forms: Annotated[tuple[Kind, ...], NoDecode] = ("prompt", "chat", "questions")
    #: in which of these a correction must be said to go live
    require_forms: Annotated[tuple[Kind, ...], NoDecode] = ("prompt", "chat")

    #: layers that a consolidation trains, some of those that the method writes; all of these when None
    consolidation_layers: Annotated[tuple[int, ...] | None, NoDecode] = None
    #: passes of a consolidation over all prompts of all facts: it takes so much longer
    consolidation_epochs: int = Field(ConsolidationNumbers.epochs, ge=1)
    #: Adam's rate in a consolidation's first step; it falls to zero
    consolidation_rate: float = Field(ConsolidationNumbers.rate, gt=0, allow_inf_nan=False)

    #: at most so many corrections are written by one solve
    batch_size: int = Field(16, ge=1, le=1000)
    #: ask the workers of the queue `values` to find values. The method's values must depend on the fact alone
    value_workers: bool = False
    #: a value worker that has begun and is silent for so long is given up, seconds
    value_workers_seconds: float = Field(120.0, gt=0)
    #: the first correction of an incomplete batch waits at most so long for others, seconds
    batch_wait_seconds: float = Field(0.2, ge=0, le=60)
    #: after so many attempts that did not finish (crash, inconclusive, failed publish) a correction is dead
    max_attempts: int = Field(3, ge=1)
    #: compactions are prepared in a process of its own, with a second copy of the model in memory
    background: bool = True
    #: pause before a held correction is tried again, seconds
    retry_seconds: float = Field(5.0, ge=0)
    #: at most so many corrections may wait; beyond that every intake answers "full" until there is room
    max_pending: int = Field(100_000, ge=1)
    #: how many requests a token may send to the HTTP API, such as "2000/second"; "" for no limit
    request_rate: Rate = "2000/second"
    #: how many corrections a token may post to the HTTP API; one request may hold as many as the whole window
    correction_rate: Rate = "100000/10 seconds"
    #: where rates are counted: memory:// in each API process alone, redis:// for several processes together
    rates_url: str = "memory://"
    #: the single-writer lease lasts so long after a heartbeat, seconds; after a crash nobody applies before
    lease_seconds: float = Field(30.0, gt=0)
    #: Redis gives a message that nobody acknowledged to another worker after so long, seconds
    visibility_timeout_seconds: int = Field(3600, ge=60)
    #: versions hold whole weights beside their factors: needed where replicas' processors add in another way
    full_tensors: bool = False
    #: each measurement asks at most so many earlier facts again
    measure_sample: int = Field(32, ge=0)
    #: other levels at which measures warn and stop a version, by name, e.g. {"probe_kl_nats_limit": 0.2}
    thresholds: dict[str, float] = Field(default_factory=dict)

    #: the guard only says what it would do, and lets every version through
    guard_dry_run: bool = False
    #: after a rollback by the guard or an alert nothing is accepted or rolled back for so long, seconds
    guard_cooldown_seconds: float = Field(60.0, ge=0)
    #: guard and alerts together may roll back so often within a day. Instead of once more the queue is paused
    guard_rollbacks: int = Field(3, ge=0)
    #: after so many inconclusive verdicts in a row the queue is paused
    guard_holds: int = Field(5, ge=1)
    #: the live version is measured again after so long, seconds; 0: never
    guard_watch_seconds: float = Field(600.0, ge=0)
    #: what the guard does where room is short: compact, or consolidate where the method can be
    guard_rewrites: Literal["compact", "consolidate"] = "compact"
    #: it does so when the forecast leaves fewer edits than this; 0: never for that reason. Before a
    #: consolidation it adds the edits that will come meanwhile
    guard_compact_edits: int = Field(50, ge=0)
    #: it does so at most once in so many versions
    guard_compact_versions: int = Field(20, ge=1)

    @field_validator("replicas", "forms", "require_forms", "consolidation_layers", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            text = value.strip()
            parts = json.loads(text) if text.startswith("[") else text.split(",")
            if all(isinstance(part, str) for part in parts):
                return tuple(part.strip().rstrip("/") for part in parts if part.strip())
            return parts  # pydantic names the part that is no text
        return value

    @field_validator("admin_token", "submit_token", "serving_api_key")
    @classmethod
    def _given(cls, value: SecretStr | None) -> SecretStr | None:
        # A request without a token carries the empty one. An empty setting would let everybody in.
        return value if value is not None and value.get_secret_value().strip() else None

    @field_validator("forms", "require_forms")
    @classmethod
    def _with_prompt(cls, value: tuple[Kind, ...]) -> tuple[Kind, ...]:
        if "prompt" not in value:
            raise ValueError("lacks prompt; a correction is always asked by its prompt")
        return value

    @field_validator("thresholds")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        known = Thresholds().as_settings()
        for name, number in value.items():
            if name not in known:
                raise ValueError(f"{name!r} is none of {', '.join(sorted(known))}")
            if math.isnan(number):  # no number exceeds NaN: the guard would be off unnoticed
                raise ValueError(f"{name} is NaN; give a number")
        return value

    @field_validator("canary")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        # written as the names of replicas are; "" in an environment file means none
        return value.strip().rstrip("/") or None if value else None

    @field_validator("name")
    @classmethod
    def _own_name(cls, value: str, info: ValidationInfo) -> str:
        if not PATTERN.fullmatch(value):
            raise ValueError(
                "is no name; use at most 40 small letters, digits, - and _, a letter or digit first"
            )
        # Two models in one ledger would be one model.
        if value and info.data.get("state_dir") == cls._absolute(DEFAULT_STATE_DIR):
            raise ValueError("needs a state directory of its own; set FACTD_STATE_DIR")
        return value

    @field_validator("state_dir", "statistics_dir", "publish_dir", "keys_dir", "relations", "sources_file")
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
    def keys(self) -> Path:
        return self.keys_dir or self.state_dir / "keys"

    @property
    def ledger_url(self) -> str:
        # Quoted: SQLAlchemy reads % and ? as signs of its own; daemon.core cannot import its `URL.create`.
        return self.database_url or f"sqlite:///{quote(str(self.ledger_file), safe='/')}"

    @property
    def ledger_file(self) -> Path:
        """Where the ledger is unless `database_url` names another place."""
        return self.state_dir / "ledger.sqlite3"

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
    return "\n".join(
        f"FACTD_{'_'.join(map(str, item['loc'])).upper()} = {str(item['input'])[:80]!r}: {item['msg']}"
        for item in error.errors()
    )
