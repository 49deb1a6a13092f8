"""docs/results.md has the intervals that its shares give; docs/log says of every entry what became of it."""

import json
import re

import pytest

from benchmarks import intervals
from benchmarks.drawing import figures
from benchmarks.scores import harmonic
from tests.pages import LOG

RESULTS = (figures.DOCS / "results.md").read_text()
#: A cell of a table of scores, in percent: 87.2 (85.0–89.1)
CELL = re.compile(r"^(\d+\.\d) \((\d+\.\d)–(\d+\.\d)\)$")
COUNT = re.compile(r"(\d[\d,]*) of (\d[\d,]*) \((\d+\.\d)–(\d+\.\d) %\)")
ENTRY = re.compile(r"^## (\d{4}-\d\d-\d\d): (.*)\n\nStatus: (.*)$", re.MULTILINE)
MARKS = re.compile(r"\*\*(kept|superseded|refuted)\*\*")
#: Shares are rounded to a tenth of a percent before the test sees them.
ROUNDED = 0.16
ENTRIES = [
    (page, *entry) for page in LOG if page.name != "index.md" for entry in ENTRY.findall(page.read_text())
]


def number(text):
    return int(text.replace(",", ""))


def score_rows():
    """Rows of the tables that have a column "asked" and one for ES, by name of the column."""
    columns = None
    for line in RESULTS.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            columns = None
        elif {"asked", "ES"} <= set(cells):
            columns = cells
        elif columns and not cells[0].startswith("---"):
            yield dict(zip(columns, cells, strict=True))


def test_every_interval_of_a_score_is_that_of_its_share():
    rows = list(score_rows())
    assert len(rows) > 10
    for row in rows:
        asked, shares = number(row["asked"]), {}
        for name in ("ES", "PS", "NS", "EM"):
            share, *told = map(float, CELL.match(row[name]).groups())
            shares[name] = share / 100
            real = [100 * end for end in intervals.wilson(share / 100, asked)]
            assert told == pytest.approx(real, abs=ROUNDED), (row, name)
        three = [shares[name] for name in ("ES", "PS", "NS")]
        s, *told = map(float, CELL.match(row["S"]).groups())
        assert s == pytest.approx(100 * harmonic(*three), abs=ROUNDED), row
        real = [100 * end for end in intervals.score(*three, asked)]
        assert told == pytest.approx(real, abs=ROUNDED), row


def test_every_interval_of_a_count_is_that_of_its_share():
    counts = COUNT.findall(RESULTS)
    assert len(counts) > 5
    for said, asked, *told in counts:
        real = intervals.wilson(number(said) / number(asked), number(asked))
        assert list(map(float, told)) == pytest.approx([100 * end for end in real], abs=0.05), (said, asked)


def test_edits_until_the_drifting_model_collapses_are_those_of_the_data():
    rows = json.loads((figures.DOCS / "data" / "nas-drift.json").read_text())
    for line, told in (("no anchor", "at 427 edits"), ("nas, 1 anchor", "with NAS at 740")):
        of_line = [row for row in rows if row["line"] == line]
        at, _ = intervals.crossing(of_line, "perplexity_ratio", 3.0)
        assert told in RESULTS
        assert f"{at:.0f}" in told


def test_results_and_log_are_short_enough_to_read():
    assert len(RESULTS.splitlines()) <= 150
    assert not [page.name for page in LOG if len(page.read_text().splitlines()) > 250]


def test_every_entry_says_what_became_of_it():
    titles = [title for page in LOG for title in re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE)]
    assert len(ENTRIES) == len(titles) > 40
    for page, _, title, status in ENTRIES:
        assert MARKS.match(status), title
        # Superseded by what, refuted by what: a link, or the entry itself says it.
        assert "superseded" not in status or "](" in status, (page.name, title)


def test_the_index_has_every_entry_with_its_marks():
    index = next(page for page in LOG if page.name == "index.md").read_text()
    rows = dict(re.findall(r"^\| \[(.*?)\]\(\S+\) \| (\S+ \| [a-z, ]+) \|", index, re.MULTILINE))
    told = {
        title: f"{date} | {', '.join(dict.fromkeys(MARKS.findall(status)))}"
        for _, date, title, status in ENTRIES
    }
    assert rows == told
