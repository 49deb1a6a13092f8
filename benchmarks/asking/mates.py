"""Several facts of one subject, posted one relation after another: does the first survive the second?

    python -m benchmarks.asking.mates --subjects 20 --kinds price,version,seat --state DIR --out DIR

After each relation all relations so far are asked, by the posted prompt, as a chat message, and by a question
that was never posted.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.asking.asked import Asking, mean
from benchmarks.asking.ways import Asked
from benchmarks.configuration import Configuration, Model
from benchmarks.files import say, write_json
from benchmarks.intervals import wilson
from benchmarks.lifelong.churn import Plan, churn, kinds
from editing.model.checkpoint import BUNDLED
from editing.said import holds, said

#: Those in chat are asked of a model with a chat template.
FORMS = ("prompt", "chat_prompt", "chat_question")


def measured(model: Model, plan: Plan, configuration: Configuration, out: Path) -> list[dict[str, Any]]:
    """Writes OUT/mates.json as it goes: a row for each relation asked after each one written."""
    # Nobody asks about neighbours here, so that the model need not prefer any answer.
    posts = churn(plan, lambda _prompt, answers: answers[0])
    names = [kind.name for kind in kinds(plan.kinds)]
    groups = {name: posts[i :: len(names)] for i, name in enumerate(names)}
    asking, rows = Asking(model.loaded), list[dict[str, Any]]()
    with model.editor(configuration) as editor:
        for count, written in enumerate(names, 1):
            began = time.process_time()
            editor.apply([one.fact for one in groups[written]])
            seconds = (time.process_time() - began) / len(groups[written])
            for name in names[:count]:
                about = {"written": written, "facts_a_subject": count, "asked": name}
                rows.append(about | _shares(asking, groups[name]) | {"cpu_seconds_a_fact": seconds})
                say(told(rows[-1]))
            write_json(out / "mates.json", rows)
    return rows


def _shares(asking: Asking, facts: Sequence[Asked]) -> dict[str, Any]:
    """Of each form the share of answers that hold the target, with its interval, and that say it."""
    row: dict[str, Any] = {"facts": len(facts)}
    for form in (form for form in FORMS if form in asking.ways):
        pairs = list(zip(asking.told(form, facts), facts, strict=True))
        row[form] = mean([holds(answer, one.fact.target) for answer, one in pairs])
        row[f"{form}_low"], row[f"{form}_high"] = wilson(row[form], len(facts))
        row[f"said_{form}"] = mean([said(answer, one.fact.target) for answer, one in pairs])
    return row


def told(row: dict[str, Any]) -> str:
    shares = ", ".join(f"{form} {100 * row[form]:.0f}" for form in FORMS if form in row)
    return f"after {row['written']}: {row['asked']}: {shares}; {row['cpu_seconds_a_fact']:.1f} s a fact"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subjects", type=int, default=20)
    parser.add_argument("--kinds", default="price,version,seat", help="of `bench lifelong`'s churn, in order")
    parser.add_argument("--config", default="memit-seq", help="as of `bench asked`")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    model = Model.open(BUNDLED, given.state, lambda _stage, _fraction: None, dtype=given.dtype)
    plan = Plan(given.subjects, 1, tuple(given.kinds.split(",")))
    configuration = Configuration.parse(given.config, "forms=prompt.chat.questions")
    measured(model, plan, configuration, given.out)


if __name__ == "__main__":
    main()
