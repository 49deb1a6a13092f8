"""Files line by line, with how far they are read; and files that hold one JSON list."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from daemon.core.errors import CorrectionError
from daemon.core.messages import parse_json
from daemon.core.shapes import is_list
from daemon.intake.feeds.records import Advance, wrong

#: A longer line is refused, bytes: no correction comes near it, and a file without line ends would fill the
#: memory.
LONGEST_BYTES = 2**20
#: A file that is one JSON list is read as a whole; a larger one must be JSON lines, bytes.
LIST_BYTES = 256 * 2**20
#: The bar moves once in so many lines.
STRIDE = 200


def file_hash(file: Path) -> str:
    """sha256 of the file: two imports of the same bytes are one."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def lines(file: Path, advance: Advance) -> Iterator[tuple[int, str | CorrectionError]]:
    """(number, line with its end, or what is wrong with it), from 1."""
    size = max(1, file.stat().st_size)
    with file.open("rb") as stream:
        number = 0
        while raw := stream.readline(LONGEST_BYTES):
            number += 1
            if number % STRIDE == 0:
                advance(stream.tell() / size)
            whole = raw.endswith(b"\n") or len(raw) < LONGEST_BYTES
            yield number, _decoded(raw, number) if whole else _too_long(number)
            while not whole:  # the rest of a line that is too long
                raw = stream.readline(LONGEST_BYTES)
                whole = raw.endswith(b"\n") or len(raw) < LONGEST_BYTES
    advance(1.0)


def _decoded(raw: bytes, number: int) -> str | CorrectionError:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return wrong(
            "", raw, f"is not UTF-8 (byte {error.start} of the line); save the file as UTF-8", number
        )
    return text.removeprefix("\ufeff") if number == 1 else text


def _too_long(number: int) -> CorrectionError:
    return wrong(
        "", "(a long line)", f"is longer than {LONGEST_BYTES} bytes; write one record a line", number
    )


def objects(file: Path, advance: Advance) -> Iterator[tuple[int, Any]]:
    """(number, JSON or what is wrong with it): of each line, or of each item where the file is one list."""
    if _is_list(file):
        yield from _items(file, advance)
        return
    for number, line in lines(file, advance):
        if isinstance(line, CorrectionError):
            yield number, line
        elif line.strip():
            try:
                yield number, parse_json(line, number)
            except CorrectionError as error:
                yield number, error


def _is_list(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _items(file: Path, advance: Advance) -> Iterator[tuple[int, Any]]:
    if file.stat().st_size > LIST_BYTES:
        mend = f"is one JSON list of more than {LIST_BYTES} bytes; write one object a line instead"
        yield 1, wrong("", str(file), mend)
        return
    try:
        found = parse_json(file.read_bytes())
    except CorrectionError as error:
        yield 1, error
        return
    items = found if is_list(found) else [found]
    for number, item in enumerate(items, start=1):
        if number % STRIDE == 0:
            advance(number / len(items))
        yield number, item
    advance(1.0)
