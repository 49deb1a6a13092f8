"""`factd export`: a version as a checkpoint that any tool of the Hugging Face world loads."""

from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.exits import CommandError, Exit
from daemon.cli.options import JsonOption, ModelOption, StateOption
from daemon.cli.output import progress, show_json, show_table
from daemon.cli.reporting import reported
from daemon.cli.store import opened
from daemon.core.errors import ExportError, StoreError
from daemon.supervise.running import settings_for
from daemon.versions.export import export as exported
from editing.errors import EditError


def export(
    version: Annotated[str, typer.Argument(help="e.g. v000012; v000000 is the base.")],
    directory: Annotated[Path, typer.Argument(help="Where to; must not exist, or be empty.")],
    model: ModelOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version as a merged Hugging Face checkpoint."""
    with reported(as_json):
        settings = settings_for(state, model=model)
        outline, store = opened(settings, version)
        try:
            with progress() as show:
                about = exported(outline, store, version, directory, show)
        except ExportError as error:
            raise CommandError(Exit.BAD_INPUT, str(error), "nothing was written") from None
        except (StoreError, EditError, OSError) as error:
            raise CommandError(Exit.FAILED, str(error), "nothing was written") from None
    view = {"directory": str(directory.absolute()), **about}
    if as_json:
        show_json(view)
        return
    rows = [(name, view[name]) for name in ("directory", "version", "base", "base_hash", "checkpoint_hash")]
    show_table("Exported", ("", ""), [*rows, ("corrections", len(view["corrections"]))])
