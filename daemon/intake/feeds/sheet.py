"""CSV: a header and one correction a row.

A column has the name of a field, or is named with `--column FIELD=COLUMN`. What all rows share is given with
`--set FIELD=TEXT`. An empty cell is a field that is not there.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.core.errors import CorrectionError
from daemon.core.messages import Correction, parse_json
from daemon.intake.feeds.files import lines
from daemon.intake.feeds.records import Advance, Entry, told, wrong

#: Between the entries of a list in one cell; a cell that begins with [ is JSON.
SEPARATOR = "|"
LISTS = frozenset({"paraphrases", "questions", "neighbours", "aliases"})
NUMBERS = frozenset({"priority"})
FIELDS = frozenset(Correction.model_fields) | {"change"}


@dataclass(frozen=True)
class Sheet:
    """How a CSV is read.

    Attributes:
        columns: field → name of its column. When any is given, other columns are left alone.
        shared: field → text of every row.
        delimiter: between two cells.
    """

    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    shared: Mapping[str, str] = field(default_factory=dict[str, str])
    delimiter: str = ","

    def read(self, file: Path, advance: Advance) -> Iterator[Entry]:
        """The rows; when the header cannot be used, only what is wrong with it."""
        numbered = _Numbered(file, advance)
        rows = csv.reader(numbered, delimiter=self.delimiter, strict=True)
        try:
            header = [name.strip() for name in next(rows, list[str]())]
            places, problem = self._places(header)
            if problem is not None:
                yield problem
                return
            for row in rows:
                if row:
                    yield self._row(row, places, numbered.number, len(header))
        except csv.Error as error:
            yield wrong("", str(error), "is no CSV from here on; close the quotes", numbered.number)
        except CorrectionError as error:
            yield error

    def _places(self, header: list[str]) -> tuple[dict[str, int], CorrectionError | None]:
        """Field → its place in a row."""
        wanted = dict(self.columns) or {name: name for name in header if name not in self.shared}
        problem = None
        if len(set(header)) != len(header):
            problem = wrong("header", header, "names a column twice; keep one", 1)
        for name, column in wanted.items():
            if name not in FIELDS:
                mend = f"is no field of a correction ({', '.join(sorted(FIELDS))}); "
                mend += "correct it, or say with --column FIELD=COLUMN which columns hold what"
                problem = wrong("header", name, mend, 1)
            elif column not in header:
                problem = wrong("header", header, f"has no column {column!r}; correct --column", 1)
        return {name: header.index(column) for name, column in wanted.items() if column in header}, problem

    def _row(self, row: list[str], places: Mapping[str, int], number: int, width: int) -> Entry:
        if len(row) != width:
            mend = f"has {len(row)} cells, the header {width}; quote a cell that holds {self.delimiter!r}"
            return wrong("", self.delimiter.join(row), mend, number)
        cells = dict(self.shared) | {name: row[place] for name, place in places.items() if row[place].strip()}
        try:
            return told({name: _value(name, text, number) for name, text in cells.items()}, number)
        except CorrectionError as error:
            return error


def _value(name: str, text: str, number: int) -> Any:
    """Raises CorrectionError."""
    if name in LISTS:
        if text.lstrip().startswith("["):
            return parse_json(text, number)
        return [part.strip() for part in text.split(SEPARATOR) if part.strip()]
    if name in NUMBERS and text.strip().lstrip("+-").isdecimal():
        return int(text)
    return text.strip()


class _Numbered:
    """The lines of a file as text, for csv.reader; `number` is that of the last one.

    Raises:
        CorrectionError: a line is not UTF-8 or too long. What follows it cannot be told apart.
    """

    def __init__(self, file: Path, advance: Advance) -> None:
        self._lines, self.number = lines(file, advance), 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        if isinstance(line, CorrectionError):
            raise line
        return line
