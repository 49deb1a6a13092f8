"""`factd demo`: the command."""

from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.demo.demo import run_demo
from daemon.cli.exits import CommandError, Exit, fail
from daemon.cli.options import ModelOption, StateOption, settings_of
from daemon.cli.run.signals import terminate_like_interrupt
from daemon.supervise.processes import ProcessError


def demo(
    state: StateOption = None,
    model: ModelOption = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to this file.")] = None,
) -> None:
    """Show the main job end to end on embedded services; exit 0 only if every step was observed."""
    terminate_like_interrupt()
    try:
        ok = run_demo(settings_of(state_dir=state, model=model), json_file)
    except ProcessError as error:
        fail(CommandError(Exit.UNAVAILABLE, str(error), "run `factd doctor`"), False)
    except KeyboardInterrupt:
        raise typer.Exit(int(Exit.FAILED)) from None
    raise typer.Exit(int(Exit.OK if ok else Exit.FAILED))
