"""The ledger as commands open it, and the doorbell that they ring after a request."""

from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from daemon.cli.exits import CommandError, Exit
from daemon.cli.output import tell
from daemon.cli.reporting import nearest, reported
from daemon.core.errors import FourEyesError, TransitionError, UnknownIdError
from daemon.core.settings import Settings
from daemon.intake.doorbell import Doorbell
from daemon.ledger.ledger import Ledger
from daemon.supervise.running import settings_for


@contextmanager
def open_ledger(state: Path | None, as_json: bool) -> Generator[tuple[Settings, Ledger]]:
    """The settings and the ledger of a state directory; errors end the command with their exit code."""
    with reported(as_json):
        settings = settings_for(state)
        if settings.database_url is None and not (settings.state_dir / "ledger.sqlite3").exists():
            what = f"there is no ledger in {settings.state_dir}"
            mend = "start `factd up`, or set FACTD_STATE_DIR (or give --state) to the folder of one that ran"
            raise CommandError(Exit.UNAVAILABLE, what, mend)
        ledger = Ledger.open(settings.ledger_url)
        try:
            yield settings, ledger
        except UnknownIdError as error:
            rows = ledger.questions.versions() if error.kind == "version" else ledger.questions.corrections()
            what = f"there is no {error.kind} {error.id!r}"
            raise CommandError(Exit.NOT_FOUND, what, nearest(error.id, (row.id for row in rows))) from None
        except FourEyesError as error:
            mend = "somebody else approves it: another user here, or another token over HTTP"
            raise CommandError(Exit.HELD, str(error), mend) from None
        except TransitionError as error:
            raise CommandError(Exit.BAD_INPUT, str(error), "nothing was changed") from None
        finally:
            ledger.close()


def ring_doorbell(settings: Settings) -> None:
    """Wakes the applier. It is no error that the broker is away: the request is in the ledger already."""
    with closing(Doorbell.of(settings.redis_url, settings.names, _note)) as doorbell:
        doorbell.ring()


def _note(text: str) -> None:
    tell(f"note: {text}")
