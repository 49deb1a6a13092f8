"""The steps of the demo, each observed on the live server."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daemon.cli.demo.client import Traffic
from daemon.cli.demo.facts import CORRECTIONS, RETRACTED, UNRELATED, correction, harmful_batches
from daemon.cli.demo.observed import WAIT_SECONDS, Demo
from daemon.cli.output import console, show_table
from daemon.intake.posting import post
from daemon.supervise.running import Running

HARMFUL_BATCH, HARMFUL_ROUNDS = 3, 12
#: Shown after the table of corrections.
SHOWN_GAUGES = (
    "weight_norm_ratio",
    "spectral_norm_ratio",
    "subspace_similarity",
    "singular_vector_similarity",
    "value_norm_ratio",
    "efficacy_ratio",
    "retention_ratio",
    "probe_kl_nats",
    "probe_perplexity_ratio",
    "version",
    "pause_seconds",
)


def carry_out(demo: Demo, running: Running) -> None:
    with Traffic(running.vllm_url, running.served_model, UNRELATED) as traffic:
        rows = _correct(demo)
        _show_gauges(demo)
        all_live = demo.live_version()
        answers_all = [row["after"] for row in rows]
        _retract(demo, rows)
        _show_corrections(rows)
        good = demo.live_version()
        answers_good = [row["after_retract"] for row in rows]
        _harm(demo)
        # If the guard refused every harmful batch, nothing has moved: undo the retraction instead.
        moved = demo.live_version() != good
        _roll_back(demo, *((good, answers_good) if moved else (all_live, answers_all)))
    demo.results["requests"] = traffic.requests
    demo.results["failed_requests"] = len(traffic.failed)
    detail = f"{traffic.requests} asked, slowest {traffic.slowest_seconds:.2f} s" + "".join(
        traffic.failed[:1]
    )
    demo.saw("no request of the clients failed", traffic.requests > 0 and not traffic.failed, detail)


def _questions() -> list[str]:
    return [prompt.replace("{}", subject) for subject, prompt, _ in CORRECTIONS]


def says(answer: str, target: str) -> bool:
    """Whether a free answer begins with the target, upper and lower case alike."""
    return answer.casefold().lstrip(" \"'").startswith(target.casefold())


def _correct(demo: Demo) -> list[dict[str, Any]]:
    """Posts the corrections through the queue and asks before and after."""
    questions = _questions()
    before, unrelated = demo.live.ask_all(questions), demo.live.ask_all(UNRELATED)
    ids = post(demo.queue, [correction(*item) for item in CORRECTIONS])
    views = demo.wait_for(ids)
    after = demo.live.ask_all(questions)
    rows: list[dict[str, Any]] = [
        {
            "id": id,
            "prompt": question,
            "target": item[2],
            "before": old,
            "after": new,
            "after_retract": None,
            "state": view["state"],
            "reason": view["reason"],
            "post_to_live_seconds": view["post_to_live_seconds"],
        }
        for id, question, item, old, new, view in zip(
            ids, questions, CORRECTIONS, before, after, views, strict=True
        )
    ]
    demo.results["corrections"] = rows
    good = sum(row["state"] == "live" and says(row["after"], row["target"]) for row in rows)
    demo.saw("corrections answered by the live server", good == len(rows), f"{good} of {len(rows)}")
    fresh = sum(not says(row["before"], row["target"]) for row in rows)
    demo.saw("none of them was known before", fresh == len(rows), f"{fresh} of {len(rows)}")
    now = demo.live.ask_all(UNRELATED)
    kept = sum(first_word(old) == first_word(new) for old, new in zip(unrelated, now, strict=True))
    demo.saw(
        "unrelated answers unchanged (first word)", kept == len(unrelated), f"{kept} of {len(unrelated)}"
    )
    return rows


def _retract(demo: Demo, rows: list[dict[str, Any]]) -> None:
    view = demo.api.finish(demo.api.retract(rows[RETRACTED]["id"], "demo"), WAIT_SECONDS)
    for row, answer in zip(rows, demo.live.ask_all(_questions()), strict=True):
        row["after_retract"] = answer
    gone = rows[RETRACTED]
    old_back = first_word(gone["after_retract"]) == first_word(gone["before"])
    ok = view["state"] == "done" and old_back and not says(gone["after_retract"], gone["target"])
    demo.saw("retracted fact gives the old answer", ok, f"{gone['prompt']} {gone['after_retract']!r}")
    others = [row for i, row in enumerate(rows) if i != RETRACTED]
    kept = sum(says(row["after_retract"], row["target"]) for row in others)
    demo.saw("the other facts stay", kept == len(others), f"{kept} of {len(others)}")
    gone["state"] = "retracted" if view["state"] == "done" else gone["state"]


def first_word(answer: str) -> str:
    return (answer.split() or [""])[0].strip(".,;:!?\"'").casefold()


def _harm(demo: Demo) -> None:
    """Streams contradictions, then gibberish, until the guard refuses a version that holds some."""
    before = len(demo.refusals())
    refused, posted = list[str](), 0
    for batch in harmful_batches(HARMFUL_BATCH, HARMFUL_ROUNDS):
        views = demo.wait_for(post(demo.queue, batch), lambda: len(demo.refusals()) > before)
        posted += len(batch)
        refused = demo.refusals()[before:]
        states = ", ".join(sorted({view["state"] for view in views}))
        console().print(f"     harmful batch: {states}; live is {demo.live_version()}", style="dim")
        if refused:
            # The guard would judge the rest one by one. We have seen enough.
            _take_back(demo, [view["id"] for view in views if view["state"] == "unfinished"])
            break
    reason = refused[0] if refused else None
    demo.results["guard"] = {
        "refused": bool(refused),
        "reason": reason,
        "posted": posted,
        "count": len(refused),
    }
    demo.saw("the guard refuses harmful updates", bool(refused), f"after {posted} posts: {reason}")


def _take_back(demo: Demo, ids: Sequence[str]) -> None:
    for id in ids:
        demo.api.retract(id, "demo")
    demo.wait_for(ids)


def _roll_back(demo: Demo, target: str, answers: Sequence[str]) -> None:
    """Goes back to `target`; compares hashes with the manifest and answers with those given then."""
    origin, started = demo.live_version(), time.monotonic()
    view = demo.api.finish(demo.api.roll_back(target, "demo"), WAIT_SECONDS)
    seconds = time.monotonic() - started
    served = demo.live.served(demo.admin_token)
    sha256_equal = served["version"] == target and served["sha256"] == _manifest_hashes(demo, target)
    answers_equal = demo.live.ask_all(_questions()) == list(answers)
    demo.results["rollback"] = {
        "from": origin,
        "to": target,
        "sha256_equal": sha256_equal,
        "answers_equal": answers_equal,
        "seconds": seconds,
    }
    demo.results["swap_seconds"] = demo.api.gauges().get("factd_pause_seconds")
    demo.saw("rollback", view["state"] == "done", f"{origin} to {target} in {seconds:.2f} s")
    demo.saw("served weights have the sha256 of that version's manifest", sha256_equal)
    demo.saw("the live answers are those of that version, word for word", answers_equal)


def _manifest_hashes(demo: Demo, version: str) -> dict[str, str]:
    store = Path(demo.results["store_dir"])
    manifest = json.loads((store / "versions" / version / "manifest.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest["tensors"].items()}


def _show_gauges(demo: Demo) -> None:
    gauges = demo.api.gauges()
    shown = {
        name.removeprefix("factd_"): value
        for name, value in gauges.items()
        if name.removeprefix("factd_").split("{")[0] in SHOWN_GAUGES
    }
    demo.results["gauges"] = {name: value if math.isfinite(value) else None for name, value in shown.items()}
    # Some measures have no value yet: retention of earlier corrections, when all came in the first batch.
    rows = [(n, f"{v:.4g}" if math.isfinite(v) else "nothing to measure yet") for n, v in shown.items()]
    show_table("Stability gauges (/metrics)", ("gauge", "value"), rows)
    demo.saw("gauges read from /metrics", "factd_version" in gauges)


def _show_corrections(rows: Sequence[dict[str, Any]]) -> None:
    names = ("prompt", "before", "after", "after_retract", "state", "post_to_live_seconds")
    cells = [[f"{row[n]:.1f}" if isinstance(row[n], float) else row[n] for n in names] for row in rows]
    titles = ("prompt", "before", "after", "after retraction", "state", "post to live, s")
    show_table("Corrections, asked of the live server", titles, cells)
