"""Edits per second beside the published serial procedure: same model, same facts, same machine, same run.

The serial peer runs on some of the facts, evenly spaced by length, and is scaled to one edit: values and
keys by the number of its facts, the solve, which costs a batch the same whatever its size, by the number of
all facts.
"""

import resource
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks import serial
from benchmarks.configuration import Configuration, Model
from benchmarks.data import Record
from benchmarks.files import Say
from benchmarks.scores import Scores, score
from editing.editor import Editor
from editing.facts import Fact
from editing.model import LoadedModel
from editing.placement import rounds
from editing.report import Report
from editing.tokens import encode
from editing.values import losses, optimise
from monitoring.scoring import Scorer

#: MEMIT as published: what the peer does, with the steps that most of its models have.
PUBLISHED = "memit:spread:none:none:steps=25,finish=loss"
#: The same, each evaluation asking a third of the prompts.
IN_TURN = f"{PUBLISHED},turns=3"

#: Rows of the matrix products whose best rate counts as the machine's: those of a chunk of prompts and more.
RATE_ROWS = (256, 1024, 4096)
#: Seconds that each is tried.
RATE_SECONDS = 0.5


@dataclass(frozen=True)
class Run:
    """One configuration's batch: what the editor said, how long it took, and what the model makes of it."""

    report: Report
    seconds: float
    scores: Scores

    def value_seconds(self, edits: int) -> float:
        return self.report.seconds["values"] / edits


def speed(
    model: Model, records: Sequence[Record], tuned: Configuration, serial_edits: int, say: Say
) -> dict[str, Any]:
    """Runs ours with the published options, all prompts at once and in turn, and with `tuned`, then the peer.

    Returns speed.json. Ratios are of prompts in turn but for `all_at_once`, which equals the peer step by
    step; `loss_difference_nats` is over all facts from there, and there over the peer's facts from the peer.

    Args:
        tuned: the configuration with the product's own options.
        serial_edits: how many of the facts the peer writes.
    """
    facts = [record.fact for record in records]
    published, in_turn = Configuration.parse(PUBLISHED), Configuration.parse(IN_TURN)
    # Values kept by an earlier run would cost nothing here; of an unedited model they are the same anew.
    tuned = replace(tuned, changes=(*tuned.changes, ("unedited", "false")))
    exact = run(model, published, records, say)
    ours = run(model, in_turn, records, say)
    best = run(model, tuned, records, say)
    # Of this process so far: what the peer needs comes on top only afterwards.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    chosen = spaced(facts, serial_edits, model.loaded)
    say(f"serial procedure: {len(chosen)} of the {len(facts)} edits")
    peer = run_serial(model, published, [facts[i] for i in chosen])
    value = peer.seconds["values"] / len(chosen)
    whole = value + peer.seconds["keys"] / len(chosen) + peer.seconds["solve"] / len(facts)
    outcomes, edits = exact.report.outcomes, len(facts)
    from_peer = [outcomes[i].loss - v.loss for i, v in zip(chosen, peer.values, strict=True)]
    say(f"{in_turn}: the loss of all prompts")
    from_exact = sum(final_losses(model, in_turn, facts)) - sum(outcome.loss for outcome in outcomes)
    rate = matrix_rate(model.loaded)
    floor = floor_flops(model, published, facts, [outcome.steps for outcome in outcomes]) / rate
    return {
        "model": model.name,
        "edits": edits,
        "threads": torch.get_num_threads(),
        "serial_edits_per_second": 1 / whole,
        "edits_per_second": edits / ours.seconds,
        "value_ratio": value / ours.value_seconds(edits),
        "update_ratio": whole * edits / ours.seconds,
        "tuned_ratio": whole * edits / best.seconds,
        "loss_difference_nats": from_exact / edits,
        "floor_ratio": floor / exact.report.seconds["values"],
        "peak_memory_bytes": peak,
        "serial_edits": len(chosen),
        "device": str(model.loaded.device),
        "dtype": str(model.loaded.model.dtype).removeprefix("torch."),
        "contexts": len(model.install.contexts()),
        "matrix_flops_per_second": rate,
        "all_at_once": _described(published, exact, edits)
        | {
            "value_ratio": value / exact.value_seconds(edits),
            "update_ratio": whole * edits / exact.seconds,
            "loss_difference_nats": sum(from_peer) / len(from_peer),
        },
        "in_turn": _described(in_turn, ours, edits),
        "tuned": _described(tuned, best, edits),
        "serial": {"seconds_per_edit": whole, "value_seconds_per_edit": value, "seconds": peer.seconds},
    }


def _described(configuration: Configuration, done: Run, edits: int) -> dict[str, Any]:
    return {
        "configuration": str(configuration),
        "seconds_per_edit": done.seconds / edits,
        "value_seconds_per_edit": done.value_seconds(edits),
        "seconds": done.report.seconds,
        "mean_steps": sum(o.steps for o in done.report.outcomes) / edits,
        "mean_loss": sum(o.loss for o in done.report.outcomes) / edits,
        **vars(done.scores),
    }


def run(model: Model, configuration: Configuration, records: Sequence[Record], say: Say) -> Run:
    """Writes all records in one batch into the unedited model, once the model is warm."""
    say(f"{configuration}: {len(records)} edits in one batch")
    with model.editor(configuration) as editor:
        _warm(editor, records[-1].fact)
        start = time.perf_counter()
        report = editor.apply([record.fact for record in records])
        seconds = time.perf_counter() - start
        say(f"{configuration}: {seconds / len(records):.3f} s an edit; scoring")
        return Run(report, seconds, score(Scorer(editor.model, editor.tokenizer), records))


def _warm(editor: Editor, fact: Fact) -> None:
    state = editor.state
    editor.apply([fact])
    editor.restore(state)


def run_serial(model: Model, published: Configuration, facts: Sequence[Fact]) -> serial.SerialUpdate:
    """The peer's update of the unedited model, which is left unedited."""
    loaded, numbers = model.loaded, published.numbers(model.loaded)
    contexts, layers = model.install.contexts(), _layers(published, model)
    serial.optimise_one(loaded, facts[0], layers[-1], contexts, numbers.values)
    base = loaded.base_weights(layers)
    try:
        moments = model.install.moments(layers)
        return serial.update(loaded, facts, layers, contexts, numbers.values, moments, numbers.moment_weight)
    finally:
        for layer in layers:
            loaded.set_weight(layer, base[loaded.tensor_name(layer)])


def final_losses(model: Model, configuration: Configuration, facts: Sequence[Fact]) -> list[float]:
    """Of values found anew, each with all its prompts asked."""
    loaded, contexts = model.loaded, model.install.contexts()
    layer, options = _layers(configuration, model)[-1], configuration.numbers(loaded).values
    values = optimise(loaded, facts, layer, contexts, options, merged=True)
    return losses(loaded, facts, layer, contexts, options, values).tolist()


def _layers(configuration: Configuration, model: Model) -> tuple[int, ...]:
    (write,) = rounds(configuration.placement, configuration.numbers(model.loaded).layers)
    return write.layers


def spaced(facts: Sequence[Fact], count: int, loaded: LoadedModel) -> list[int]:
    """Indices of `count` facts, evenly spaced by length, so that they cost what the average fact costs."""
    order = sorted(range(len(facts)), key=lambda i: len(encode(loaded.tokenizer, facts[i]).ids))
    count = min(count, len(facts))
    return [order[(2 * i + 1) * len(facts) // (2 * count)] for i in range(count)]


def matrix_rate(loaded: LoadedModel) -> float:
    """Best rate, in flops a second, of products with a weight as large as an FFN's, in the model's dtype."""
    weight = loaded.projection(0).weight
    best = 0.0
    for rows in RATE_ROWS:
        x = torch.randn(rows, weight.shape[1], dtype=weight.dtype, device=weight.device)
        done, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < RATE_SECONDS:
            # Reading one number waits for the device.
            float((x @ weight.T)[0, 0])
            done += 1
        best = max(best, 2 * x.numel() * weight.shape[0] * done / passed)
    return best


def floor_flops(
    model: Model, configuration: Configuration, facts: Sequence[Fact], steps: Iterable[int]
) -> float:
    """Flops that value optimisation cannot do without: matrix products at the positions that δ reaches.

    Those from the subject's last token on, in the layers above, and the head where a target's token or the
    essence prompt's answer is predicted. Forward at each evaluation, and once more backward (weights are
    frozen) at each but the last. Attention scores, norms and the prefix, run once, are left out.
    """
    loaded, contexts = model.loaded, model.install.contexts()
    above = range(_layers(configuration, model)[-1] + 1, len(loaded.layers))
    body = sum(p.numel() for i in above for p in loaded.layers[i].parameters() if p.ndim == 2)
    head = loaded.model.get_output_embeddings().weight.numel()
    total = 0
    for fact, evaluations in zip(facts, steps, strict=True):
        prompts = [encode(loaded.tokenizer, fact, context) for context in contexts]
        positions = 1 + sum(len(p.ids) - 1 - p.subject_last for p in prompts)
        predicted = 1 + sum(len(p.ids) - p.target_start for p in prompts)
        total += 2 * (2 * evaluations - 1) * (positions * body + predicted * head)
    return float(total)


def table(result: dict[str, Any]) -> list[tuple[str, str]]:
    """speed.json as rows of text."""
    peer, all_at_once = result["serial"], result["all_at_once"]
    rate = result["matrix_flops_per_second"] / 1e9
    place = f"{result['dtype']}, {result['threads']} threads, {result['device']}"
    scaled = f"from {result['serial_edits']} of the facts, scaled to one edit"
    return [
        ("model", f"{result['model']}, {place}"),
        ("facts", f"{result['edits']} in one batch, {result['contexts']} contexts"),
        ("serial procedure", f"{_times(peer)}, {scaled}"),
        ("ours, all prompts at once", _own(result["all_at_once"])),
        (
            "  value optimisation",
            f"{all_at_once['value_ratio']:.1f} times the serial procedure's edits a second",
        ),
        ("  whole update", f"{all_at_once['update_ratio']:.1f} times"),
        ("  final loss", f"{all_at_once['loss_difference_nats']:+.4f} nats from the serial procedure's"),
        ("  floor", f"{result['floor_ratio']:.0%} of the time is its matrix products at {rate:.0f} GFLOP/s"),
        ("ours, prompts in turn", _own(result["in_turn"])),
        ("  value optimisation", f"{result['value_ratio']:.1f} times the serial procedure's"),
        ("  whole update", f"{result['update_ratio']:.1f} times"),
        ("  final loss", f"{result['loss_difference_nats']:+.4f} nats from all at once"),
        ("ours, own options", _own(result["tuned"])),
        ("  whole update", f"{result['tuned_ratio']:.1f} times"),
        ("peak memory", f"{result['peak_memory_bytes'] / 2**30:.2f} GiB"),
    ]


def _times(told: dict[str, Any]) -> str:
    return f"{told['seconds_per_edit']:.3f} s an edit (value {told['value_seconds_per_edit']:.3f})"


def _own(told: dict[str, Any]) -> str:
    return f"{_times(told)}, {told['mean_steps']:.1f} steps, S {told['s']:.1f}: {told['configuration']}"
