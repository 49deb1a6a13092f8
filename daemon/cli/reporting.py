"""Errors as users see them: a message on stderr, JSON on stdout where it is asked for, an exit code."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from difflib import get_close_matches

from redis.exceptions import RedisError
from sqlalchemy.exc import OperationalError as DatabaseError

from daemon.cli.exits import CommandError, Exit, fail
from daemon.core.errors import SettingsError

#: At most so many ids are suggested for an unknown one.
SUGGESTIONS = 3


def nearest(id: str, known: Iterable[str]) -> str:
    """What to do about an unknown id: names the ids that begin with it, or that look like it."""
    names = list(known)
    begin = [name for name in names if id and name.startswith(id)]
    close = begin or get_close_matches(id, names, SUGGESTIONS)
    if close:
        return f"did you mean {' or '.join(close[:SUGGESTIONS])}?"
    return "`factd facts` and `factd versions` list what there is"


@contextmanager
def reported(as_json: bool) -> Generator[None]:
    """Turns the errors of the daemon into messages and exit codes."""
    try:
        yield
    except CommandError as error:
        fail(error, as_json)
    except SettingsError as error:
        fail(CommandError(Exit.BAD_INPUT, str(error), "docs/settings.md says what each takes"), as_json)
    except (RedisError, ConnectionRefusedError) as error:
        fail(_unavailable(f"the broker does not answer: {error}"), as_json)
    except DatabaseError as error:
        fail(_unavailable(f"the ledger cannot be read: {error.orig}"), as_json)


def _unavailable(what: str) -> CommandError:
    return CommandError(Exit.UNAVAILABLE, what, "run `factd doctor`")
