"""Which posts repeat an earlier one: what is known of their ids and idempotency keys."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import BindParameter, Connection, Select, bindparam, select

from daemon.core.errors import ConflictError
from daemon.core.messages import Correction
from daemon.ledger.reading import chunks
from daemon.ledger.tables import aliases, corrections

_NAMES: BindParameter[str] = bindparam("names", expanding=True)
_table = corrections.c
_BY_ID = select(_table.id, _table.id, _table.content_hash).where(_table.id.in_(_NAMES))
_BY_KEY = select(_table.key, _table.id, _table.content_hash).where(_table.key.in_(_NAMES))
_BY_ALIAS = (
    select(aliases.c.id, _table.id, _table.content_hash)
    .join_from(aliases, corrections)
    .where(aliases.c.id.in_(_NAMES))
)


class Known:
    """Ids and keys in use, each with the correction that it stands for; grows with the posts of a batch.

    Asks a few questions for all posts together, so that a bulk post is not slowed down by one a post.
    """

    def __init__(self, c: Connection, ids: Sequence[str], keys: Sequence[str]) -> None:
        self._ids = dict(_found(c, _BY_ID, ids)) | dict(_found(c, _BY_ALIAS, ids))
        self._keys = dict(_found(c, _BY_KEY, keys))

    def first(self, id: str, correction: Correction, content_hash: str) -> tuple[str | None, bool]:
        """Id of the correction that this post repeats, or None; and whether `id` itself is new.

        Raises:
            ConflictError: the id or the key stands for other content.
        """
        by_id = self._same("id", id, self._ids.get(id), content_hash)
        if by_id is not None or correction.key is None:
            return by_id, by_id is None
        return self._same("key", correction.key, self._keys.get(correction.key), content_hash), True

    @staticmethod
    def _same(field: str, value: str, found: tuple[str, str] | None, content_hash: str) -> str | None:
        if found is None:
            return None
        first, its_hash = found
        if its_hash != content_hash:
            raise ConflictError(field, value, first)
        return first

    def add(self, id: str, key: str | None, first: str, content_hash: str) -> None:
        """`id` is the correction `first` itself, or another name of it."""
        self._ids[id] = first, content_hash
        if key is not None:
            self._keys[key] = first, content_hash


def of_keys(c: Connection, keys: Sequence[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """(key, (id of its correction, hash of the content)) of the keys that are in use."""
    return _found(c, _BY_KEY, keys)


def _found(
    c: Connection, query: Select[Any, Any, Any], values: Sequence[str]
) -> Iterator[tuple[str, tuple[str, str]]]:
    for chunk in chunks(values):
        for row in c.execute(query, {"names": chunk}):
            yield row[0], (row[1], row[2])
