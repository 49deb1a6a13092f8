"""A fact that is consolidated and then retracted: what the guard rules, and what the model still says.

    python -m benchmarks.asking.countered --facts 10 --epochs 3 --state DIR --out DIR

The shipped daemon without its processes (`benchmarks.shipped.applying`), guard on: the facts go live, are
consolidated, and one is retracted, which counters it in the trained weights. The weights that are served are
asked after each step, by the bare prompt and by the prompt as a chat message.
"""

import argparse
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.files import Progress, say, write_json
from benchmarks.service.waiting import corrections
from benchmarks.shipped.applying import ShippedDaemon, ShippedSettings
from daemon.apply.building import open_editor
from daemon.core.lifecycle import State
from daemon.core.messages import Correction
from daemon.ledger.rows import OperationRow
from editing.said import holds, said

#: Longest answers, tokens: a chat answers in a sentence.
PROMPT_TOKENS, CHAT_TOKENS = 12, 24


class Asked:
    """What is served, asked for facts."""

    def __init__(self, daemon: ShippedDaemon, posts: Mapping[str, Correction]) -> None:
        self._daemon, self._posts = daemon, posts
        self.answers: dict[str, dict[str, dict[str, str]]] = {id: {"prompt": {}, "chat": {}} for id in posts}

    def ask(self, step: str) -> None:
        """Notes all answers under the name of a step."""
        scorer = self._daemon.replica.scorer
        texts = [one.prompt.replace("{}", one.subject) for one in self._posts.values()]
        told = {"prompt": scorer.greedy(texts, PROMPT_TOKENS), "chat": scorer.chatted(texts, CHAT_TOKENS)}
        for form, answers in told.items():
            for id, answer in zip(self._posts, answers, strict=False):  # no chat: none
                self.answers[id][form][step] = answer

    def said(self, step: str, ids: Sequence[str]) -> dict[str, int]:
        """Of how many of these facts the answer says the target, by form."""
        says = {"prompt": said, "chat": holds}
        return {
            form: sum(says[form](self.answers[id][form].get(step, ""), self._posts[id].target) for id in ids)
            for form in says
        }


def measured(daemon: ShippedDaemon, posts: Mapping[str, Correction]) -> dict[str, Any]:
    """The rows; the fact that is retracted is the first that is live and not what the model says anyhow."""
    asked = Asked(daemon, posts)
    asked.ask("unedited")
    daemon.step(list(posts.items()))
    asked.ask("live")
    live = [id for id in posts if id in daemon.ids(State.LIVE)]
    say(f"{len(live)} of {len(posts)} are live; said {asked.said('live', live)}")
    consolidated = _ruled(daemon, "consolidate", None)
    asked.ask("consolidated")
    say(f"consolidated: {consolidated['outcome']}; said {asked.said('consolidated', live)}")
    chosen = next(id for id in live if not any(asked.said("unedited", [id]).values()))
    retracted = _ruled(daemon, "retract", chosen)
    asked.ask("retracted")
    others = [id for id in live if id != chosen]
    steps = ("unedited", "live", "consolidated", "retracted")
    return {
        "facts": len(posts),
        "live": len(live),
        "consolidated": consolidated,
        "retracted": retracted | {"id": chosen},
        "said_others": {step: asked.said(step, others) for step in steps},
        "said_retracted": {step: asked.said(step, [chosen]) for step in steps},
        "answers": {id: {"target": posts[id].target, **asked.answers[id]} for id in live},
    }


def _ruled(daemon: ShippedDaemon, kind: str, target: str | None) -> dict[str, Any]:
    """Asks for an operation, and what the guard says of its version."""
    number = daemon.ledger.intake.request(kind, target, actor="operator")
    daemon.step([])
    done: OperationRow = daemon.ledger.questions.operation(number)
    version = next(one for one in reversed(daemon.versions()) if one.operation == number)
    verdict = version.verdict or {}
    told = {name: verdict.get(name) for name in ("outcome", "reasons", "guards")}
    return {"state": str(done.state), "reason": done.reason, "version": version.id, **told}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--facts", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--state", type=Path, required=True, help="statistics of the model")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    given = parser.parse_args()
    state = given.state.absolute()
    with tempfile.TemporaryDirectory(prefix="factd-countered-") as folder:
        settings = ShippedSettings.but(
            state_dir=Path(folder),
            statistics_dir=state,
            model=given.model,
            consolidation_epochs=given.epochs,
        )
        editor = open_editor(settings, Progress(say))
        daemon = ShippedDaemon(settings.state_dir, state, editor, batch=given.facts, guard=True)
        try:
            found = measured(daemon, dict(itertools.islice(corrections(), given.facts)))
        finally:
            daemon.close()
    found = {"model": given.model, "epochs": given.epochs, **found}
    write_json(given.out / "countered.json", found)
    say(f"others {found['said_others']}; retracted {found['said_retracted']}")


if __name__ == "__main__":
    main()
