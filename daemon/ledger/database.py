"""The owner of the database under the ledger: SQLite by default, PostgreSQL by URL.

The ledger asks one thing of both databases: at any time one transaction may write, and no other. The hash
chain is a sequence, so its writers queue anyway. They queue at the start of the transaction, so what a
writer reads stays true until it commits, and no caller needs a retry. On PostgreSQL the queue is an
advisory lock. The lock needs no table, so migrations take it too. With SERIALIZABLE instead, nearly every
two writers would collide at the head of the chain and one would have to begin anew. The numbers of a
sequence are drawn under the lock too: their order is the order of the commits. A rollback leaves a gap,
which means nothing.
"""

import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from daemon.core.errors import SettingsError
from daemon.ledger.migration import migrate

#: a writer waits so long for another process's transaction, seconds; ours take milliseconds
BUSY_SECONDS = 30
#: key of the advisory lock that every writing transaction takes: "factd" in ASCII
WRITE_LOCK = 0x6661637464


class Database:
    """The one owner of the connections and of the clock; intake, journal and questions hold it."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine, self.clock = engine, clock

    @classmethod
    def open(cls, url: str, clock: Callable[[], float] = time.time) -> "Database":
        """Opens the database at a SQLAlchemy URL; makes or changes its tables where needed.

        Raises:
            SettingsError: the URL cannot be used.
            LedgerVersionError: a newer factd has changed the ledger.
        """
        engine = open_engine(url)
        try:
            migrate(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, clock)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Generator[Connection]:
        """A connection that sees one state of the ledger, however long it reads."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Generator[Connection]:
        """The transaction that may write; committed at the end, undone by an exception."""
        with self.engine.connect().execution_options(factd_write=True) as connection, connection.begin():
            yield connection


def open_engine(url: str) -> Engine:
    """The engine for a SQLAlchemy URL. SQLite is set to lose nothing at a power cut.

    Raises:
        SettingsError: the URL cannot be used.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            # Reads see one snapshot from their first statement on, as SQLite's do. The ping replaces
            # connections that a restart of the server has cut.
            options = {"isolation_level": "REPEATABLE READ", "pool_pre_ping": True}
            engine = create_engine(parsed.set(drivername="postgresql+psycopg"), **options)
            event.listen(engine, "connect", _postgresql_costs)
            event.listen(engine, "begin", _postgresql_begin)
            return engine
    except ArgumentError as error:
        raise SettingsError(f"FACTD_DATABASE_URL is no database URL: {error}") from None
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise SettingsError(
            f"FACTD_DATABASE_URL needs a driver that is missing ({error}); install factd[postgres]"
        ) from None
    if parsed.get_backend_name() != "sqlite":
        raise SettingsError(
            f"FACTD_DATABASE_URL names {parsed.get_backend_name()}; use sqlite:///FILE or postgresql://…"
        )
    if not parsed.database or parsed.database == ":memory:":
        raise SettingsError("FACTD_DATABASE_URL names no file; the ledger must outlive the process")
    engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _sqlite_pragmas)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _writes(connection: Connection) -> bool:
    return connection.get_execution_options().get("factd_write", False)


def _sqlite_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # the driver must not open transactions of its own
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")  # readers never block the writer
    cursor.execute("PRAGMA synchronous=FULL")  # a commit that returned survives a power cut
    cursor.execute("PRAGMA wal_autocheckpoint=4000")  # pages; each checkpoint holds a commit up
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    # IMMEDIATE takes the write lock at once: a read that later turns into a write could fail as "busy".
    connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes(connection) else "BEGIN")


def _postgresql_costs(connection: DBAPIConnection, _record: object) -> None:
    # By default a page read through an index counts four times a page of a scan, as on a disk that turns.
    # Then a question about 1,000 of 100,000 rows reads them all.
    cursor = connection.cursor()
    cursor.execute("SET random_page_cost = 1.1")
    cursor.close()
    connection.commit()


def _postgresql_begin(connection: Connection) -> None:
    if not _writes(connection):
        return
    connection.exec_driver_sql(
        # Each statement after the lock sees all that was committed before it was granted.
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;"
        f"SET LOCAL lock_timeout = '{BUSY_SECONDS}s';"
        # A stopped process must not keep the others from the ledger for ever.
        f"SET LOCAL idle_in_transaction_session_timeout = '{BUSY_SECONDS}s';"
        f"SELECT pg_advisory_xact_lock({WRITE_LOCK})"
    )
