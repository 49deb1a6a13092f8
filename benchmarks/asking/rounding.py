"""How many answers of the unedited model change by rounding alone: what no edit can be better than.

The same questions are asked in bfloat16 and in float32, and in each alone and in a batch.

    python -m benchmarks.asking.rounding --state DIR --out DIR
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.asking.asked import Asking, same, taken
from benchmarks.asking.ways import QUESTIONS, Asked, asked_records
from benchmarks.configuration import Model
from benchmarks.data import find, load_records
from benchmarks.files import say, write_json
from editing.model.checkpoint import BUNDLED
from editing.model.loaded import LoadedModel

DTYPES = ("bfloat16", "float32")
#: Questions that are asked alone too.
ALONE = 40


def unchanged(loaded: Sequence[LoadedModel], facts: Sequence[Asked]) -> dict[str, int]:
    """Of each form how many answers begin with the same words in both models."""
    first, second = (Asking(one) for one in loaded)
    return {name: sum(same(first.told(name, facts), second.told(name, facts))) for name in first.ways}


def alone(loaded: LoadedModel, facts: Sequence[Asked]) -> dict[str, int]:
    """The same of answers to questions asked in one batch, and asked one by one."""
    asking = Asking(loaded)
    return {
        name: sum(same(asking.told(name, facts), [asking.told(name, [one])[0] for one in facts]))
        for name in asking.ways
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--facts", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="of the facts, how many are left out before")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--state", type=Path, required=True)
    given = parser.parse_args()
    path = find("counterfact", given.data, "--facts")
    every = asked_records(load_records(path), path, find(QUESTIONS, given.data, "--questions"))
    models = [Model.open(BUNDLED, given.state, lambda _stage, _fraction: None, dtype=d) for d in DTYPES]
    facts = taken(every, models[0], given.first + given.facts)[given.first :]
    found = {"asked": len(facts), "between_dtypes": unchanged([one.loaded for one in models], facts)}
    say(f"of {len(facts)}, in {' and in '.join(DTYPES)}: {found['between_dtypes']}")
    for dtype, model in zip(DTYPES, models, strict=True):
        found[f"alone_{dtype}"] = alone(model.loaded, facts[:ALONE])
        say(f"of {len(facts[:ALONE])}, alone and in a batch, {dtype}: {found[f'alone_{dtype}']}")
    write_json(given.out / "rounding.json", found)


if __name__ == "__main__":
    main()
