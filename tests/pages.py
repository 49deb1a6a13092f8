"""The fenced blocks of README and docs/, and who carries each of them out.

The words after the fence say it:

    console run     commands, on a ledger with fakes, in the page's order    tests/daemon/cli/test_docs.py
    console live    commands, beside a real `factd up`, in the page's order  tests/end_to_end/test_main_job.py
    console up      the `factd up` of that test itself
    python          a Celery producer, beside the same `factd up`
    json KIND       parsed, and compared with what the program takes or says
    toml sources    read as a file of sources
    sh              a shell's, run as it stands
    nothing         no commands: what a program says, a drawing

A block of commands that nobody carries out stands below `<!-- not executed: REASON -->`.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
#: Dated entries. Their commands are those of their day and not carried out; their links lead somewhere.
LOG = sorted((ROOT / "docs" / "log").glob("*.md"))
FENCE = re.compile(
    r"^(?:<!-- not executed: (?P<why>[^>]*) -->\n)?```(?P<kind>[^\n]*)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
#: Addresses in the pages: those of `factd up` where nobody else has taken the ports.
API, VLLM = "http://127.0.0.1:8321", "http://127.0.0.1:8320"


@dataclass(frozen=True)
class Block:
    """`why` it is not executed; None when it is."""

    page: Path
    kind: str
    body: str
    why: str | None

    def commands(self) -> list[tuple[str, str]]:
        """(command line, what stands below it) for each line that begins with $."""
        found: list[tuple[str, list[str]]] = []
        for line in self.body.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
        return [(command, "\n".join(below).strip()) for command, below in found]


def every_block() -> Iterator[Block]:
    for page in PAGES:
        for block in FENCE.finditer(page.read_text()):
            yield Block(page, block["kind"].strip(), block["body"], block["why"])


def blocks(kind: str, name: str | None = None) -> list[Block]:
    """Those of a kind; of one page when its name is given."""
    return [b for b in every_block() if b.kind == kind and name in (None, b.page.name)]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return FENCE.sub("", page.read_text())


def words(command: str) -> list[str]:
    return shlex.split(command)


def unlike(told: object, real: object, path: str = "answer") -> str | None:
    """Where documented JSON has a key or a type that the real one has not."""
    if isinstance(told, dict) and isinstance(real, dict):
        missing = [key for key in told if key not in real]
        if missing:
            return f"{path} has no {missing}"
        return next((u for key in told if (u := unlike(told[key], real[key], f"{path}.{key}"))), None)
    if isinstance(told, list) and isinstance(real, list):
        pairs = zip(told, real, strict=False)
        return next((u for i, (a, b) in enumerate(pairs) if (u := unlike(a, b, f"{path}[{i}]"))), None)
    return None if told is None or real is None or type(told) is type(real) else f"{path} is {real!r}"
