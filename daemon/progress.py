"""How far a long piece of work is, told by (stage, fraction done): as lines or as bars."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[str, float], None]


def by_tenths(say: Callable[[str], object]) -> Progress:
    """Progress for a log: a line for each tenth of a stage."""
    last: dict[str, int] = {}

    def progress(stage: str, fraction: float) -> None:
        tenth = int(10 * fraction)
        if tenth != last.get(stage):
            last[stage] = tenth
            say(f"{stage} {10 * tenth} %")

    return progress


@contextmanager
def shown_progress(as_json: bool) -> Iterator[Progress]:
    """Progress for a person: bars, or lines on stderr where stdout is to be JSON alone."""
    from rich.progress import Progress as Bars

    if as_json:
        yield by_tenths(lambda line: print(line, file=sys.stderr, flush=True))
        return
    with Bars() as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, fraction: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1.0)
            bars.update(tasks[stage], completed=fraction)

        yield show
