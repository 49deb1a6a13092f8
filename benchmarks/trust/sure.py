"""Asks a model how sure it is of old answers: of real changes, of swaps, and of facts that many people know.

The rule looks at the old answer alone. A swap of a slot that really changed asks about the same old answers
as the change itself, so the rule cannot tell the two apart; the measure shows what that is in numbers. What
it is made for is a popular fact that did not change: `popular` takes those of a file of well-known facts.
"""

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.data import read_items
from benchmarks.errors import DataError
from benchmarks.files import write_json
from benchmarks.intervals import wilson
from benchmarks.trust.measure import auroc
from benchmarks.trust.stream import Change, Post, make_stream
from daemon.core.messages import Correction
from daemon.intake.trust.policies import Rules

COLUMNS = ("posts", "asked", "held", "share held", "95 %", "mean probability", "AUROC", "95 %")
KINDS = ("true", "swap", "popular")

#: For each (prompt, answer) the log-probability of the answer, nats.
Believes = Callable[[Sequence[tuple[str, str]]], Sequence[float]]


def sure(
    changes: Sequence[Change],
    popular: Path,
    out: Path,
    *,
    count: int,
    seed: int,
    believes: Believes,
    sure_from: float | None = None,
) -> list[dict[str, Any]]:
    """A row for `count` posts of each kind of the reported half; also written to OUT/trust-sure.json.

    Args:
        popular: a file of facts that are well known, with subject, prompt and attribute.
        believes: the model in memory.
        sure_from: from which probability the rule holds; the default of the rules when None.
    """
    posts = make_stream(changes, True, count, seed).posts
    chance = random.Random(seed)
    asked: dict[str, list[tuple[str, str]]] = {
        kind: [_pair(post) for post in _some(posts, kind, count, chance)] for kind in ("true", "swap")
    }
    known = popular_facts(popular)
    asked["popular"] = chance.sample(known, min(count, len(known)))
    rows = list(_rows(asked, believes, Rules().sure_from if sure_from is None else sure_from))
    write_json(out / "trust-sure.json", rows)
    return rows


def popular_facts(path: Path) -> list[tuple[str, str]]:
    """(prompt with its subject, answer) of each fact of the file.

    Raises:
        DataError: the file has another schema.
    """
    try:
        return [(str(item["prompt"]), str(item["attribute"])) for item in read_items(path)]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: a record has no field {error}; give ROME's file of known facts") from error


def _some(posts: Sequence[Post], kind: str, count: int, chance: random.Random) -> list[Post]:
    found = [post for post in posts if post.kind == kind]
    return chance.sample(found, min(count, len(found)))


def _pair(post: Post) -> tuple[str, str]:
    correction: Correction = post.correction
    return correction.prompt.replace("{}", correction.subject), correction.was or ""


def _rows(asked: dict[str, list[tuple[str, str]]], believes: Believes, level: float) -> list[dict[str, Any]]:
    found = {kind: _probabilities(pairs, believes) for kind, pairs in asked.items()}
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        told = found[kind]
        held = sum(one >= level for one in told)
        low, high = wilson(held / len(told), len(told))
        row: dict[str, Any] = {"kind": kind, "asked": len(told), "held": held}
        row |= {"share": round(held / len(told), 4), "low": round(low, 4), "high": round(high, 4)}
        row["mean"] = round(math.fsum(told) / len(told), 4)
        if kind != "true":
            area, (below, above) = auroc(found["true"], told)
            row |= {"auroc": round(area, 4), "auroc_low": round(below, 4), "auroc_high": round(above, 4)}
        rows.append(row)
    return rows


def _probabilities(pairs: Sequence[tuple[str, str]], believes: Believes) -> list[float]:
    return [math.exp(min(0.0, one)) for one in believes(pairs)]


def table(rows: Sequence[dict[str, Any]]) -> list[tuple[object, ...]]:
    """The rows as COLUMNS."""
    return [
        (
            row["kind"],
            row["asked"],
            row["held"],
            f"{100 * row['share']:.1f} %",
            f"{100 * row['low']:.1f}–{100 * row['high']:.1f}",
            f"{row['mean']:.3f}",
            *(
                (f"{row['auroc']:.3f}", f"{row['auroc_low']:.3f}–{row['auroc_high']:.3f}")
                if "auroc" in row
                else ("", "")
            ),
        )
        for row in rows
    ]
