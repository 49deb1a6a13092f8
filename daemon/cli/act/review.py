"""`factd review`: corrections that are held, and the decision about them."""

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.cli.exits import EPILOG
from daemon.cli.ledger import open_ledger, ring_doorbell
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import local_time, show_json, show_lines, show_table
from daemon.http.views import review_view
from daemon.ledger.ledger import Ledger
from daemon.ledger.rows import CorrectionRow

IdsArgument = Annotated[list[str], typer.Argument(help="Ids of held corrections.")]
WhyRequired = Annotated[str, typer.Option("--why", help="The reason; it is kept in the audit chain.")]
COLUMNS = ("id", "score", "correction", "source", "posted by", "received", "why")
#: Fields of one held correction that `show` prints, in this order.
SHOWN = ("id", "state", "prompt", "target", "was", "source", "posted_by", "score", "reason", "reviewed_by")
#: What a decision does to one correction of the ledger.
_Decide = Callable[[Ledger, str, str], CorrectionRow]

app = typer.Typer(
    name="review",
    help="List, show, approve or reject corrections that are held for review.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command("list", epilog=EPILOG)
def held(
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what is held: the most suspicious first, each with its score and the reasons."""
    with open_ledger(state, as_json) as (_, ledger):
        views = [_view(ledger, row) for row in ledger.reviews.held(limit)]
    if as_json:
        show_json(views)
        return
    cells = [
        (v["id"], v["score"], f"{v['prompt']} → {v['target']}", v["source"], v["posted_by"], *_rest(v))
        for v in views
    ]
    show_table(f"{len(views)} held for review", COLUMNS, cells)


@app.command("show", epilog=EPILOG)
def show(
    id: Annotated[str, typer.Argument(help="A correction's id.")],
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one correction as a reviewer needs it: what it says, who posted it, and each finding."""
    with open_ledger(state, as_json) as (_, ledger):
        view = _view(ledger, ledger.questions.get(id))
    if as_json:
        show_json(view)
        return
    show_table("Review", ("", ""), [(name, view[name]) for name in SHOWN])
    told = [(f["rule"], f["points"], f["why"]) for f in view["findings"]]
    if told:
        show_table("What speaks against it", ("rule", "points", "why"), told)


@app.command("approve", epilog=EPILOG)
def approve(
    ids: IdsArgument, why: WhyRequired, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """Let held corrections wait for their batch. Whoever posted one may not approve it (exit code 8)."""

    def decide(ledger: Ledger, id: str, reviewer: str) -> CorrectionRow:
        return ledger.reviews.approve(id, reviewer=reviewer, why=why)

    _decide(ids, decide, state, as_json)


@app.command("reject", epilog=EPILOG)
def reject(
    ids: IdsArgument, why: WhyRequired, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """End held corrections as rejected, with the reason."""

    def decide(ledger: Ledger, id: str, reviewer: str) -> CorrectionRow:
        return ledger.reviews.reject(id, reviewer=reviewer, why=why)

    _decide(ids, decide, state, as_json)


def _decide(ids: list[str], decide: _Decide, state: Path | None, as_json: bool) -> None:
    """One after the other; the first that is refused ends the command, and those before it stay decided."""
    views = list[dict[str, Any]]()
    reviewer = f"operator:{getpass.getuser()}"
    with open_ledger(state, as_json) as (settings, ledger):
        for id in ids:
            views.append(_view(ledger, decide(ledger, id, reviewer)))
            if not as_json:
                show_lines(f"{views[-1]['id']} is {views[-1]['state']}: {views[-1]['reason']}")
        ring_doorbell(settings)
    if as_json:
        show_json(views)


def _view(ledger: Ledger, row: CorrectionRow) -> dict[str, Any]:
    return review_view(row, ledger.reviews.poster(row.id))


def _rest(view: dict[str, Any]) -> tuple[str, str | None]:
    return local_time(view["received_at"]), view["reason"]
