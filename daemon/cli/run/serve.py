"""`factd serve`: vLLM with the factd plugin."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.cli.exits import CommandError, Exit, fail
from daemon.cli.options import ModelOption, StateOption
from daemon.core.publication import BASE_VERSION
from daemon.supervise.running import settings_for
from daemon.supervise.vllm import BASE_HASH, VllmOptions, refused, serving_key, vllm_command
from daemon.versions.format import ABOUT_FILE
from daemon.versions.keys import accepted_keys
from editing.errors import ModelError
from editing.model.checkpoint import servable_checkpoint, served_base


def serve(
    model: ModelOption = None,
    state: StateOption = None,
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port; default FACTD_SERVING_PORT.")] = None,
    vllm_arguments: Annotated[
        list[str] | None, typer.Argument(help="After --: vLLM's own arguments; they win over factd's.")
    ] = None,
) -> None:
    """Run vLLM with the factd plugin in the foreground."""
    settings = settings_for(state, model=model)
    if settings.admin_token is None:
        mend = "set FACTD_ADMIN_TOKEN to the token that the apply worker uses"
        fail(CommandError(Exit.BAD_INPUT, "vLLM with the plugin needs an admin token", mend), False)
    if (why := refused(vllm_arguments or ())) is not None:
        fail(CommandError(Exit.BAD_INPUT, why, "nothing was started"), False)
    try:
        checkpoint = servable_checkpoint(settings.model, settings.statistics)
    except ModelError as error:
        fail(CommandError(Exit.BAD_INPUT, str(error), "nothing was started"), False)
    options = VllmOptions(
        store=settings.store_dir,
        admin_token=settings.admin_token.get_secret_value(),
        served_name=settings.served_model_name or Path(settings.model).name,
        api_key=serving_key(settings),
        # Hashing a large checkpoint takes minutes: not where the caller has said what is right.
        base_hash=None if BASE_HASH in os.environ else served_base(checkpoint) or _base_of_copy(checkpoint),
        version_keys=accepted_keys(settings),
        host=host,
        extra=tuple(vllm_arguments or ()),
    )
    argv, env = vllm_command(checkpoint, port or settings.serving_port, options)
    os.execve(argv[0], argv, env)


def _base_of_copy(directory: Path) -> str | None:
    """The hash of the float checkpoint that `factd export v000000 --quantised` made a copy of.

    None of any other directory: a copy of a later version has not the base's weights where it is edited.
    """
    about = directory / ABOUT_FILE
    told: dict[str, Any] = json.loads(about.read_bytes()) if about.is_file() else {}
    return str(told["base_hash"]) if told.get("quantised") and told["version"] == BASE_VERSION else None
