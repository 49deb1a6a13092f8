"""The belief audit: what a model says of facts by their age, and which measure tells those it will lose.

At each checkpoint a sample of the facts that hold is asked in every form, with the old answer in the
context, and as a multiple choice between new, old and unsure. A fact that was audited once is audited as long
as it holds. So two checkpoints tell which facts were lost between them. Three measures of the first one are
compared as predictions: how near another fact's key is, how crowded the fact's output is, and the norm of its
value alone.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.asking.ways import Asked
from benchmarks.data import Record
from benchmarks.horizon import method_of
from benchmarks.intervals import wilson
from benchmarks.lifelong.asks import FreeAnswers
from benchmarks.runs import Row, Stream
from benchmarks.scores import mean
from editing.editor import Editor
from editing.memory.state import BARE
from editing.model.loaded import LoadedModel
from monitoring.measuring.scoring import Scorer

#: Ways in which a fact is asked by free generation; chat ones only of a model with a chat template.
SPOKEN = ("prompt", "paraphrase", "chat_prompt", "chat_question", "question", "old_in_context")
#: Facts of the sample at each checkpoint.
AUDITED = 100
#: What a multiple choice ends in.
CHOICES = ("new", "old", "unsure")
UNSURE = "I am not sure"
LETTERS = "ABC"
#: Thirds of the facts that hold, by the time they were written.
AGES = ("oldest", "middle", "newest")
#: What may tell that a fact will be lost; each is larger where that is likelier. The last is the plain one.
MEASURES = ("key_nearness", "crowding", "value_norm")
#: A loss is told from chance by at least so many facts on either side.
FEWEST = 5


class Beliefs(FreeAnswers):
    """`FreeAnswers`, with an audit of a sample of the facts that hold.

    Args:
        size: facts of the sample at each checkpoint, chosen by a hash of their ids.
    """

    def __init__(
        self, loaded: LoadedModel, facts: Sequence[Asked], others: Sequence[Asked], size: int
    ) -> None:
        super().__init__(loaded, facts, others)
        self._loaded, self._size = loaded, size
        self.key += f"-beliefs-{size}"

    def row(self, stream: Stream, edits: int, editor: Editor | None) -> Row:
        live = stream.live(edits)
        number = {record.fact.id: i for i, record in enumerate(live)}
        chosen = sorted(audited(stream, edits, self._size), key=lambda one: number[one.fact.id])
        facts = [self.of(record) for record in chosen]
        told: list[Row] = [
            {"id": one.fact.id, "age": AGES[len(AGES) * number[one.fact.id] // len(live)]} for one in facts
        ]
        for way in SPOKEN:
            for one, hit in zip(told, self.hits(way, facts), strict=True):
                one[way] = hit
        scorer = Scorer(self._loaded.model, self._loaded.tokenizer)
        for one, choice in zip(told, choices(scorer, facts), strict=True):
            one["choice"] = choice
        measured = measures(editor) if editor is not None else {}
        for one in told:
            one |= measured.get(one["id"], {})
        return super().row(stream, edits, editor) | {"audit": told}


def audited(stream: Stream, edits: int, size: int) -> list[Record]:
    """The sample of this checkpoint, and what still holds of those of earlier ones."""
    now = {record.fact.id: record for record in stream.live(edits)}
    marks = [mark for mark in stream.checkpoints if mark <= edits]
    ids = {one.fact.id for mark in {*marks, edits} for one in by_hash(stream.live(mark), size)}
    return [record for id, record in now.items() if id in ids]


def by_hash(records: Sequence[Record], size: int) -> list[Record]:
    return sorted(records, key=lambda one: hashlib.sha256(one.fact.id.encode()).digest())[:size]


def choices(scorer: Scorer, facts: Sequence[Asked]) -> list[str | None]:
    """Which of new, old and unsure a model chooses, by the letter's log-probability; None without an old one.

    Models prefer letters. So each option stands at each letter once, and the means are compared.
    """
    asked = [one for one in facts if one.record.old]
    turns = range(len(CHOICES))
    pairs = [(_choice(one, turn), letter) for one in asked for turn in turns for letter in LETTERS]
    losses = iter([score.nll for score in scorer.score([scorer.encode(*pair) for pair in pairs])])
    chosen = dict[str, str]()
    for one in asked:
        total = dict.fromkeys(CHOICES, 0.0)
        for turn in turns:
            for place in turns:
                total[CHOICES[(place + turn) % len(CHOICES)]] += next(losses)
        chosen[one.fact.id] = min(total, key=total.__getitem__)
    return [chosen.get(one.fact.id) for one in facts]


def _choice(one: Asked, turn: int) -> str:
    answers = (one.fact.target, str(one.record.old), UNSURE)
    lines = [f"{letter}. {answers[(place + turn) % len(answers)]}" for place, letter in enumerate(LETTERS)]
    return "\n".join([f"Question: {one.question}", *lines, "Answer:"])


def measures(editor: Editor) -> dict[str, dict[str, float]]:
    """`MEASURES` of each live fact, in the last layer written; none of methods that keep no keys.

    With the bare prompts' keys k and values v there, and ΔW the whole update,

        key_nearness = max over other facts of cos(kᵢ, kⱼ)
        crowding     = median over a of √n |u_a · ΔWkᵢ| / σ_a,   W₀CW₀ᵀ = Σ σ_a² u_a u_aᵀ
        value_norm   = ‖vᵢ‖

    u_a and σ_a are the principal directions of the layer's outputs on ordinary text, n the number of facts.
    Source of crowding: arXiv 2606.00570.
    """
    layer = editor.layers[-1]
    name, columns = editor.loaded.tensor_name(layer), editor.state.columns
    if f"{name}/values" not in columns or f"{name}/keys" not in columns:
        return {}
    bare = (editor.state.forms & BARE).bool()
    keys, values = (columns[f"{name}/{kind}"][:, bare].double().cpu() for kind in ("keys", "values"))
    near = nearness(keys)
    base = editor.base_weights()[name].double().cpu()
    update = (editor.weights()[name].double().cpu() - base) @ keys
    moment = editor.install.moments([layer])[layer].double().cpu()
    crowded = crowding(update, base @ moment @ base.T)
    told = torch.stack([near, crowded, values.norm(dim=0)]).T.tolist()
    return {id: dict(zip(MEASURES, one, strict=True)) for id, one in zip(editor.state.ids, told, strict=True)}


def nearness(keys: Tensor) -> Tensor:
    """The largest cosine of each key [d_in, n] with another one, [n]; −1 where there is no other."""
    unit = keys / keys.norm(dim=0)
    return (unit.T @ unit).fill_diagonal_(-1.0).amax(1)


def crowding(update: Tensor, moment: Tensor) -> Tensor:
    """R [n] of the changes of output [d, n] that facts see, from the outputs' second moment [d, d]."""
    squares, directions = torch.linalg.eigh(moment)
    spread = squares.clamp_min(float(squares[-1]) * 1e-12).sqrt()
    seen = (directions.T @ update).abs() / spread[:, None]
    return math.sqrt(update.shape[1]) * seen.median(dim=0).values


def beliefs(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Shares in percent by method, stream, edits, age and probe, with intervals; from rows with an audit."""
    found = list[Row]()
    for run in runs:
        for age in AGES:
            facts = [one for one in run.get("audit", ()) if one["age"] == age]
            line = {"method": method_of(run), "stream": run["dataset"], "edits": run["edits"], "age": age}
            found += [line | told for told in _shares(facts)]
    return found


def _shares(facts: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    probes = {way: [one[way] for one in facts if one[way] is not None] for way in SPOKEN}
    chosen = [one["choice"] for one in facts if one["choice"] is not None]
    probes |= {f"choice_{name}": [choice == name for choice in chosen] for name in CHOICES}
    for probe, hits in probes.items():
        if hits:
            share = mean(hits)
            low, high = wilson(share, len(hits))
            told = {"probe": probe, "share": 100 * share, "asked": len(hits)}
            yield told | {"low": 100 * low, "high": 100 * high}


def predictions(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """AUROC of each measure at a checkpoint for what is lost until the next, of facts said at the first.

    A half is chance; 1 means that every fact that was lost had a larger measure than every one that stayed.
    """
    lines = dict[tuple[str, str], list[Mapping[str, Any]]]()
    for run in runs:
        if run.get("audit"):
            lines.setdefault((method_of(run), run["dataset"]), []).append(run)
    found = list[Row]()
    for (name, stream), told in lines.items():
        for before, after in itertools.pairwise(sorted(told, key=lambda run: run["edits"])):
            known, lost = lost_between(before, after)
            if min(sum(lost), len(lost) - sum(lost)) < FEWEST:
                # Of so few an AUROC tells nothing.
                continue
            line = {"method": name, "stream": stream, "from": before["edits"], "to": after["edits"]}
            for measure in MEASURES:
                told_by = {"measure": measure, "auroc": auroc([one[measure] for one in known], lost)}
                found.append(line | told_by | {"lost": sum(lost), "of": len(lost)})
    return found


def lost_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[Row], list[bool]]:
    """Audits of measured facts, said at one checkpoint and asked at the next; whether each is lost."""
    later = {one["id"]: one["prompt"] for one in after["audit"]}
    known = [one for one in before["audit"] if one["prompt"] and one["id"] in later and MEASURES[0] in one]
    return known, [not later[one["id"]] for one in known]


def auroc(values: Sequence[float], hits: Sequence[bool]) -> float:
    """How often a hit has a larger value than a miss; ties count half."""
    yes = [value for value, hit in zip(values, hits, strict=True) if hit]
    no = [value for value, hit in zip(values, hits, strict=True) if not hit]
    won = sum((a > b) + (a == b) / 2 for a in yes for b in no)
    return won / (len(yes) * len(no))
