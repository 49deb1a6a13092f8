"""The table of docs/families.md names what `factd bench families` served and proved, and nothing else."""

import json
import re
from pathlib import Path

import pytest

from editing.model.families import FAMILIES

DOCS = Path(__file__).parents[3] / "docs"


def named(page: str) -> list[str]:
    """The families in the first column of the table of families."""
    table = page.partition("| `model_type` |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [name for cell in rows for name in re.findall(r"`(\w+)`", cell)]


def faults(page: str, rows: list[dict]) -> list[str]:
    """Where the table and families.json do not say the same."""
    table, must = named(page), ("edited", "served", "published", "proof", "rollback_bit_equal")
    found = {row["family"]: row for row in rows}
    broken = [f"{name} is in the table and was not tried" for name in table if name not in found]
    broken += [f"{name} was tried and is not in the table" for name in found if name not in table]
    broken += [f"{name}: not {key}" for name, row in found.items() for key in must if not row[key]]
    return broken + [f"{name}: {row['reason']}" for name, row in found.items() if row["reason"]]


@pytest.fixture(scope="module")
def page() -> str:
    return (DOCS / "families.md").read_text()


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return json.loads((DOCS / "data" / "families.json").read_text())


def test_every_family_of_the_page_was_served_and_proved_and_the_other_way_round(page, rows):
    assert faults(page, rows) == []
    assert sorted(named(page)) == sorted(FAMILIES) == sorted(row["family"] for row in rows)


def test_the_largest_difference_that_the_page_tells_is_that_of_the_rows(page, rows):
    (told,) = re.findall(r"differed by (0\.0+\d)\s+nats a token at most", page)
    largest = max(row["max_difference_nats"] for row in rows)
    assert f"{largest:.{len(told) - 2}f}" == told


def test_a_row_that_does_not_hold_is_found(page, rows):
    first, *others = rows
    assert faults(page, [first | {"proof": False}, *others]) == [f"{first['family']}: not proof"]
    assert faults(page, [first | {"reason": "x"}, *others]) == [f"{first['family']}: x"]
    assert faults(page, others) == [f"{first['family']} is in the table and was not tried"]
    more = first | {"family": "mamba"}
    assert faults(page, [*rows, more]) == ["mamba was tried and is not in the table"]
