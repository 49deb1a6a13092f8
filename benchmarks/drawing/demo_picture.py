"""The picture of factd at work: what `factd demo --json FILE` saw, as an SVG that reads in light and dark.

It shows each answer before, after, and once one fact was taken back. Below stand what the guard refused,
and the rollback.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

#: Corrections in the picture; the demo has ten, and a README wants one screen.
ROWS = 5
#: Characters of a prompt, of an answer, and of a line of the guard's reason.
PROMPT, ANSWER, REASON = 44, 19, 88
#: Pixels: a line of text, its first column, and where prompts, answers and verdicts begin.
LINE, MARGIN = 22, 20
COLUMNS = (MARGIN, 372, 532, 692)
VERDICT = 132
WIDTH = 872
#: What the fields of a correction are called in the picture.
ANSWERS = ("before", "after", "after_retract")
TITLES = ("prompt", "before", "corrected", "one taken back")
#: class: colour on a light ground, and on a dark one. Each reads on its ground (4.5 to 1 or better).
COLOURS = {
    "ground": ("#ffffff", "#0d1117"),
    "text": ("#1f2328", "#e6edf3"),
    "dim": ("#59636e", "#9198a1"),
    "new": ("#0a58ca", "#79c0ff"),
    "back": ("#8250df", "#d2a8ff"),
    "ok": ("#116329", "#56d364"),
    "bad": ("#a40e26", "#ff7b72"),
}

Results = Mapping[str, Any]


def shown(results: Results) -> dict[str, Any]:
    """The part of a demo's JSON that the picture shows: no paths, ids or times of day.

    Raises:
        KeyError: it is not what `factd demo --json` writes.
    """
    rows = sorted(results["corrections"], key=lambda row: row["state"] != "retracted")
    guard, back = results["guard"], results["rollback"]
    return {
        "corrections": [{name: row[name] for name in ("prompt", *ANSWERS, "state")} for row in rows],
        "guard": {name: guard[name] for name in ("refused", "reason")},
        "rollback": {name: back[name] for name in ("from", "to", "sha256_equal", "answers_equal", "seconds")},
        "swap_seconds": results["swap_seconds"],
        "failed_requests": results["failed_requests"],
    }


def picture(results: Results) -> str:
    """The SVG; the same text for the same results."""
    page = _Page()
    page.put(MARGIN, "$ factd demo", "dim")
    page.next(1.4)
    _answers(page, results["corrections"])
    page.next(0.5)
    _guard(page, results["guard"])
    _rollback(page, results["rollback"])
    _requests(page, results)
    return page.svg()


@dataclass
class _Page:
    """Lines of text, from the top down."""

    y: float = MARGIN + LINE / 2
    parts: list[str] = field(default_factory=list)

    def put(self, x: int, text: str, style: str = "text") -> None:
        if text:
            self.parts.append(f'<text x="{x}" y="{self.y:.0f}" class="{style}">{escape(text)}</text>')

    def next(self, lines: float = 1) -> None:
        self.y += lines * LINE

    def rule(self) -> None:
        y = self.y - LINE * 0.7
        self.parts.append(f'<path d="M{MARGIN} {y:.0f}H{WIDTH - MARGIN}" class="rule"/>')

    def svg(self) -> str:
        height = round(self.y)
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img">\n'
            "<title>factd demo: answers before, after and taken back, the guard, and the rollback</title>\n"
            f"<style>\n{_style(0)}\n@media (prefers-color-scheme: dark) {{\n{_style(1)}\n}}\n</style>\n"
            f'<rect width="{WIDTH}" height="{height}" rx="8" class="ground"/>\n{body}\n</svg>\n'
        )


def _style(theme: int) -> str:
    colours = {name: pair[theme] for name, pair in COLOURS.items()}
    rules = [f".{name} {{ fill: {colour} }}" for name, colour in colours.items()]
    rules.append(f".rule {{ stroke: {colours['dim']}; stroke-opacity: .4 }}")
    rules.append("text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }")
    return "\n".join(rules)


def _answers(page: _Page, rows: Sequence[Results]) -> None:
    for x, title in zip(COLUMNS, TITLES, strict=True):
        page.put(x, title, "dim")
    page.next()
    page.rule()
    for row in rows[:ROWS]:
        retracted = row["state"] == "retracted"
        page.put(COLUMNS[0], clipped(row["prompt"], PROMPT))
        styles = ("dim", "new", "back" if retracted else "new")
        for x, name, style in zip(COLUMNS[1:], ANSWERS, styles, strict=True):
            page.put(x, clipped(row[name] or "", ANSWER), style)
        page.next()
    if len(rows) > ROWS:
        page.put(COLUMNS[0], f"and {len(rows) - ROWS} more", "dim")
        page.next()


def _verdict(page: _Page, name: str, ok: bool, lines: Sequence[str]) -> None:
    page.put(MARGIN, "✓" if ok else "✗", "ok" if ok else "bad")
    page.put(MARGIN + 20, name, "dim")
    for line in lines:
        page.put(VERDICT, line, "text" if ok else "bad")
        page.next()


def _guard(page: _Page, guard: Results) -> None:
    if not guard["refused"]:
        _verdict(page, "guard", False, ["did not refuse the harmful updates"])
        return
    lines = textwrap.wrap(f"refused harmful updates: {guard['reason']}", REASON)
    _verdict(page, "guard", True, lines)


def _rollback(page: _Page, back: Results) -> None:
    bits = "same bits" if back["sha256_equal"] else "other bits"
    answers = "same answers" if back["answers_equal"] else "other answers"
    ok = back["sha256_equal"] and back["answers_equal"]
    line = f"{back['from']} to {back['to']} in {back['seconds']:.2f} s: {bits}, {answers}"
    _verdict(page, "rollback", ok, [line])


def _requests(page: _Page, results: Results) -> None:
    failed, pause = results["failed_requests"], results["swap_seconds"]
    line = "none failed meanwhile" if failed == 0 else f"{failed} failed meanwhile"
    # The gauge is missing when nothing was published.
    if pause is not None:
        line += f"; the server paused {pause:.2f} s for new weights"
    _verdict(page, "requests", failed == 0, [line])


def clipped(text: str, limit: int) -> str:
    """The first line of a text, in at most `limit` characters."""
    line = (text.strip().splitlines() or [""])[0]
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"
