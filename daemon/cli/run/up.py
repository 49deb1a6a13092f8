"""`factd up`: all services of one host in the foreground."""

import time
from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.exits import CommandError, Exit
from daemon.cli.options import JsonOption, ModelOption, StateOption, settings_of
from daemon.cli.output import console, show_json, show_table
from daemon.cli.reporting import reported
from daemon.cli.run.signals import terminate_like_interrupt
from daemon.supervise.processes import ProcessError
from daemon.supervise.up import Up


def up(
    model: ModelOption = None,
    state: StateOption = None,
    ready_file: Annotated[Path | None, typer.Option(help="Written (JSON) when everything answers.")] = None,
    as_json: JsonOption = False,
    vllm_arguments: Annotated[
        list[str] | None, typer.Argument(help="After --: vLLM's own arguments; they win over factd's.")
    ] = None,
) -> None:
    """Run all services in the foreground until Ctrl-C."""
    if ready_file is not None:
        ready_file.unlink(missing_ok=True)
    terminate_like_interrupt()
    out = console()
    with (
        reported(as_json),
        Up(
            settings_of(state_dir=state, model=model),
            lambda text: out.print(f"factd: {text}"),
            vllm_arguments or (),
        ) as services,
    ):
        try:
            services.start()
            services.wait_until_ready(ready_file)
            if as_json:
                show_json(services.describe())
            else:
                described = services.describe()
                rows = [
                    (name, described[name]) for name in ("api_url", "vllm_url", "state_dir", "tokens_file")
                ]
                show_table("factd is up; Ctrl-C stops it", ("", ""), rows)
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            out.print("factd: stopping")
        except ProcessError as error:
            raise CommandError(Exit.UNAVAILABLE, str(error), "run `factd doctor`") from None
