"""`factd serve`: vLLM with the factd plugin."""

import os
from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.exits import CommandError, Exit, fail
from daemon.cli.options import ModelOption, StateOption
from daemon.supervise.running import settings_for
from daemon.supervise.vllm import BASE_HASH, VllmOptions, serving_key, vllm_command
from daemon.versions.keys import accepted_keys
from editing.model.checkpoint import checkpoint_path, served_base


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
    checkpoint = checkpoint_path(settings.model, settings.statistics)
    options = VllmOptions(
        store=settings.store_dir,
        admin_token=settings.admin_token.get_secret_value(),
        served_name=settings.served_model_name or Path(settings.model).name,
        api_key=serving_key(settings),
        # Hashing a large checkpoint takes minutes: not where the caller has said what is right.
        base_hash=None if BASE_HASH in os.environ else served_base(checkpoint),
        version_keys=accepted_keys(settings),
        host=host,
        extra=tuple(vllm_arguments or ()),
    )
    argv, env = vllm_command(checkpoint, port or settings.serving_port, options)
    os.execve(argv[0], argv, env)
