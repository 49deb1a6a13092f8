"""JSON lines: one correction a line, as `factd post --file` takes them, with the field `change` besides."""

from collections.abc import Iterator
from pathlib import Path

from daemon.core.errors import CorrectionError
from daemon.core.shapes import is_object
from daemon.intake.feeds.files import objects
from daemon.intake.feeds.records import Advance, Entry, told, wrong


def read(file: Path, advance: Advance) -> Iterator[Entry]:
    for number, item in objects(file, advance):
        if isinstance(item, CorrectionError):
            yield item
        elif is_object(item):
            yield told(item, number)
        else:
            yield wrong("", item, "write a JSON object with subject, prompt and target", number)
