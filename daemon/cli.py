"""The command line `factd`. Heavy imports happen inside commands, so that help and errors are quick."""

import sys

import typer

from daemon import (
    cli_audit,
    cli_bench,
    cli_blame,
    cli_dead,
    cli_diff,
    cli_export,
    cli_ledger,
    cli_plot,
    cli_post,
    cli_services,
    cli_tail,
)
from daemon.cli_output import EPILOG, Exit

app = typer.Typer(
    name="factd",
    help="Keeps the facts of a served language model current.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (
    cli_services,
    cli_post,
    cli_ledger,
    cli_blame,
    cli_dead,
    cli_tail,
    cli_plot,
    cli_audit,
    cli_diff,
    cli_export,
    cli_bench,
):
    module.register(app)


def main() -> None:
    """Entry point of the console script."""
    from daemon.errors import DaemonError, SettingsError
    from daemon.processes import ProcessError

    try:
        app()
    except SettingsError as error:
        sys.stderr.write(f"error: {error}\n  next: docs/settings.md says what each takes\n")
        sys.exit(int(Exit.BAD_INPUT))
    except (DaemonError, ProcessError) as error:
        sys.stderr.write(f"error: {error}\n  next: run `factd doctor`\n")
        sys.exit(int(Exit.FAILED))
