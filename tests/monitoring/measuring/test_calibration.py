import math
from dataclasses import replace

import pytest
import torch

from monitoring.measure import Bounds
from monitoring.measuring.activations import Activations
from monitoring.measuring.behaviour import Behaviour, free_answers_kept
from monitoring.measuring.calibration import (
    QUANTILE,
    ROUNDING,
    behaviour_noise,
    replica_weights,
    weight_noise,
)
from monitoring.measuring.scoring import TargetScore
from monitoring.measuring.spectral import spectrum
from monitoring.thresholds import Thresholds, calibrated

ACTIVATIONS = Activations(torch.ones(2).double(), torch.eye(4)[:, :2].expand(2, 4, 2), torch.ones(2).double())
LOG_PROBS = torch.log_softmax(torch.randn(10, 7, generator=torch.Generator().manual_seed(0)), -1)


def reading(losses, log_probs=LOG_PROBS):
    return Behaviour(tuple(TargetScore(loss, 20, False) for loss in losses), log_probs, ACTIVATIONS)


BASE = reading([2.0, 3.0, 2.5, 2.2])


def test_equal_replicas_show_no_noise_but_that_of_few_cases():
    noise = behaviour_noise(BASE, [BASE] * 4)
    assert noise["probe_perplexity_ratio"] == noise["probe_kl_nats"] == noise["activation_norm_ratio"] == 0
    assert 0 < noise["retention_ratio"] < 0.2


def test_noise_is_the_quantile_over_resampled_texts_and_replicas():
    shifted = reading([2.1, 3.1, 2.6, 2.3])  # every text alike, so that resampling changes nothing
    noise = behaviour_noise(BASE, [shifted])
    assert noise["probe_perplexity_ratio"] == pytest.approx(math.exp(0.1) - 1, rel=1e-6)
    one_text = reading([2.1, 3.0, 2.5, 2.2])
    # The draw with most of the one text that moved: four of four has probability 1/256 > 1 − QUANTILE.
    assert QUANTILE == 0.999
    assert behaviour_noise(BASE, [one_text])["probe_perplexity_ratio"] == pytest.approx(
        math.exp(0.1) - 1, rel=1e-6
    )


def test_noise_is_deterministic():
    other = reading([2.1, 2.9, 2.6, 2.2], torch.log_softmax(LOG_PROBS + 0.3 * torch.sin(7 * LOG_PROBS), -1))
    assert behaviour_noise(BASE, [BASE, other]) == behaviour_noise(BASE, [BASE, other])
    assert behaviour_noise(BASE, [BASE, other])["probe_kl_nats"] > 0


def test_replicas_carry_rounding_and_the_weights_noise_is_small():
    base = {"w": torch.randn(16, 40, generator=torch.Generator().manual_seed(1))}
    replica = replica_weights(base, 0)["w"]
    ratio = replica / base["w"] - 1
    assert float(ratio.abs().max()) <= ROUNDING * 1.01
    assert torch.equal(replica, replica_weights(base, 0)["w"])
    assert not torch.equal(replica, replica_weights(base, 1)["w"])
    noise = weight_noise({"w": spectrum(base["w"], 4)}, [{"w": replica}])
    assert all(0 <= value < 0.01 for value in noise.values())


def test_noise_beyond_a_floor_replaces_it():
    floors = Thresholds()
    assert calibrated({}) == floors
    assert calibrated({"probe_kl_nats": 1e-4, "subspace_similarity": 1e-4}) == floors
    loud = calibrated({"probe_kl_nats": 0.2, "probe_perplexity_ratio": 0.1, "subspace_similarity": 0.2})
    assert loud["probe_kl_nats"] == Bounds(0.4, 0.8)
    assert loud["probe_perplexity_ratio"].limit == pytest.approx(1.4)
    assert loud["subspace_similarity"].limit == pytest.approx(0.2)
    assert calibrated({"retention_ratio": 0.125})["retention_ratio"].limit == 0.875


def test_what_is_set_on_purpose_wins(baseline):
    noisy = replace(baseline, noise={"probe_kl_nats": 0.2})
    assert noisy.thresholds()["probe_kl_nats"].limit == 0.8
    assert noisy.thresholds({"probe_kl_nats_limit": 0.1})["probe_kl_nats"].limit == 0.1


def test_the_baseline_holds_the_noise_of_its_own_model(baseline):
    assert set(baseline.noise) >= {"probe_perplexity_ratio", "probe_kl_nats", "subspace_similarity"}
    assert all(0 <= value < 1 for value in baseline.noise.values())


def test_a_free_answer_counts_the_words_before_it_departs():
    assert free_answers_kept(["a b c d"], ["a b x d"]) == 0.5
    assert free_answers_kept(["a b", ""], ["a b c", ""]) == 1
    assert free_answers_kept(["a b", ""], ["", "a"]) == 0
