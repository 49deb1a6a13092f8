"""Options that several commands take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from daemon.core.settings import Settings

StateOption = Annotated[Path | None, typer.Option(help="State directory; default FACTD_STATE_DIR.")]
ModelOption = Annotated[str | None, typer.Option(help="Bundled name or Hugging Face directory.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OutOption = Annotated[Path, typer.Option(help="Folder for the results.")]
WhyOption = Annotated[str | None, typer.Option(help="Kept in the ledger.")]


def settings_of(**options: Any) -> "Settings":
    """The settings with the options that were given; the others come from the environment."""
    from daemon.core.settings import load_settings

    return load_settings(**{name: value for name, value in options.items() if value is not None})
