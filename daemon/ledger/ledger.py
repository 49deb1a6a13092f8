"""The ledger: the durable record of corrections, versions and operations, and the only truth.

Three parts hold the one database, and none can do another's work: `Questions` reads, `Intake` takes
corrections and requests, and `daemon.ledger.journal.Journal` is what the holder of the lease writes. Every
change of state is a row of `transitions`, committed together with the change.
"""

import time
from collections.abc import Callable

from daemon.ledger.database import Database
from daemon.ledger.intake import Intake
from daemon.ledger.questions import Questions


class Ledger:
    """One database with what every process may do to it; many processes may hold it open."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.questions, self.intake = Questions(database), Intake(database)

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
