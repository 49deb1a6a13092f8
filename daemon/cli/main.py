"""The command line `factd`. Heavy imports happen inside commands, so that help and errors are quick."""

import sys

import typer

from daemon.cli import audit, blame, dead, diff, export, ledger, plot, post, services, tail
from daemon.cli.bench import measures as bench
from daemon.cli.output import EPILOG, Exit

app = typer.Typer(
    name="factd",
    help="Keeps the facts of a served language model current.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (services, post, ledger, blame, dead, tail, plot, audit, diff, export, bench):
    module.register(app)


def main() -> None:
    """Entry point of the console script."""
    from daemon.core.errors import DaemonError, SettingsError
    from daemon.supervise.processes import ProcessError

    try:
        app()
    except SettingsError as error:
        sys.stderr.write(f"error: {error}\n  next: docs/settings.md says what each takes\n")
        sys.exit(int(Exit.BAD_INPUT))
    except (DaemonError, ProcessError) as error:
        sys.stderr.write(f"error: {error}\n  next: run `factd doctor`\n")
        sys.exit(int(Exit.FAILED))
