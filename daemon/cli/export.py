"""`factd export`: a version as a checkpoint that any tool of the Hugging Face world loads."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.options import JsonOption, ModelOption, StateOption
from daemon.cli.output import EPILOG, CommandError, Exit, progress, reported, show_json, show_table

if TYPE_CHECKING:
    from daemon.core.settings import Settings
    from daemon.versions.store import Store
    from editing.model.loaded import LoadedModel


def register(app: typer.Typer) -> None:
    app.command(epilog=EPILOG)(export)


def export(
    version: Annotated[str, typer.Argument(help="e.g. v000012; v000000 is the base.")],
    directory: Annotated[Path, typer.Argument(help="Where to; must not exist, or be empty.")],
    model: ModelOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version as a merged Hugging Face checkpoint."""
    from daemon.core.errors import ExportError, StoreError
    from daemon.supervise.up import settings_for
    from daemon.versions.export import export as exported
    from editing.errors import EditError

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


def opened(settings: "Settings", *versions: str) -> "tuple[LoadedModel, Store]":
    """The base model's outline and the store, after the versions were found in it.

    Raises:
        CommandError: the model cannot be used, or a version is not there.
    """
    from daemon.core.errors import StoreError
    from daemon.core.publication import BASE_VERSION
    from daemon.versions.store import Store
    from editing.errors import EditError
    from editing.model.loaded import outlined_model

    store = Store(settings.store_dir)
    for version in versions:
        try:
            missing = version != BASE_VERSION and not store.path(version).is_dir()
        except StoreError as error:
            raise CommandError(Exit.BAD_INPUT, str(error), "`factd versions` lists them") from None
        if missing:
            what = f"there is no {version} in {store.versions}"
            raise CommandError(Exit.NOT_FOUND, what, "`factd versions` lists them; or give --state DIR")
    try:
        return outlined_model(settings.model, settings.statistics), store
    except EditError as error:
        raise CommandError(Exit.BAD_INPUT, str(error), "give the unedited model with --model") from None
