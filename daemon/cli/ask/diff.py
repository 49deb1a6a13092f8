"""`factd diff`: what lies between two versions."""

from typing import Annotated, Any

import typer

from daemon.cli.exits import CommandError, Exit
from daemon.cli.options import JsonOption, ModelOption, StateOption
from daemon.cli.output import progress, show_json, show_table
from daemon.cli.reporting import reported
from daemon.cli.store import opened
from daemon.core.errors import StoreError
from daemon.supervise.running import settings_for
from daemon.versions.comparing import difference
from editing.errors import EditError


def diff(
    v1: Annotated[str, typer.Argument(help="The older version; v000000 is the base.")],
    v2: Annotated[str, typer.Argument(help="The newer one.")],
    model: ModelOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two versions: corrections, weights per layer, measurements."""
    with reported(as_json):
        outline, store = opened(settings_for(state, model=model), v1, v2)
        try:
            with progress() as show:
                view = difference(outline, store, v1, v2, show)
        except (StoreError, EditError) as error:
            raise CommandError(Exit.FAILED, str(error), "run `factd doctor`") from None
    if as_json:
        show_json(view)
    else:
        _show(view)


def _show(view: dict[str, Any]) -> None:
    rows = [(sign, *fact.values()) for sign, key in (("+", "added"), ("-", "removed")) for fact in view[key]]
    title = f"{view['from']} → {view['to']}: {len(view['added'])} added, {len(view['removed'])} removed"
    show_table(f"{title}, {view['kept']} kept", ("", "id", "prompt", "target"), rows)
    names = ("frobenius_norm", "spectral_norm", "relative_change")
    layers = [(layer, *(f"{found[n]:.4g}" for n in names)) for layer, found in view["layers"].items()]
    show_table("Change of the weights", ("layer", "‖D‖_F", "σ₁(D)", "‖D‖_F / ‖W‖_F"), layers)
    measured = [
        (name, *map(_number, pair, view["counts"].get(name, [None, None])))
        for name, pair in view["measurements"].items()
    ]
    show_table("Measurements when accepted", ("", view["from"], view["to"]), measured)


def _number(value: object, counted: list[int] | None) -> str:
    """ "8 of 9" where cases were counted."""
    if counted:
        return "{} of {}".format(*counted)
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
