"""Options that several commands take."""

from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.core.settings import Settings, load_settings

StateOption = Annotated[Path | None, typer.Option(help="State directory; default FACTD_STATE_DIR.")]
ModelOption = Annotated[str | None, typer.Option(help="Bundled name or Hugging Face directory.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OutOption = Annotated[Path, typer.Option(help="Folder for the results.")]
WhyOption = Annotated[str | None, typer.Option(help="Kept in the ledger.")]


def settings_of(**options: Any) -> Settings:
    """The settings with the options that were given; the others come from the environment."""
    return load_settings(**{name: value for name, value in options.items() if value is not None})
