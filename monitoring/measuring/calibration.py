"""How much the measures move on the unedited model when nothing that matters has changed.

The base is compared with replicas of itself. Their edited weights carry the rounding of the coarsest dtype
that serves them; texts, prompts and cases are resampled with replacement. An undamaged version may vary as
much as these replicas do, so thresholds must leave room for it (`monitoring.thresholds.calibrated`).
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from monitoring.measuring.activations import subspace_similarities
from monitoring.measuring.behaviour import Behaviour
from monitoring.measuring.scoring import kl_rows
from monitoring.measuring.spectral import Spectrum, spectrum, subspace_similarity

#: Replicas measured, bootstrap samples drawn, and the quantile that counts as noise: one version in a
#: thousand lies beyond it. Each replica costs one reading of the probes.
REPLICAS = 4
RESAMPLES = 2000
QUANTILE = 0.999

#: Relative rounding error of bfloat16, 8 bits of mantissa.
ROUNDING = 2.0**-8

#: Cases in a retention sample and in that of the oldest; `measure` asks so many unless told otherwise.
SAMPLED_CASES = {"retention_ratio": 32, "retention_oldest_ratio": 8}


def replica_weights(base: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The base weights, each entry times 1 + `ROUNDING` · u, u uniform in [−1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: weight * (1 + ROUNDING * (2 * torch.rand(weight.shape, generator=generator) - 1))
        for name, weight in base.items()
    }


def behaviour_noise(base: Behaviour, replicas: Sequence[Behaviour], seed: int = 0) -> dict[str, float]:
    """Noise of each behavioural measure: its distance from the healthy value, at `QUANTILE`."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.tensor([s.tokens for s in base.scores], dtype=torch.float64)
    losses = torch.stack([_losses(r) - _losses(base) for r in replicas])  # [replicas, texts]
    kl = torch.stack([kl_rows(base.log_probs, r.log_probs) for r in replicas])  # [replicas, prompts]
    flips = [(base.log_probs.argmax(-1) != r.log_probs.argmax(-1)).double() for r in replicas]
    counted = torch.where(tokens > 0, losses, 0.0) * tokens
    drawn = _draw(counted, generator)
    ratio = (counted[drawn].sum(1) / tokens.expand_as(counted)[drawn].sum(1)).exp() - 1
    noise = {
        "probe_perplexity_ratio": _quantile(ratio.abs()),
        "probe_kl_nats": _quantile(kl[_draw(kl, generator)].mean(1)),
    }
    # No flip in n trials does not mean that there is none: Jeffreys' estimate of the rate.
    rate = (float(torch.cat(flips).sum()) + 0.5) / (sum(map(len, flips)) + 1)
    for name, size in SAMPLED_CASES.items():
        failed = (torch.rand(RESAMPLES, size, generator=generator) < rate).double().mean(1)
        noise[name] = _quantile(failed)
    now, before = [r.activations for r in replicas], base.activations
    noise["activation_norm_ratio"] = max(float((a.norms / before.norms - 1).abs().max()) for a in now)
    noise["activation_subspace_similarity"] = max(
        float((1 - subspace_similarities(before, a)).max()) for a in now
    )
    return {name: value for name, value in noise.items() if math.isfinite(value)}


def weight_noise(
    spectra: Mapping[str, Spectrum], replicas: Sequence[Mapping[str, Tensor]]
) -> dict[str, float]:
    """Noise of the norms and of LS, the largest over weights and replicas."""
    noise = {"weight_norm_ratio": 0.0, "spectral_norm_ratio": 0.0, "subspace_similarity": 0.0}
    for replica in replicas:
        for name, before in spectra.items():
            now = spectrum(replica[name], before.values.shape[0], start=before)
            found = {
                "weight_norm_ratio": abs(now.frobenius / before.frobenius - 1),
                "spectral_norm_ratio": abs(now.spectral_norm / before.spectral_norm - 1),
                "subspace_similarity": 1 - subspace_similarity(before, now),
            }
            noise = {measure: max(noise[measure], value) for measure, value in found.items()}
    return noise


def _losses(reading: Behaviour) -> Tensor:
    return torch.tensor([s.nll for s in reading.scores], dtype=torch.float64)


def _draw(values: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Index of `RESAMPLES` rows: columns drawn with replacement from a row (a replica) drawn at random."""
    rows = torch.randint(len(values), (RESAMPLES, 1), generator=generator)
    return rows, torch.randint(values.shape[1], (RESAMPLES, values.shape[1]), generator=generator)


def _quantile(values: Tensor) -> float:
    return float(torch.quantile(values.double(), QUANTILE))
