"""95 % intervals of measured shares, from what a table tells: the share and how many facts were asked.

    python -m benchmarks.intervals share 49 60               49 of 60: 81.7 % (70.1–89.4)
    python -m benchmarks.intervals scores 98.2 87.2 65.7 1000
    python -m benchmarks.intervals crossing docs/data/nas-drift.json "no anchor" perplexity_ratio 3

Every interval of docs/results.md is one of these; tests/benchmarks/test_results.py computes each again.
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scores import harmonic

#: Standard deviations of a normal law on either side that hold 95 % of it.
Z_95 = 1.959963984540054

#: On either side of an interval.
LEFT_OUT = 0.025

Interval = tuple[float, float]


def wilson(share: float, asked: int) -> Interval:
    """Wilson's score interval for a share of `asked` independent facts.

        (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)

    Also for a mean of `asked` values between 0 and 1 (PS, NS: shares of a fact's paraphrases or neighbours).
    Such a mean has a variance of p(1−p)/n at most, so its interval is rather too wide than too narrow.

    Raises:
        ValueError: `share` lies outside 0 to 1, or nothing was asked.

    Source: E. B. Wilson, Probable inference (1927); Newcombe, Two-sided intervals (1998), method 3.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies between 0 and 1, not at {share}; divide percent by 100")
    if asked < 1:
        raise ValueError(f"{asked} facts were asked; an interval needs at least one")
    spread = Z_95**2 / asked
    half = Z_95 * math.sqrt(share * (1 - share) / asked + Z_95**2 / (4 * asked**2))
    middle, scale = share + spread / 2, 1 + spread
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def score(es: float, ps: float, ns: float, asked: int) -> Interval:
    """S, the harmonic mean of three shares, where all three stand at the same end of their intervals.

    That is S's interval if the three rise and fall together. To first order S varies less otherwise, so the
    interval is rather too wide than too narrow.
    """
    ends = zip(*(wilson(share, asked) for share in (es, ps, ns)), strict=True)
    low, high = (harmonic(*shares) for shares in ends)
    return low, high


def crossing(rows: Sequence[Mapping[str, Any]], field: str, level: float) -> tuple[float, Interval]:
    """Edits at which a field first passes a level, on a line between two checkpoints, and those checkpoints.

    Raises:
        ValueError: no checkpoint is past the level, or the first one is already.
    """
    ordered = sorted(rows, key=lambda row: row["edits"])
    for before, after in itertools.pairwise(ordered):
        if before[field] <= level < after[field]:
            part = (level - before[field]) / (after[field] - before[field])
            at = before["edits"] + part * (after["edits"] - before["edits"])
            return at, (before["edits"], after["edits"])
    raise ValueError(f"{field} does not pass {level} between two of the {len(ordered)} checkpoints given")


def quantile(values: Sequence[float], share: float) -> tuple[float, tuple[float | None, float | None]]:
    """The value that `share` of all do not pass (nearest rank), and between which two values the truth lies.

    How many of n values lie below the true quantile is binomial, whatever law they have. None: there are too
    few values for an end on that side.

    Source: Hahn and Meeker, Statistical intervals (1991), 5.2.
    """
    ordered, n = sorted(values), len(values)
    below = list(itertools.accumulate(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n)))
    low = sum(total <= LEFT_OUT for total in below)
    high = next((k for k, total in enumerate(below) if total >= 1 - LEFT_OUT), None)
    value = ordered[max(0, math.ceil(share * n) - 1)]
    return value, (ordered[low - 1] if low else None, None if high is None else ordered[high])


def percent(value: float, interval: Interval) -> str:
    """`81.7 (70.1–89.4)`, from shares: as the tables of docs/results.md have it."""
    low, high = interval
    return f"{100 * value:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def _share(args: argparse.Namespace) -> str:
    share = args.said / args.asked
    low, high = wilson(share, args.asked)
    return f"{args.said} of {args.asked}: {100 * share:.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def _scores(args: argparse.Namespace) -> str:
    shares = args.es / 100, args.ps / 100, args.ns / 100
    cells = [percent(share, wilson(share, args.asked)) for share in shares]
    cells.append(percent(harmonic(*shares), score(*shares, args.asked)))
    return " | ".join(cells)


def _crossing(args: argparse.Namespace) -> str:
    rows = json.loads(args.file.read_text(encoding="utf-8"))
    at, (low, high) = crossing([row for row in rows if row["line"] == args.line], args.field, args.level)
    return f"{args.line}: {args.field} passes {args.level:g} at {at:.0f} edits, between {low} and {high}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.intervals", description="95 % intervals")
    commands = parser.add_subparsers(required=True)
    share = commands.add_parser("share", help="facts said, of how many asked")
    share.add_argument("said", type=int)
    share.add_argument("asked", type=int)
    share.set_defaults(answer=_share)
    scores = commands.add_parser("scores", help="ES, PS and NS in percent, and how many facts were asked")
    for name in ("es", "ps", "ns"):
        scores.add_argument(name, type=float)
    scores.add_argument("asked", type=int)
    scores.set_defaults(answer=_scores)
    passed = commands.add_parser("crossing", help="edits at which a line of a data file passes a level")
    passed.add_argument("file", type=Path)
    passed.add_argument("line")
    passed.add_argument("field")
    passed.add_argument("level", type=float)
    passed.set_defaults(answer=_crossing)
    args = parser.parse_args(arguments)
    try:
        sys.stdout.write(args.answer(args) + "\n")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
