"""docs/metrics.md: every metric, and what the guard makes of every measure. A test compares."""

from monitoring.metrics import LADDER_STEPS, METRICS, OUTCOMES, PAUSERS, QUEUES, ROLLBACK_REASONS, STAGES
from monitoring.registry import JUDGED, MEASURES
from monitoring.shares import LEVEL, Counted, may_reach

_LABELS = {
    "outcome": OUTCOMES,
    "queue": QUEUES,
    "stage": STAGES,
    "guard": JUDGED,
    "step": LADDER_STEPS,
    "actor": PAUSERS,
    "reason": ROLLBACK_REASONS,
}
#: Sizes of samples that the page gives the rule for; 32 is the usual one.
_ASKED = (1, 4, 5, 9, 14, 23, 32)

_INTRODUCTION = """# Metrics and measures

Generated from `monitoring/metrics.py` and `monitoring/registry.py`; a test compares. The API process serves
the metrics at `/metrics` and reads the ledger at each scrape. A measure that was not taken is NaN, never an
old value. Counters are totals of the ledger, which survive restarts.
"""

_MEASURES = """
## What the guard makes of each measure

Levels are relative to the base model. Where the unedited model itself varies more, twice its noise replaces
the warning level, and four times its noise replaces the limit (shares of few cases: the noise itself).
`FACTD_THRESHOLDS` sets any of them by name, e.g. `{"probe_kl_nats_limit": 0.3}`.

- A measure that falls and has the limit 0 only warns.
- *Wear*: it describes the model as a whole. Past its warning the model is worn, whoever edited last.
- *Batch*: it describes the version's own corrections.
- *Required*: without it no version is accepted.

Beside these, each correction of a batch must answer (`efficacy_ratio`).
"""


def metrics_page() -> str:
    """The text of docs/metrics.md."""
    return "\n".join([_INTRODUCTION, *_metrics(), _MEASURES, *_measures(), "", *_shares()]) + "\n"


def _metrics() -> list[str]:
    rows = [f"| `factd_{m.name}` | {m.kind} | {m.label or ''} | {m.meaning} |" for m in METRICS]
    labels = [f"- `{name}`: {', '.join(f'`{v}`' for v in values)}" for name, values in _LABELS.items()]
    return [
        "| metric | type | label | meaning |",
        "|---|---|---|---|",
        *rows,
        "",
        "Values of labels:",
        "",
        "- `layer`: the number of an edited layer; of any layer for `activation_*` and `layer_share`",
        "- `replica`: a configured replica",
        *labels,
    ]


def _measures() -> list[str]:
    found = ["| measure | bad when | warns at | stops at | of | required |", "|---|---|---|---|---|---|"]
    for measure in MEASURES:
        if measure.bounds is not None:
            of = "wear" if measure.wear else "batch" if measure.of_batch else ""
            levels = f"{measure.bounds.warn:g} | {measure.bounds.limit:g}"
            side, required = "high" if measure.high_is_bad else "low", "yes" if measure.required else ""
            found.append(f"| `{measure.name}` | {side} | {levels} | {of} | {required} |")
    return found


def _shares() -> list[str]:
    fewest = [min(h for h in range(n + 1) if h / n >= 0.9 or may_reach(Counted(h, n), 0.9)) for n in _ASKED]
    return [
        "## Shares of few cases",
        "",
        "A share says little when few cases were asked: with nine facts, one miss makes 0.889. So a share",
        "below its limit stops a version only when the one-sided upper Clopper–Pearson bound of the share",
        f"(level {LEVEL:g}) lies below the limit too; else it warns. A share of none is never excused.",
        'Verdicts name the cases ("8 of 9"). Older measurements have no counts: the share alone judges them.',
        "",
        f"| facts asked | {' | '.join(map(str, _ASKED))} |",
        f"|---|{'---|' * len(_ASKED)}",
        f"| answered at least, for a limit of 0.9 | {' | '.join(map(str, fewest))} |",
    ]
