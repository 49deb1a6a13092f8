"""`factd bench families`."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.families.measured import bench
from benchmarks.files import say, write_json
from daemon.cli.bench.common import show_markdown
from daemon.cli.exits import CommandError, Exit
from daemon.cli.options import JsonOption, OutOption
from daemon.cli.output import show_json
from daemon.cli.reporting import reported
from daemon.supervise.processes import ProcessError
from editing.model.families import FAMILIES

#: The columns of a row that must be true.
MUST = ("edited", "served", "published", "rollback_bit_equal", "proof")


def families(
    family: Annotated[
        list[str] | None, typer.Option(help="A model_type; may be given often; default all.")
    ] = None,
    out: OutOption = Path("bench"),
    as_json: JsonOption = False,
) -> None:
    """Edit, serve, publish and roll back a tiny model of each family; writes OUT/families.json."""
    with reported(as_json):
        try:
            rows = bench(family or sorted(FAMILIES), out, say)
        except ProcessError as error:
            raise CommandError(Exit.UNAVAILABLE, str(error), "run `factd doctor`") from None
    write_json(out / "families.json", rows)
    if as_json:
        show_json(rows)
    else:
        columns = list(rows[0])
        show_markdown(
            f"Families; {out / 'families.json'}", columns, [[row[name] for name in columns] for row in rows]
        )
    if not all(row[name] for row in rows for name in MUST):
        raise typer.Exit(int(Exit.FAILED))
