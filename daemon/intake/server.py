"""Calls to a Redis or Valkey server, with types: the client ships these partly without."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from typing import Any

from redis import Redis
from redis.client import Pipeline


def connect(url: str, seconds: float) -> Redis:
    """A client that gives up after so many seconds without an answer; it connects when it is first asked.

    Raises:
        ValueError: the URL is not one of a Redis or Valkey server.
    """
    return Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds)


def transaction(client: Redis) -> Pipeline:
    """Commands that are carried out together or not at all."""
    return client.pipeline(transaction=True)


def policy_and_clock(url: str, seconds: float) -> tuple[str, float]:
    """What a server does when its memory is full, and its time in seconds since the epoch.

    Raises:
        RedisError, OSError: no server answers.
        ValueError: the URL is not one of a Redis or Valkey server.
    """
    client = connect(url, seconds)
    client.ping()
    kept: Any = client.config_get("maxmemory-policy")
    told: Any = client.time()
    client.close()
    whole, microseconds = told
    return kept.get("maxmemory-policy", "noeviction"), whole + microseconds / 1e6
