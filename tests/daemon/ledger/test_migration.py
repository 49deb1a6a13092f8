"""A ledger of any age is brought to today's tables, or left alone."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from daemon.core.errors import LedgerVersionError
from daemon.core.messages import parse_correction
from daemon.ledger.audit import audit
from daemon.ledger.database import open_engine
from daemon.ledger.ledger import Ledger
from daemon.ledger.migration import FIRST, NEWEST, SCRIPTS, migrate, upgrade
from daemon.ledger.tables import metadata
from monitoring.durations import LABELS

#: `sqlite3 ledger.sqlite3 .dump` of a ledger that factd 0.1.0 wrote: three corrections (one dead, one
#: waiting, one refused), an alias, an operation, a discarded version
OLD = Path(__file__).parent / "ledger_0_1_0.sql"


@pytest.fixture
def engine(either_database):
    made = open_engine(either_database)
    yield made
    made.dispose()


def test_the_scripts_make_exactly_the_tables_of_this_code(engine):
    migrate(engine)
    with engine.connect() as c:
        context = MigrationContext.configure(c, opts={"compare_type": True})
        found = compare_metadata(context, metadata)
        if c.dialect.name == "sqlite":
            # SQLAlchemy does not read back from SQLite that a column of an index descends.
            made = c.scalar(text("SELECT sql FROM sqlite_master WHERE name = 'corrections_queue'"))
            assert made.endswith("(state, priority DESC, seq)")
            found = [one for one in found if one[1].name != "corrections_queue"]
        assert found == []
        assert context.get_current_revision() == NEWEST
    scripts = ScriptDirectory(str(SCRIPTS), version_locations=[str(SCRIPTS)])
    assert scripts.get_heads() == [NEWEST]
    assert scripts.get_bases() == [FIRST]


def test_a_ledger_of_0_1_0_is_stamped_chained_and_loses_nothing(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    old = sqlite3.connect(path)
    old.executescript(OLD.read_text())
    tables = ("corrections", "aliases", "transitions", "versions", "operations", "lease")
    columns = {
        table: [name for _, name, *_ in old.execute(f"PRAGMA table_info({table})")] for table in tables
    }
    asked = {table: f"SELECT {', '.join(columns[table])} FROM {table}" for table in tables}
    before = {table: old.execute(asked[table]).fetchall() for table in tables}
    old.close()
    ledger = Ledger.open(f"sqlite:///{path}")
    with ledger.database.engine.connect() as c:
        after = {table: [tuple(row) for row in c.execute(text(asked[table]))] for table in tables}
        hashes = list(c.scalars(text("SELECT hash FROM transitions ORDER BY seq")))
    assert after == before
    assert len(set(hashes)) == 11
    found = audit(ledger.database.engine)
    assert (found.valid, found.rows, found.head.hash) == (True, 11, hashes[-1])
    ledger.intake.submit(parse_correction({"subject": "A", "prompt": "{} is", "target": "b"}))
    ledger.intake.decide_dead("retry", ["two"], actor="operator:ann")
    assert audit(ledger.database.engine).rows == 15
    assert audit(ledger.database.engine).valid
    ledger.close()


def test_rows_written_before_the_chain_are_chained_on_either_database(engine):
    with engine.connect().execution_options(factd_write=True) as c, c.begin():
        upgrade(c, FIRST)
        c.execute(text("DROP TABLE alembic_version"))
        for seq, id in [(3, "ü"), (7, "b")]:  # a sequence of PostgreSQL leaves gaps
            c.execute(
                text(
                    "INSERT INTO transitions (seq, kind, id, new, at, actor)"
                    f" VALUES ({seq}, 'guard', '{id}', 'pause', 1000.1, 'guard')"
                )
            )
    migrate(engine)
    found = audit(engine)
    assert (found.valid, found.rows, found.head.seq) == (True, 2, 7)


def test_a_newer_ledger_is_refused_and_left_as_it_is(engine, either_database):
    migrate(engine)
    with engine.begin() as c:
        c.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LedgerVersionError, match=f"revision '9999', this factd knows .* '{NEWEST}'; install"):
        Ledger.open(either_database)
    with engine.connect() as c:
        assert c.scalar(text("SELECT version_num FROM alembic_version")) == "9999"


def test_a_migration_that_fails_leaves_nothing_behind(engine):
    with engine.connect().execution_options(factd_write=True) as c:
        transaction = c.begin()
        upgrade(c)
        transaction.rollback()
    with engine.connect() as c:
        assert inspect(c).get_table_names() == []


def test_many_may_open_an_empty_ledger_at_once(either_database):
    def opened(_):
        ledger = Ledger.open(either_database)
        with ledger.database.engine.connect() as c:
            revisions = list(c.scalars(text("SELECT version_num FROM alembic_version")))
        ledger.close()
        return revisions

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(opened, range(4))) == [[NEWEST]] * 4


def test_reasons_of_old_rows_are_read_from_their_sentences_once(engine, either_database):
    with engine.connect().execution_options(factd_write=True) as c, c.begin():
        upgrade(c, "0002")
        told = {
            "v000001": "publish failed: gone",
            "v000002": "canary failed: slow",
            "v000003": "worn",
        }
        for seq, (id, reason) in enumerate(told.items(), start=1):
            c.execute(
                text(
                    "INSERT INTO versions (id, state, added, removed, attempts, fence, created_at, reason)"
                    f" VALUES ('{id}', 'discarded', '[]', '[]', 1, 1, 0.0, '{reason}')"
                )
            )
            c.execute(
                text(
                    "INSERT INTO transitions (seq, kind, id, old, new, at, reason, actor)"
                    f" VALUES ({seq}, 'version', '{id}', 'planned', 'discarded', 1.0, '{reason}', 'applier')"
                )
            )
        for actor in ("operator:ann", "alert:3f@2026-01-01", "guard", "somebody"):
            c.execute(
                text(
                    "INSERT INTO operations (kind, target, actor, state, attempts, created_at)"
                    f" VALUES ('rollback', 'v000000', '{actor}', 'done', 1, 0.0)"
                )
            )
    ledger = Ledger.open(either_database)
    assert [row.code for row in ledger.questions.versions()] == ["publish_failed", "canary_failed", None]
    kinds = [row.actor_kind for row in ledger.questions.operations()]
    assert kinds == ["operator", "alert", "guard", "operator"]
    rollbacks = {"operator": 2, "alert": 1, "guard": 1, "publish_failed": 1, "canary_failed": 1}
    assert ledger.questions.status().rollbacks == rollbacks
    ledger.close()


def test_totals_of_old_durations_have_the_bounds_of_new_ones():
    scripts = ScriptDirectory(str(SCRIPTS), version_locations=[str(SCRIPTS)])
    assert (*scripts.get_revision("0003").module.BOUNDS, "+Inf") == LABELS
