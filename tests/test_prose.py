"""An editor's check: no sentence above 35 words in the pages and docstrings, no page above 250 lines.

A sentence is what is left when tables, fenced blocks, equations, headings and comments are gone. A piece of
code counts as one word, a sign such as × or → as none. Sentences end at a full stop, a question mark or an
exclamation mark; so does a paragraph, an item of a list, and an argument in a docstring.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pages import LOG, PAGES, ROOT, prose

WORDS = 35
#: Longer pages are not read to their end, lines.
LINES = 250
#: `make docs` writes these, as long as the program has commands; the changelog is looked up, not read.
GROWING = {"CHANGELOG.md", *(f"docs/{name}.md" for name in ("cli", "settings", "metrics", "api"))}
SOURCES = sorted(
    path
    for folder in ("daemon", "editing", "monitoring", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
#: file: sentences above the limit that it has today. The numbers only ever go down.
LONG_TODAY: dict[str, int] = {
    # Dated entries.
    "docs/log/guard.md": 4,
    "docs/log/speed.md": 1,
    # Docstrings.
    "benchmarks/drawing/figures.py": 1,
    "benchmarks/glue.py": 1,
    "benchmarks/serial.py": 1,
    "benchmarks/speed.py": 1,
    "daemon/intake/intake.py": 1,
    "editing/memory/delta.py": 1,
    "editing/methods/interference.py": 1,
    "editing/solve/ridge.py": 1,
    "editing/values/descent.py": 1,
}
#: Columns of a drawing or of a table made of spaces.
COLUMNS = re.compile(r"\S {3,}\S|[├└│]")

COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
CODE = re.compile(r"(`+)[^`]+?\1")
#: Lines without sentences. Equations and drawings are others: indented by four, below a blank line.
NO_PROSE = re.compile(r"^\s*(\||#)")
ITEM = re.compile(r"^\s*([-*]|\d+\.)\s+")
END = re.compile(r"(?<=[.!?])[)*\"'”]*\s+")
#: Parts of a docstring with an entry for each argument, result or error.
SECTION = re.compile(r"^(Args|Returns|Yields|Raises|Attributes|Example):$")
ENTRY = re.compile(r"^ {4}[\w*.,/ \[\]]+:(?= )")


def paragraphs(text: str) -> Iterator[str]:
    """Runs of lines that belong together; a table, a heading, an equation or a drawing belongs to none."""
    found, may_draw, in_list = list[str](), True, False
    for line in [*text.splitlines(), ""]:
        drawn = (line.startswith("    ") and may_draw and not in_list) or bool(COLUMNS.search(line))
        prose_line = bool(line.strip()) and not drawn and not NO_PROSE.match(line)
        if not prose_line or ITEM.match(line):
            yield " ".join(found)
            found = []
        if prose_line:
            in_list = bool(ITEM.match(line)) or (in_list and line.startswith(" "))
            found.append(ITEM.sub("", line).strip())
        # The second line of a drawing stands below no blank line, and still belongs to it.
        may_draw = drawn or not line.strip()


def docstring_paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of a cleaned docstring; each entry below Args and the like is an item of a list."""
    told, opened = list[str](), False
    for line in text.splitlines():
        if line and not line.startswith(" "):
            opened = bool(SECTION.match(line))
            told.append("" if opened else line)
        elif opened:
            told.append(ENTRY.sub("- ", line) if ENTRY.match(line) else line.strip())
        else:
            told.append(line)
    return paragraphs("\n".join(told))


def sentences(paragraph: str) -> list[str]:
    plain = CODE.sub("code", LINK.sub(r"\1", CODE.sub("code", paragraph)))
    return [sentence for sentence in END.split(plain) if sentence]


def length(sentence: str) -> int:
    return sum(any(sign.isalnum() for sign in word) for word in sentence.split())


def too_long(found: Iterator[str]) -> list[str]:
    """`words: the sentence's beginning` for each that is."""
    every = [sentence for paragraph in found for sentence in sentences(paragraph)]
    return [f"{length(one)} words: {one[:90]} …" for one in every if length(one) > WORDS]


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def long_in(path: Path) -> list[str]:
    if path.suffix == ".md":
        return too_long(paragraphs(COMMENT.sub("", prose(path))))
    return too_long(paragraph for text in docstrings(path) for paragraph in docstring_paragraphs(text))


def test_sentences_are_short():
    found = {str(path.relative_to(ROOT)): long_in(path) for path in [*PAGES, *LOG, *SOURCES]}
    more = {name: long for name, long in found.items() if len(long) > LONG_TODAY.get(name, 0)}
    assert not more, "above 35 words: make two sentences of it"
    now = {name: len(found.get(name, ())) for name in LONG_TODAY}
    assert now == LONG_TODAY, "better than LONG_TODAY says: lower its numbers to these"


def test_no_page_is_too_long():
    lines = {str(page.relative_to(ROOT)): len(page.read_text().splitlines()) for page in [*PAGES, *LOG]}
    assert not {name: count for name, count in lines.items() if count > LINES and name not in GROWING}


LONG = " ".join(["word"] * (WORDS + 1))


@pytest.mark.parametrize(
    "text",
    [
        f"Short one. {LONG}.",
        f"- short\n- {LONG}",
        f"{LONG.replace(' ', chr(10), 20)}",
        f"See ([a page](page.md)): {LONG}",
    ],
)
def test_a_long_sentence_is_found(text):
    assert len(too_long(paragraphs(text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        f"| {LONG} |",
        f"# {LONG}",
        f"An equation:\n\n    {LONG}\n    {LONG}",
        f"Name   {LONG}",
        f"{LONG[:60]}. {LONG[60:]}",
        f"One: `{LONG}`.",
        "- " + "\n- ".join(LONG.split()),
    ],
)
def test_what_is_no_long_sentence_is_none(text):
    assert not too_long(paragraphs(text))


def test_an_argument_of_a_docstring_is_a_sentence_of_its_own():
    half = LONG[: len(LONG) // 2]
    entries = f"Does it.\n\nArgs:\n    first: {half}\n    second: {half}\n        {half}"
    assert not too_long(docstring_paragraphs(entries.rsplit("\n", 1)[0]))
    assert len(too_long(docstring_paragraphs(f"{entries} {half}"))) == 1
