"""The chain of transitions: nothing of it can be changed, taken out or cut off unseen."""

import contextlib
import hashlib
import sqlite3
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from daemon.core.messages import parse_correction
from daemon.ledger.audit import audit
from daemon.ledger.chain import CONTENT, GENESIS, Head, extend, link
from daemon.ledger.ledger import Ledger

GOOD = {"subject": "Türkiye", "prompt": "The capital of {} is", "target": "İzmir", "source": "a\u00a0b"}
TRIGGERS = {
    "sqlite": [f"DROP TRIGGER transitions_{name}" for name in ("update", "delete", "replace")],
    "postgresql": ["DROP TRIGGER transitions_append_only ON transitions"],
}


@pytest.fixture
def database_url(either_database):
    return either_database


def fill(ledger):
    ledger.intake.submit(parse_correction(GOOD), "one")
    ledger.intake.refuse("bad", "target = 'ü': must be text")
    ledger.intake.request("pause", actor="operator:ann", why="lunch")


def tamper(engine, *statements):
    with engine.begin() as c:
        for statement in [*TRIGGERS[engine.dialect.name], *statements]:
            c.exec_driver_sql(statement)


def test_a_link_is_made_as_it_is_written_down():
    row = {"seq": 1, "kind": "correction", "id": "ü", "old": None, "new": "received"}
    row |= {"at": 1000.5, "reason": 'a "b"', "actor": "http"}
    content = (
        '{"actor":"http","at":1000.5,"id":"\\u00fc","kind":"correction","new":"received",'
        '"old":null,"reason":"a \\"b\\"","seq":1}'
    )
    expected = hashlib.sha256(f"{'0' * 64}\n{content}".encode()).hexdigest()
    assert link(GENESIS, row) == expected
    del row["seq"]
    assert extend(Head(), [row]) == ([row | {"seq": 1, "hash": expected}], Head(1, expected))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE transitions SET reason = 'lunch' WHERE seq = 2",
        "DELETE FROM transitions WHERE seq = 5",
        "DELETE FROM transitions",
        "TRUNCATE transitions",
        "INSERT OR REPLACE INTO transitions SELECT * FROM transitions WHERE seq = 2",
        "INSERT INTO transitions SELECT * FROM transitions WHERE seq = 2"
        " ON CONFLICT (seq) DO UPDATE SET reason = 'lunch'",
    ],
)
def test_the_database_refuses_to_change_what_was_written(world, statement):
    fill(world.ledger)
    before = audit(world.ledger.database.engine)
    with pytest.raises(DBAPIError), world.ledger.database.engine.begin() as c:
        c.execute(text(statement))
    assert audit(world.ledger.database.engine) == before
    assert before.valid
    assert before.rows == 5


@pytest.mark.parametrize(
    ("statement", "seq"),
    [
        ("UPDATE transitions SET actor = 'submiT' WHERE seq = 2", 2),
        ("UPDATE transitions SET at = at + 0.0000001 WHERE seq = 5", 5),
        ("UPDATE transitions SET reason = NULL WHERE seq = 4", 4),
        ("UPDATE transitions SET seq = 9 WHERE seq = 5", 9),
        ("DELETE FROM transitions WHERE seq = 1", 2),
        ("DELETE FROM transitions WHERE seq = 3", 4),
        ("DELETE FROM transitions WHERE seq = 5", 5),
        ("DELETE FROM transitions", 1),
        ("UPDATE control SET value = NULL WHERE name = 'head'", 5),
    ],
)
def test_the_audit_names_the_first_broken_row(world, statement, seq):
    fill(world.ledger)
    tamper(world.ledger.database.engine, statement)
    found = audit(world.ledger.database.engine)
    assert not found.valid
    assert found.broken.seq == seq


@pytest.mark.parametrize(
    ("table", "id", "told"),
    [("corrections", "one", "validated"), ("corrections", "bad", "rejected"), ("operations", "1", "pending")],
)
def test_a_state_that_the_chain_does_not_tell_is_found(world, table, id, told):
    fill(world.ledger)
    with world.ledger.database.engine.begin() as c:
        c.exec_driver_sql(f"UPDATE {table} SET state = 'live' WHERE id = '{id}'")
    found = audit(world.ledger.database.engine)
    assert found.broken is None
    assert [(stray.id, stray.state, stray.chained) for stray in found.strays] == [(id, "live", told)]


def altered(value, place, flip):
    """The stored bytes of a value with one of them changed; what was NULL or empty becomes that byte."""
    if isinstance(value, float):
        raw = bytearray(struct.pack("<d", value))
        raw[place % 8] ^= flip
        return "?", struct.unpack("<d", raw)[0]
    if isinstance(value, int):
        return "?", value ^ (flip << 8 * (place % 3))
    raw = bytearray((value or "\x00").encode())
    raw[place % len(raw)] ^= flip
    return "CAST(? AS TEXT)", bytes(raw)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("chain") / "ledger.sqlite3"
    ledger = Ledger.open(f"sqlite:///{path}")
    fill(ledger)
    tamper(ledger.database.engine)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA synchronous=OFF")  # nothing here is to outlive a power cut
        yield raw, ledger.database.engine
    ledger.close()


@settings(max_examples=100, deadline=None)
@given(
    seq=st.integers(1, 5),
    column=st.sampled_from([*CONTENT, "hash"]),
    place=st.integers(0, 80),
    flip=st.integers(1, 255),
)
def test_any_changed_byte_of_any_row_is_found(written, seq, column, place, flip):
    raw, engine = written
    old = raw.execute(f'SELECT "{column}" FROM transitions WHERE seq = ?', [seq]).fetchone()[0]
    where, new = altered(old, place, flip)
    changed = new if column == "seq" else seq
    with contextlib.suppress(sqlite3.IntegrityError):  # a number that another row has cannot be taken
        raw.execute(f'UPDATE transitions SET "{column}" = {where} WHERE seq = ?', [new, seq])
        try:
            found = audit(engine)
        finally:
            raw.execute(f'UPDATE transitions SET "{column}" = ? WHERE seq = ?', [old, changed])
        assert found.broken is not None
        assert column == "seq" or found.broken.seq == seq
    assert audit(engine).valid
