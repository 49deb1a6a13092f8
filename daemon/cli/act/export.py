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
from daemon.core.settings import Settings
from daemon.supervise.running import settings_for
from daemon.versions.export import export as exported
from editing.errors import EditError
from editing.methods import named
from editing.methods.published import parameters
from editing.model.loaded import LoadedModel


def export(
    version: Annotated[str, typer.Argument(help="e.g. v000012; v000000 is the base.")],
    directory: Annotated[Path, typer.Argument(help="Where to; must not exist, or be empty.")],
    quantised: Annotated[
        bool,
        typer.Option(
            "--quantised",
            help="For a server: int8 (compressed-tensors W8A8), but for what is edited. "
            "Of v000000, versions are published to it live.",
        ),
    ] = False,
    model: ModelOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version as a merged Hugging Face checkpoint."""
    with reported(as_json):
        settings = settings_for(state, model=model)
        outline, store = opened(settings, version)
        try:
            floating = _edited(outline, settings) if quantised else None
            with progress() as show:
                about = exported(outline, store, version, directory, show, floating)
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


def _edited(model: LoadedModel, settings: Settings) -> list[str]:
    """Names of the weights that the method of these settings writes."""
    placement = named(settings.method).combined(settings.method, settings.placement, None, settings.protect)[
        0
    ]
    return [model.tensor_name(layer) for layer in parameters(settings.method, model, placement).layers]
