"""The ledger: the durable record of corrections, versions and operations, and the only truth.

Four parts hold the one database, and none can do another's work: `Questions` reads, `Intake` takes
corrections and requests, `Reviews` decides about held ones, and `daemon.ledger.journal.Journal` is what the
holder of the lease writes. Every change of state is a row of `transitions`, committed with the change.
"""

import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import make_url

from daemon.core.errors import LedgerGoneError
from daemon.core.settings import Settings
from daemon.ledger.database import Database
from daemon.ledger.intake import Intake
from daemon.ledger.questions import Questions
from daemon.ledger.record.reviews import Reviews


class Ledger:
    """One database with what every process may do to it; many processes may hold it open."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.questions, self.intake = Questions(database), Intake(database)
        self.reviews = Reviews(database)

    @classmethod
    def of(cls, settings: Settings) -> "Ledger":
        """The ledger of these settings, as a process that goes on with it opens it.

        Raises:
            LedgerGoneError: it must be there, and is not.
            SettingsError, LedgerVersionError: see `open`.
        """
        file = make_url(settings.ledger_url)
        if settings.ledger_exists and file.get_backend_name() == "sqlite" and not _there(file.database):
            raise LedgerGoneError(str(file.database), "was deleted")
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        return cls.open(settings.ledger_url)

    @classmethod
    def open(cls, url: str, clock: Callable[[], float] = time.time) -> "Ledger":
        """Opens the database at a SQLAlchemy URL; makes or changes its tables where needed.

        Raises:
            SettingsError: the URL cannot be used.
            LedgerVersionError: a newer factd has changed the ledger.
        """
        return cls(Database.open(url, clock))

    def close(self) -> None:
        self.database.close()


def _there(file: str | None) -> bool:
    return bool(file) and Path(file).exists()
