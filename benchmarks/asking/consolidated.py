"""Consolidation beside the joint solution that it starts from: what is said, and what else has moved.

    python -m benchmarks.asking.consolidated --facts 60 --out DIR --config layers=4-12,epochs=6 --config …

Both are asked as in `benchmarks.asking.asked`. The joint solution is that of the default, written in batches.
"""

import argparse
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from benchmarks.asking.asked import TEXTS, Asking, mean, same, taken
from benchmarks.asking.ways import QUESTIONS, Asked, asked_records
from benchmarks.configuration import Configuration, Model
from benchmarks.data import TEXT, find, held_out, load_records, load_texts
from benchmarks.errors import ChoiceError
from benchmarks.files import say, write_json
from benchmarks.intervals import wilson
from benchmarks.scores import text_perplexity
from editing.consolidation.consolidate import consolidate
from editing.consolidation.numbers import ConsolidationNumbers
from editing.consolidation.prompts import ordinary_texts
from editing.memory.delta import materialise
from editing.model.checkpoint import BUNDLED
from editing.moments import replace_file
from editing.said import holds, said
from editing.solve.placement import window
from editing.solve.ridge import Factors
from editing.typed import load_tensors, save_tensors
from monitoring.measuring.scoring import Scorer

#: In which the written facts and the others are asked.
FORMS = ("prompt", "paraphrase", "chat_prompt", "chat_question")
OTHERS = ("prompt", "chat_prompt", "chat_question")
BATCH = 20


class Measured:
    """What one model says, beside what it said unedited."""

    def __init__(
        self, model: Model, facts: Sequence[Asked], others: Sequence[Asked], texts: Sequence[str]
    ) -> None:
        self._model, self._facts, self._others, self._texts = model, facts, others, texts
        self._asking = Asking(model.loaded)
        self._scorer = Scorer(model.loaded.model, model.loaded.tokenizer)
        self._before = {form: self._asking.told(form, others) for form in OTHERS}
        self._perplexity = text_perplexity(self._scorer, texts)

    def row(
        self, name: str, factors: Mapping[str, Factors], seconds: float, more: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Of the unedited weights plus factors."""
        loaded = self._model.loaded
        layers = {loaded.tensor_name(layer): layer for layer in range(len(loaded.layers))}
        base = loaded.base_weights([layers[tensor] for tensor in factors])
        for tensor, pair in factors.items():
            loaded.set_weight(layers[tensor], materialise(base[tensor], *pair))
        try:
            told = self._told()
        finally:
            for tensor in factors:
                loaded.set_weight(layers[tensor], base[tensor])
        return {"name": name, "edits": len(self._facts), **told, "seconds": seconds, **more}

    def _told(self) -> dict[str, Any]:
        found = dict[str, Any]()
        for form in FORMS:
            pairs = list(zip(self._asking.told(form, self._facts), self._facts, strict=True))
            found[form] = mean([holds(answer, one.fact.target) for answer, one in pairs])
            found[f"said_{form}"] = mean([said(answer, one.fact.target) for answer, one in pairs])
        for form in OTHERS:
            found[f"others_{form}"] = mean(same(self._before[form], self._asking.told(form, self._others)))
        low, high = wilson(found["others_chat_question"], len(self._others))
        ratio = text_perplexity(self._scorer, self._texts) / self._perplexity
        return {**found, "others_low": low, "others_high": high, "perplexity_ratio": ratio}


def measured(
    model: Model,
    facts: Sequence[Asked],
    others: Sequence[Asked],
    texts: Sequence[str],
    configurations: Sequence[Mapping[str, str]],
    out: Path,
    from_base: bool = False,
) -> list[dict[str, Any]]:
    """Writes OUT/consolidated.json as it goes."""
    say("asking the unedited model")
    out.mkdir(parents=True, exist_ok=True)
    asking, rows = Measured(model, facts, others, texts), list[dict[str, Any]]()
    written = [one.fact for one in facts]
    start, seconds = ({}, 0.0) if from_base else joint(model, facts, out)
    rows.append(asking.row("unedited" if from_base else "joint", start, seconds, {}))
    say(told(rows[-1]))
    for changes in configurations:
        chosen = numbers(model, changes)
        texts_kept = ordinary_texts(model.install, written, chosen)
        began, cpu = time.perf_counter(), time.process_time()
        found = consolidate(model.install, written, start, chosen, ordinary=texts_kept, folder=out / "kept")
        seconds = time.perf_counter() - began
        more: dict[str, Any] = {"cpu_seconds": time.process_time() - cpu, "numbers": asdict(chosen)}
        more |= {"epochs": [asdict(epoch) for epoch in found.epochs]}
        name = ",".join(f"{name}={value}" for name, value in changes.items()) or "default"
        rows.append(asking.row(name, found.factors, seconds, more))
        say(told(rows[-1]))
        write_json(out / "consolidated.json", rows)
    return rows


def joint(model: Model, facts: Sequence[Asked], out: Path) -> tuple[dict[str, Factors], float]:
    """The default's factors of the facts, and what they took, seconds. They are kept in `out`."""
    with model.editor(Configuration.parse("memit-seq", "forms=prompt.chat.questions")) as editor:
        about = repr((model.loaded.base_hash, editor.settings_hash, [one.fact for one in facts]))
        path = out / f"joint-{hashlib.sha256(about.encode()).hexdigest()[:16]}.safetensors"
        if not path.exists():
            began = time.perf_counter()
            for first in range(0, len(facts), BATCH):
                editor.apply([one.fact for one in facts[first : first + BATCH]])
            pairs = editor.state.factors.items()
            tensors = {
                f"{side}/{name}": x for name, pair in pairs for side, x in zip("AB", pair, strict=True)
            }
            tensors["seconds"] = torch.tensor(time.perf_counter() - began)
            replace_file(path, lambda p: save_tensors(p, tensors))
    kept, _ = load_tensors(path)
    names = [name.removeprefix("A/") for name in kept if name.startswith("A/")]
    return {name: (kept[f"A/{name}"], kept[f"B/{name}"]) for name in names}, float(kept["seconds"])


def numbers(model: Model, changes: Mapping[str, str]) -> ConsolidationNumbers:
    """The default's layers and numbers but for some, written as text."""
    plain = ConsolidationNumbers(window(len(model.loaded.layers)))
    kinds = {field.name: type(getattr(plain, field.name)) for field in fields(plain)}
    given = dict[str, object]()
    for name, text in changes.items():
        if name not in kinds:
            raise ChoiceError(f"{name}: no number of a consolidation; use {', '.join(kinds)}")
        if kinds[name] is tuple:
            given[name] = layers(text) if name == "layers" else tuple(text.split("."))
        else:
            given[name] = kinds[name](text)
    return plain.changed(**given)


def layers(text: str) -> tuple[int, ...]:
    """4-8 or 4.6.8."""
    first, dash, last = text.partition("-")
    return tuple(range(int(first), int(last) + 1)) if dash else tuple(int(x) for x in text.split("."))


def told(row: Mapping[str, Any]) -> str:
    shares = ", ".join(f"{form} {100 * row[form]:.0f}" for form in FORMS)
    others = ", ".join(f"{form} {100 * row[f'others_{form}']:.0f}" for form in OTHERS)
    cost = f"x{row['perplexity_ratio']:.3f}; {row['seconds']:.0f} s"
    return f"{row['name']}: {shares}; others the same: {others}; {cost}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--facts", type=int, default=60)
    parser.add_argument("--first", type=int, default=0, help="of the facts, how many are left out before")
    parser.add_argument("--others", type=int, default=100)
    parser.add_argument("--config", action="append", default=[], help="name=value,… ; may be given often")
    parser.add_argument("--from-base", action="store_true", help="train from the unedited weights instead")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    model = Model.open(BUNDLED, given.state, lambda _stage, _fraction: None, dtype=given.dtype)
    path = find("counterfact", given.data, "--facts")
    every = asked_records(load_records(path), path, find(QUESTIONS, given.data, "--questions"))
    last = given.first + given.facts
    kept = taken(every, model, last + given.others)
    texts = held_out(load_texts(find(TEXT, given.data, "--text")))[:TEXTS]
    configurations = [
        dict(part.split("=", 1) for part in text.split(",") if part) for text in given.config or [""]
    ]
    measured(model, kept[given.first : last], kept[last:], texts, configurations, given.out, given.from_base)


if __name__ == "__main__":
    main()
