"""`factd init`: prepares a model."""

import time

from daemon.apply.building import open_editor
from daemon.cli.exits import CommandError, Exit
from daemon.cli.options import JsonOption, ModelOption, StateOption, settings_of
from daemon.cli.output import progress, show_json, show_table
from daemon.cli.reporting import reported
from editing.errors import EditError
from monitoring.measuring.room import room_of


def init(model: ModelOption = None, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Prepare a model: hashes, second moments, anchor. Resumable; done once."""
    settings = settings_of(state_dir=state, model=model)
    started = time.monotonic()
    with reported(as_json):
        try:
            with progress() as show:
                editor = open_editor(settings, show)
        except EditError as error:
            raise CommandError(Exit.FAILED, str(error), "run `factd doctor`") from None
    view = {
        "model": settings.model,
        "path": str(editor.path),
        "base_hash": editor.base_hash,
        "settings_hash": editor.settings_hash,
        "tensors": list(editor.tensor_names),
        "seconds": time.monotonic() - started,
    }
    room = room_of(editor)
    if as_json:
        show_json(view | {"room": room and room.to_json()})
    else:
        rows = [*view.items(), *([("room", str(room))] if room else [])]
        show_table("Prepared", ("", ""), rows)
