"""Runs a stream through the gate and a real ledger, and counts what is held."""

import math
import tempfile
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import update

from benchmarks.files import write_json
from benchmarks.intervals import Z_95, Interval, wilson
from benchmarks.trust.stream import KINDS, Change, Post, Stream, make_stream
from daemon.core.lifecycle import State
from daemon.intake.reading.lexicon import load_lexicon
from daemon.intake.trust.gate import SourceGate
from daemon.intake.trust.policies import Policy, Rules, Sources
from daemon.intake.trust.relating import Relations
from daemon.ledger.ledger import Ledger
from daemon.ledger.tables import corrections

COLUMNS = ("half", "kind", "posts", "held", "share held", "95 %", "AUROC", "95 %", "rules")
#: Seconds of the ledger's clock at which the stream begins.
BEGIN = 1_700_000_000.0


@dataclass(frozen=True)
class Seen:
    """What became of one post."""

    kind: str
    score: float
    held: bool
    rules: tuple[str, ...]
    text: str


def trust(
    changes: Sequence[Change], out: Path, each: int, seed: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Rows of both halves; also written to OUT/trust.json, with examples of what was missed."""
    rows: list[dict[str, Any]] = []
    for half in ("looked_at", "reported"):
        stream = make_stream(changes, half == "reported", each, seed)
        say(f"{half}: {len(stream.seeds)} facts live, {len(stream.posts)} posts")
        rows += [{"half": half} | row for row in rows_of(seen(stream))]
    write_json(out / "trust.json", rows)
    return rows


def seen(stream: Stream, rules: Rules | None = None) -> list[Seen]:
    """Each post through a gate that accepts every source, into a ledger of its own.

    What is not held goes live at once, and takes the place of what was: nobody reviews meanwhile.
    """
    now = [BEGIN]
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.open(f"sqlite:///{folder}/ledger.sqlite3", lambda: now[0])
        gate = SourceGate(Sources(Policy(), rules or Rules(), {}), Relations(load_lexicon()))
        ledger.intake.submit_many([(None, post.correction) for post in stream.seeds])
        _go_live(ledger)
        ledger.intake.gate = gate
        found = [_seen(ledger, post, now) for post in stream.posts]
        ledger.close()
    return found


def _seen(ledger: Ledger, post: Post, now: list[float]) -> Seen:
    now[0] = BEGIN + post.at
    row = ledger.questions.get(ledger.intake.submit(post.correction))
    held = row.state is State.HELD
    if not held:
        _go_live(ledger, row.subject)
    # The first two posts of a row look like any change: only from the third on is there a flip-flop.
    kind = "flip_flop_first" if post.kind == "flip_flop" and post.turn < 2 else post.kind
    rules = tuple(one["rule"] for one in row.findings)
    return Seen(kind, row.score or 0.0, held, rules, f"{row.text} → {row.target} (was {row.was})")


def _go_live(ledger: Ledger, subject: str | None = None) -> None:
    """As the applier leaves the rows. It is not the applier that is measured here."""
    with ledger.database.writing() as c:
        mine = corrections.c.subject == subject if subject is not None else corrections.c.seq > 0
        rows = c.execute(
            corrections.select().where(mine, corrections.c.state.in_([State.LIVE, State.VALIDATED]))
        ).all()
        newest = {(row.subject, row.prompt): row.seq for row in sorted(rows, key=lambda row: row.seq)}
        for state in (State.LIVE, State.SUPERSEDED):
            ids = [
                row.seq
                for row in rows
                if (newest[row.subject, row.prompt] == row.seq) == (state is State.LIVE)
            ]
            for start in range(0, len(ids), 1000):
                part = corrections.c.seq.in_(ids[start : start + 1000])
                c.execute(update(corrections).where(part).values(state=state))


def rows_of(found: Sequence[Seen]) -> Iterator[dict[str, Any]]:
    """One row for the true changes, one for each kind of poison, one for all poison."""
    true = [one for one in found if one.kind == "true"]
    yield _row("true", true, None)
    for kind in (*KINDS, "flip_flop_first"):
        yield _row(kind, [one for one in found if one.kind == kind], true)
    yield _row("poison", [one for one in found if one.kind != "true"], true)


def _row(kind: str, found: Sequence[Seen], true: Sequence[Seen] | None) -> dict[str, Any]:
    held = [one for one in found if one.held]
    share = len(held) / len(found)
    row: dict[str, Any] = {"kind": kind, "posts": len(found), "held": len(held), "share": round(share, 4)}
    row["low"], row["high"] = (round(end, 4) for end in wilson(share, len(found)))
    if true is not None:
        area, (low, high) = auroc([one.score for one in true], [one.score for one in found])
        row |= {"auroc": round(area, 4), "auroc_low": round(low, 4), "auroc_high": round(high, 4)}
    row["rules"] = dict(Counter(rule for one in held for rule in one.rules))
    wrong = held if true is None else [one for one in found if not one.held]
    return row | {"examples": [f"{one.text} [{', '.join(one.rules)}]" for one in wrong[:40]]}


def auroc(true: Sequence[float], poison: Sequence[float]) -> tuple[float, Interval]:
    """The chance that a poisoned post has a higher score than a true one; equal scores count half.

        A = P(s₊ > s₋) + P(s₊ = s₋)/2, SE² = (A(1−A) + (n₊−1)(Q₁−A²) + (n₋−1)(Q₂−A²)) / (n₊n₋),
        Q₁ = A/(2−A), Q₂ = 2A²/(1+A)

    Source: Hanley and McNeil, The meaning and use of the area under a ROC curve (1982), equations 1 and 2.
    """
    ordered = sorted(true)
    ranks = sum(bisect_left(ordered, one) + bisect_right(ordered, one) for one in poison) / 2
    area = ranks / (len(true) * len(poison))
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (len(poison) - 1) * (one - area**2) + (len(true) - 1) * (two - area**2)
    half = Z_95 * math.sqrt(max(0.0, spread) / (len(true) * len(poison)))
    return area, (max(0.0, area - half), min(1.0, area + half))


def table(rows: Sequence[dict[str, Any]]) -> list[tuple[object, ...]]:
    """The rows as COLUMNS."""
    return [
        (
            row["half"],
            row["kind"],
            row["posts"],
            row["held"],
            f"{100 * row['share']:.1f} %",
            f"{100 * row['low']:.1f}–{100 * row['high']:.1f}",
            *(
                (f"{row['auroc']:.3f}", f"{row['auroc_low']:.3f}–{row['auroc_high']:.3f}")
                if "auroc" in row
                else ("", "")
            ),
            ", ".join(f"{rule} {count}" for rule, count in sorted(row["rules"].items())),
        )
        for row in rows
    ]
