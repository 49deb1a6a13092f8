"""Progress of a long piece of work, as (stage, fraction done)."""

from collections.abc import Callable

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
