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
#: `make docs` writes them, as long as the program has commands.
GENERATED = {"cli.md", "settings.md", "metrics.md", "api.md"}
#: Kept for the record: one line a change, none is rewritten.
RECORDS = {"CHANGELOG.md"}
SOURCES = sorted(
    path
    for folder in ("daemon", "editing", "monitoring", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
#: file: long sentences that its docstrings have today. The numbers only ever go down.
LONG_TODAY: dict[str, int] = {}

COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
CODE = re.compile(r"(`+)[^`]+?\1")
#: What is no sentence of a page: tables, headings, equations and drawings (indented by four, after a blank line).
NO_PROSE = re.compile(r"^\s*(\||#)")
ITEM = re.compile(r"^\s*([-*]|\d+\.)\s+")
END = re.compile(r"(?<=[.!?])[)*\"'”]*\s+")
#: Parts of a docstring with an entry for each argument, result or error.
SECTION = re.compile(r"^(Args|Returns|Yields|Raises|Attributes|Example):$")
ENTRY = re.compile(r"^ {4}[\w*.,/ \[\]]+:(?= )")


def paragraphs(text: str) -> Iterator[str]:
    """Runs of lines that belong together; a table, a heading, an equation or a drawing belongs to none."""
    found, blank_before, in_list = list[str](), True, False
    for line in [*text.splitlines(), ""]:
        indented = line.startswith("    ") and blank_before and not in_list
        if not line.strip() or NO_PROSE.match(line) or indented or ITEM.match(line):
            yield " ".join(found)
            found = []
        if ITEM.match(line):
            in_list = True
        elif line.strip() and not line.startswith(" "):
            in_list = in_list and not blank_before
        # The second line of a drawing stands below no blank line, and still belongs to it.
        blank_before = not line.strip() or indented
        if line.strip() and not NO_PROSE.match(line) and not indented:
            found.append(ITEM.sub("", line).strip())


def docstring_paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of a cleaned docstring; each entry of Args and the like is one."""
    told, section, opened = list[str](), list[str](), False
    for line in text.splitlines():
        if SECTION.match(line):
            opened = True
        elif opened and line.strip() and not line.startswith(" "):
            opened = False
            told.append("")
            told.append(line)
        elif opened:
            section.append(("- " if ENTRY.match(line) else "") + line.strip())
        else:
            told.append(line)
        if SECTION.match(line):
            section.append("")
    yield from paragraphs("\n".join(told))
    yield from paragraphs("\n".join(section))


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


def long_in_page(page: Path) -> list[str]:
    return too_long(paragraphs(COMMENT.sub("", prose(page))))


def long_in_source(path: Path) -> list[str]:
    return too_long(paragraph for text in docstrings(path) for paragraph in docstring_paragraphs(text))


@pytest.mark.parametrize("page", [*PAGES, *LOG], ids=lambda page: f"{page.parent.name}/{page.name}")
def test_pages_have_short_sentences(page):
    if page.name not in RECORDS:
        assert not long_in_page(page)


def test_docstrings_have_short_sentences():
    found = {str(path.relative_to(ROOT)): long_in_source(path) for path in SOURCES}
    more = {name: long for name, long in found.items() if len(long) > LONG_TODAY.get(name, 0)}
    assert not more, "a sentence above 35 words: make two of it"
    fewer = {name: len(found.get(name, [])) for name in LONG_TODAY if len(found.get(name, [])) < LONG_TODAY[name]}
    assert not fewer, "better than LONG_TODAY says: lower its numbers to these"


def test_no_page_is_too_long():
    lines = {page.name: len(page.read_text().splitlines()) for page in [*PAGES, *LOG]}
    assert not {name: count for name, count in lines.items() if count > LINES and name not in GENERATED}
