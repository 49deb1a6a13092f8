"""Norm-Anchor Scaling: each write vector is rescaled to a norm measured on the unedited model.

Source: "Norm Anchors Make Model Edits Last" (arXiv 2602.02543) and the authors' published procedure.
"""

import itertools
import json
import random
from collections.abc import Sequence
from importlib import resources
from typing import Literal

import torch
from torch import Tensor

from editing.facts import Fact
from editing.model.loaded import LoadedModel
from editing.solve.second_moment import Progress
from editing.typed import entries, norms
from editing.values.options import ValueOptions
from editing.values.search import Values, optimise

AnchorRule = Literal["nas", "nas-cap", "none"]

#: Share of the largest pilot norms left out.
TRIM = 0.05
#: A write vector more than this many anchors long is an outlier and is not written.
OUTLIER = 2.0


def pilot_facts(count: int, seed: int = 0) -> list[Fact]:
    """Rewrite requests composed from the shipped table of subjects, relations and targets."""
    table = json.loads((resources.files("editing.values") / "pilots.json").read_text(encoding="utf-8"))
    every = [
        Fact(subject, prompt, target)
        for kind in table
        for subject, (prompt, targets) in itertools.product(kind["subjects"], kind["relations"])
        for target in targets
    ]
    return random.Random(seed).sample(every, min(count, len(every)))


def anchor_norm(
    loaded: LoadedModel,
    layer: int,
    options: ValueOptions,
    progress: Progress,
    count: int,
    contexts: Sequence[str],
) -> float:
    """a = trimmed mean of ‖v₀ + δ‖ over `count` pilot edits of the clean model.

    The authors make pilots with the bare prompt alone. Must be called on unedited weights: an anchor of an
    edited model anchors nothing.
    """
    values = optimise(
        loaded,
        pilot_facts(count),
        layer,
        contexts,
        options,
        lambda fraction: progress(f"anchor of layer {layer}", fraction),
    )
    ordered = norms(values.output + values.delta, 0).sort().values
    return float(ordered[: len(ordered) - int(TRIM * len(ordered))].mean())


def anchored(
    values: Values, anchor: float, rule: AnchorRule, longest: float = OUTLIER, factor: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Residual-stream targets z = (h₀ − v₀) + v*, with v* = v₀ + δ rescaled to `factor` anchors.

    Returns:
        z [d, n]; ‖v*‖ before rescaling [n]; which facts are outliers (‖v*‖ > `longest` · a) [n], which
        the rule does not write. "nas" scales from both sides, "nas-cap" only down.
    """
    write = values.output + values.delta
    norm = norms(write, 0)
    if rule == "none":
        scale = torch.ones_like(norm)
        outlier = torch.zeros_like(norm, dtype=torch.bool)
    else:
        scale = factor * anchor / norm
        outlier = norm > longest * anchor
    if rule == "nas-cap":
        scale = scale.clamp(max=1.0)
    return values.hidden - values.output + write * scale, norm, outlier


def outlier_reason(norm: float, anchor: float, longest: float = OUTLIER) -> str:
    return (
        f"skipped_outlier: the write vector's norm {norm:.1f} is more than {longest:g} times "
        f"the anchor {anchor:.1f}; reword the prompt or the target"
    )


def skipped(outliers: Tensor, facts: Sequence[Fact]) -> set[str]:
    return {fact.id for fact, bad in zip(facts, entries(outliers), strict=True) if bad}
