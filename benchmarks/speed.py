"""Edits per second beside the published serial procedure: same model, same facts, same machine, same run.

The serial peer runs on some of the facts, evenly spaced by length, and is scaled to one edit: values and
keys by the number of its facts, the solve, which costs a batch the same whatever its size, by the number of
all facts.

The peer computes in float32, as its authors' code does; ours in whatever is fastest here. In another dtype
than float32 the peer runs once more in that one, for what of the ratio is the dtype's. Losses are compared
in float32.

A machine's speed drifts, by a fifth within a run on those we had: ours runs before, between and after the
peers, and the run of median length counts.
"""

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import serial
from benchmarks.configuration import Configuration, Model
from benchmarks.data import Record
from benchmarks.files import Say
from benchmarks.floor import floor_flops, matrix_rate
from benchmarks.scores import Scores, score
from editing.editor import Editor
from editing.facts import Fact
from editing.model.loaded import LoadedModel
from editing.model.tokens import encode
from editing.report import Report
from editing.values.search import losses, optimise
from monitoring.measuring.scoring import Scorer

#: MEMIT as published: what the peer does, with the steps that most of its models have.
PUBLISHED = "memit:spread:none:none:steps=25,finish=loss"
#: The same, each evaluation asking a third of the prompts.
IN_TURN = f"{PUBLISHED},turns=3"


@dataclass(frozen=True)
class Run:
    """One configuration's batch: what the editor said, how long it took, and what the model makes of it."""

    report: Report
    seconds: float
    scores: Scores

    def value_seconds(self, edits: int) -> float:
        return self.report.seconds["values"] / edits


def speed(
    model: Model,
    records: Sequence[Record],
    tuned: Configuration,
    serial_edits: int,
    say: Say,
    reference: Callable[[], LoadedModel],
) -> dict[str, Any]:
    """Runs ours with the published options, all prompts at once and in turn, and with `tuned`, and the peer.

    Returns speed.json. Ratios are of prompts in turn but for `all_at_once`, which equals the peer step by
    step; `loss_difference_nats` is over all facts from there, and there over the peer's facts from the peer.

    Args:
        tuned: the configuration with the product's own options.
        serial_edits: how many of the facts the peer writes.
        reference: loads the model in float32, in which the peer runs and all losses are asked.
    """
    facts = [record.fact for record in records]
    published, in_turn = Configuration.parse(PUBLISHED), Configuration.parse(IN_TURN)
    # Values kept by an earlier run would cost nothing here; of an unedited model they are the same anew.
    tuned = replace(tuned, changes=(*tuned.changes, ("unedited", "false")))
    exact = run(model, published, records, say)
    ours = [run(model, in_turn, records, say)]
    best = [run(model, tuned, records, say)]

    def repeat() -> None:
        ours.append(run(model, in_turn, records, say, ours[0].scores))
        best.append(run(model, tuned, records, say, best[0].scores))

    # Of this process so far: what the peer needs comes on top only afterwards.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rate = matrix_rate(model.loaded)
    steps = [outcome.steps for outcome in exact.report.outcomes]
    floor = floor_flops(model, published, facts, steps) / rate

    told = model.loaded if model.loaded.model.dtype == torch.float32 else reference()
    chosen = [facts[i] for i in spaced(facts, serial_edits, model.loaded)]
    peer, peer_values = run_serial(model, told, published, chosen, len(facts), say)
    repeat()
    like = peer
    if told is not model.loaded:
        like, _ = run_serial(model, model.loaded, published, chosen, len(facts), say)
    repeat()
    say("the loss of all prompts, in float32")
    from_peer = final_losses(model, published, chosen, told) - losses_of(
        model, published, chosen, told, peer_values
    )
    from_exact = final_losses(model, in_turn, facts, told) - final_losses(model, published, facts, told)
    edits = len(facts)
    return {
        "model": model.name,
        "edits": edits,
        "threads": torch.get_num_threads(),
        "serial_edits_per_second": 1 / peer["seconds_per_edit"],
        "edits_per_second": edits / median(ours).seconds,
        **_ratios(peer, ours, edits),
        "tuned_ratio": _ratios(peer, best, edits)["update_ratio"],
        "loss_difference_nats": float(from_exact.mean()),
        "floor_ratio": floor / exact.report.seconds["values"],
        "peak_memory_bytes": peak,
        "serial_edits": len(chosen),
        "device": str(model.loaded.device),
        "dtype": _dtype(model.loaded),
        "contexts": len(model.install.contexts()),
        "matrix_flops_per_second": rate,
        "all_at_once": _described(published, [exact], edits)
        | _ratios(peer, [exact], edits)
        | {"loss_difference_nats": float(from_peer.mean())},
        "in_turn": _described(in_turn, ours, edits),
        "tuned": _described(tuned, best, edits),
        "serial": peer,
        "serial_in_our_dtype": like
        | _ratios(like, ours, edits)
        | {"tuned_ratio": _ratios(like, best, edits)["update_ratio"]},
    }


def median(runs: Sequence[Run]) -> Run:
    """The one of median length."""
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def _ratios(peer: dict[str, Any], runs: Sequence[Run], edits: int) -> dict[str, float]:
    """Edits a second, ours to the peer's."""
    ours = median(runs)
    return {
        "value_ratio": peer["value_seconds_per_edit"] / ours.value_seconds(edits),
        "update_ratio": peer["seconds_per_edit"] * edits / ours.seconds,
    }


def _dtype(loaded: LoadedModel) -> str:
    return str(loaded.model.dtype).removeprefix("torch.")


def _described(configuration: Configuration, runs: Sequence[Run], edits: int) -> dict[str, Any]:
    done = median(runs)
    return {
        "configuration": str(configuration),
        "seconds_per_edit": done.seconds / edits,
        "value_seconds_per_edit": done.value_seconds(edits),
        "seconds": done.report.seconds,
        "seconds_per_edit_of_each_run": [run.seconds / edits for run in runs],
        "mean_steps": sum(o.steps for o in done.report.outcomes) / edits,
        "mean_loss": sum(o.loss for o in done.report.outcomes) / edits,
        **vars(done.scores),
    }


def run(
    model: Model,
    configuration: Configuration,
    records: Sequence[Record],
    say: Say,
    scores: Scores | None = None,
) -> Run:
    """Writes all records in one batch into the unedited model, once the model is warm.

    Args:
        scores: of an earlier run of the same, whose model was the same.
    """
    say(f"{configuration}: {len(records)} edits in one batch")
    with model.editor(configuration) as editor:
        _warm(editor, records[-1].fact)
        start = time.perf_counter()
        report = editor.apply([record.fact for record in records])
        seconds = time.perf_counter() - start
        say(f"{configuration}: {seconds / len(records):.3f} s an edit")
        return Run(report, seconds, scores or score(Scorer(editor.model, editor.tokenizer), records))


def _warm(editor: Editor, fact: Fact) -> None:
    state = editor.state
    editor.apply([fact])
    editor.restore(state)


def run_serial(
    model: Model, loaded: LoadedModel, published: Configuration, facts: Sequence[Fact], edits: int, say: Say
) -> tuple[dict[str, Any], Tensor]:
    """The peer's update of the unedited model, which is left unedited.

    Args:
        loaded: the model in the dtype to run in.
        facts: what it writes.
        edits: of how many that is a part; the solve is shared by so many.

    Returns:
        Its times, and δ [d, n].
    """
    say(f"serial procedure, {_dtype(loaded)}: {len(facts)} of the {edits} edits")
    numbers, contexts = published.numbers(loaded), model.install.contexts()
    layers = published.layers(model.loaded)
    serial.optimise_one(loaded, facts[0], layers[-1], contexts, numbers.values)
    base = loaded.base_weights(layers)
    try:
        moments = model.install.moments(layers)
        weight = numbers.prior.moment_weight
        done = serial.update(loaded, facts, layers, contexts, numbers.values, moments, weight)
    finally:
        for layer in layers:
            loaded.set_weight(layer, base[loaded.tensor_name(layer)])
    value = done.seconds["values"] / len(facts)
    whole = value + done.seconds["keys"] / len(facts) + done.seconds["solve"] / edits
    told = {"dtype": _dtype(loaded), "seconds_per_edit": whole, "value_seconds_per_edit": value}
    return told | {"seconds": done.seconds}, torch.stack([value.delta for value in done.values], dim=1)


def final_losses(
    model: Model, configuration: Configuration, facts: Sequence[Fact], told: LoadedModel
) -> Tensor:
    """The loss of values found anew, each with all its prompts asked of `told`, nats [n]."""
    options = configuration.numbers(model.loaded).values
    layer = configuration.layers(model.loaded)[-1]
    values = optimise(model.loaded, facts, layer, model.install.contexts(), options, merged=True)
    return losses_of(model, configuration, facts, told, values.delta)


def losses_of(
    model: Model, configuration: Configuration, facts: Sequence[Fact], told: LoadedModel, delta: Tensor
) -> Tensor:
    """The loss of δ [d, n] with all prompts asked of `told`, nats [n]."""
    options = configuration.numbers(model.loaded).values
    layer = configuration.layers(model.loaded)[-1]
    return losses(told, facts, layer, model.install.contexts(), options, delta)


def spaced(facts: Sequence[Fact], count: int, loaded: LoadedModel) -> list[int]:
    """Indices of `count` facts, evenly spaced by length, so that they cost what the average fact costs."""
    order = sorted(range(len(facts)), key=lambda i: len(encode(loaded.tokenizer, facts[i]).ids))
    count = min(count, len(facts))
    return [order[(2 * i + 1) * len(facts) // (2 * count)] for i in range(count)]


def table(result: dict[str, Any]) -> list[tuple[str, str]]:
    """speed.json as rows of text."""
    peer, all_at_once, like = result["serial"], result["all_at_once"], result["serial_in_our_dtype"]
    rate = result["matrix_flops_per_second"] / 1e9
    place = f"{result['dtype']}, {result['threads']} threads, {result['device']}"
    scaled = f"from {result['serial_edits']} of the facts, scaled to one edit"
    return [
        ("model", f"{result['model']}, {place}"),
        ("facts", f"{result['edits']} in one batch, {result['contexts']} contexts"),
        (f"serial procedure, {peer['dtype']}", f"{_times(peer)}, {scaled}"),
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
        (f"serial procedure, {like['dtype']}", _times(like)),
        (
            "  beside it",
            f"{like['value_ratio']:.1f} times in values, {like['update_ratio']:.1f} times in all, "
            f"{like['tuned_ratio']:.1f} with our own options",
        ),
        ("peak memory", f"{result['peak_memory_bytes'] / 2**30:.2f} GiB"),
    ]


def _times(told: dict[str, Any]) -> str:
    return f"{told['seconds_per_edit']:.3f} s an edit (value {told['value_seconds_per_edit']:.3f})"


def _own(told: dict[str, Any]) -> str:
    return f"{_times(told)}, {told['mean_steps']:.1f} steps, S {told['s']:.1f}: {told['configuration']}"
