import json
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monitoring.baseline import Baseline, baseline_path, measure_baseline, open_baseline
from monitoring.errors import BaselineError, MeasurementError, ProbeError
from monitoring.measure import layer_of, measure, sample_cases, starts_with
from monitoring.measurements import LAYER_MEASURES, Case, CaseResult, Measurements
from monitoring.probes import ProbeSet, default_probes
from monitoring.scoring import Scorer, kl_nats

PROMPT = "The river flows"


def with_output(editor, prompt: str, target: str) -> None:
    """Trains the model until it answers `target`: an edit without an editor."""
    scorer = Scorer(editor.model, editor.tokenizer)
    item = scorer.encode(prompt, target)
    optimiser = torch.optim.Adam(editor.model.parameters(), lr=0.01)
    for _ in range(100):
        logits = editor.model(torch.tensor([item.ids])).logits[0, item.first - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(item.ids[item.first :]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss < 0.02:
            return
    raise AssertionError("the tiny model could not be trained")


def test_an_unedited_model_differs_in_nothing(editor, baseline, probes):
    m = measure(editor, baseline, [], [], None, probes)
    for layer in (1, 2):
        assert m.weight_norm_ratio[layer] == m.spectral_norm_ratio[layer] == 1
        assert m.stable_rank_ratio[layer] == 1
        assert m.drift[layer] == 0
        assert m.subspace_similarity[layer] == pytest.approx(1, abs=1e-6)
        assert m.singular_vector_similarity[layer] == pytest.approx(1, abs=1e-6)
    assert m.probe_kl_nats == 0
    assert m.probe_perplexity_ratio == 1
    assert m.efficacy_ratio is m.paraphrase_ratio is m.neighbourhood_ratio is m.retention_ratio is None
    assert m.cases == {}


def test_an_edit_is_seen_where_it_was_made(editor, baseline, probes):
    name = editor.tensor_names[1]
    editor.set(name, editor.base_weights()[name] * 1.5)
    m = measure(editor, baseline, [], [], 1.25, probes)
    assert m.weight_norm_ratio[1] == 1
    assert m.weight_norm_ratio[2] == pytest.approx(1.5, rel=1e-6)
    assert m.spectral_norm_ratio[2] == pytest.approx(1.5, rel=1e-6)
    assert m.drift[2] == pytest.approx(0.5, rel=1e-6)
    assert m.stable_rank_ratio[2] == pytest.approx(1, rel=1e-6)
    assert m.value_norm_ratio == 1.25
    now = Scorer(editor.model, editor.tokenizer)
    assert m.probe_kl_nats == pytest.approx(
        kl_nats(baseline.log_probs, now.next_log_probs(probes.prompts)), rel=1e-6
    )
    assert m.probe_kl_nats > 0
    assert m.probe_perplexity_ratio == pytest.approx(
        now.perplexity(probes.texts) / baseline.perplexity, rel=1e-6
    )


def test_a_value_without_an_anchor_is_not_measured(editor, baseline, probes):
    assert measure(editor, baseline, [], [], math.nan, probes).value_norm_ratio is None


def test_a_taught_fact_is_answered_and_an_untaught_one_is_not(editor, baseline, probes):
    with_output(editor, PROMPT, "north")
    batch = [
        Case("taught", PROMPT, "North".lower(), paraphrases=(PROMPT, "Ice")),
        Case("untaught", "A heart", "zebra"),
    ]
    m = measure(editor, baseline, batch, batch, None, probes)
    assert m.cases["taught"].efficacy
    assert m.cases["taught"].answer.startswith("north")
    assert m.cases["taught"].paraphrase == 0.5
    assert not m.cases["untaught"].efficacy
    assert m.efficacy_ratio == 0.5
    assert m.retention_ratio == 0.5
    assert m.paraphrase_ratio == 0.5


def test_only_neighbours_the_base_knew_count(editor, probes):
    with_output(editor, PROMPT, "north")
    editor._base = editor.weights()  # a base model that knows one thing
    baseline = measure_baseline(editor, probes, rank=8)
    case = Case("a", "A heart", "beats", neighbours=((PROMPT, "north"), ("Ice", "never known")))
    kept = measure(editor, baseline, [case], [], None, probes)
    assert kept.cases["a"].neighbourhood == kept.neighbourhood_ratio == 1
    for name in editor.tensor_names:
        editor.set(name, 100 * torch.randn(32, 64))
    assert measure(editor, baseline, [case], [], None, probes).neighbourhood_ratio == 0
    unknown = Case("b", "A heart", "beats", neighbours=(("Ice", "never known"),))
    assert measure(editor, baseline, [unknown], [], None, probes).neighbourhood_ratio is None


def test_is_deterministic_and_changes_no_weight(editor, baseline, probes):
    before = {name: p.detach().clone() for name, p in editor.model.named_parameters()}
    earlier = [Case(str(i), f"Prompt {i}", "x") for i in range(10)]
    one, two = (measure(editor, baseline, earlier[:2], earlier, None, probes, sample=4) for _ in range(2))
    for name in (*LAYER_MEASURES, "probe_kl_nats", "probe_perplexity_ratio", "retention_ratio", "cases"):
        assert getattr(one, name) == getattr(two, name)
    assert all(torch.equal(before[name], p) for name, p in editor.model.named_parameters())


def test_a_case_scores_the_same_in_any_batch(editor, baseline, probes):
    cases = [Case(str(i), "A river " * (i + 1), "flows", paraphrases=("It",)) for i in range(5)]
    together = measure(editor, baseline, cases, [], None, probes).cases
    for case in cases:
        assert measure(editor, baseline, [case], [], None, probes).cases[case.id] == together[case.id]


def test_a_broken_weight_gives_nan_and_not_an_old_value(editor, baseline, probes):
    editor.set(editor.tensor_names[0], torch.full((32, 64), math.nan))
    m = measure(editor, baseline, [Case("a", "Ice", "melts")], [], None, probes)
    assert math.isnan(m.weight_norm_ratio[1])
    assert math.isnan(m.subspace_similarity[1])
    assert math.isnan(m.probe_kl_nats)
    assert math.isnan(m.probe_perplexity_ratio)
    assert not m.cases["a"].efficacy


def test_the_sample_depends_on_the_seed_and_not_on_the_order():
    cases = [Case(str(i), "p", "t") for i in range(50)]
    shuffled = random.Random(1).sample(cases, 50)
    assert sample_cases(cases, 10, 0) == sample_cases(shuffled, 10, 0)
    assert sample_cases(cases, 10, 0) != sample_cases(cases, 10, 1)
    kept = set(sample_cases(cases, 10, 0)) & set(sample_cases([*cases, Case("new", "p", "t")], 10, 0))
    assert len(kept) >= 9


def test_layers_and_answers_are_read_from_text():
    assert layer_of("model.layers.8.mlp.down_proj.weight") == 8
    assert layer_of("transformer.h.11.mlp.c_proj.weight") == 11
    assert starts_with("  new   York, a city", "New York")
    assert not starts_with("York", "New York")


def test_a_baseline_survives_storage(editor, baseline, probes, tmp_path):
    baseline.save(tmp_path / "b" / "one.safetensors")
    loaded = Baseline.load(tmp_path / "b" / "one.safetensors")
    assert torch.equal(loaded.log_probs, baseline.log_probs)
    assert loaded.perplexity == baseline.perplexity
    assert loaded.answers == baseline.answers
    m = measure(editor, loaded, [], [], None, probes)
    assert m.subspace_similarity[1] == pytest.approx(1, abs=1e-6)
    assert m.weight_norm_ratio[1] == 1


def test_a_baseline_of_another_model_is_refused(editor, baseline, probes, tmp_path):
    other = ProbeSet(texts=("Else.",), prompts=("Else",))
    with pytest.raises(BaselineError, match="probes"):
        measure(editor, baseline, [], [], None, other)
    editor.base_hash = "another"
    with pytest.raises(BaselineError, match="base model"):
        measure(editor, baseline, [], [], None, probes)
    with pytest.raises(BaselineError, match="delete it"):
        Baseline.load(tmp_path / "missing")
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(BaselineError, match="delete it"):
        Baseline.load(tmp_path / "junk")


def test_the_baseline_is_that_of_the_base_even_when_the_model_is_edited(editor, baseline, probes, tmp_path):
    editor.set(editor.tensor_names[0], torch.zeros(32, 64))
    found = open_baseline(editor, probes, tmp_path)
    assert found.perplexity == baseline.perplexity
    assert torch.equal(found.log_probs, baseline.log_probs)
    path = baseline_path(tmp_path, editor, probes)
    written = path.stat().st_mtime_ns
    assert open_baseline(editor, probes, tmp_path).perplexity == found.perplexity
    assert path.stat().st_mtime_ns == written
    path.write_bytes(b"damaged")
    assert open_baseline(editor, probes, tmp_path).perplexity == found.perplexity


def test_shipped_probes_are_there_and_hashed():
    probes = default_probes()
    assert len(probes.prompts) == 40
    assert len(set(probes.prompts)) == 40
    assert sum(len(text.split()) for text in probes.texts) > 300
    assert probes.sha256 == default_probes().sha256
    assert probes.sha256 != ProbeSet(probes.texts[:1], probes.prompts).sha256
    with pytest.raises(ProbeError):
        ProbeSet(texts=(), prompts=("a",))


numbers = st.floats(allow_nan=False) | st.just(math.inf)
by_layer = st.dictionaries(st.integers(0, 99), numbers, max_size=3)


@given(by_layer, by_layer, st.none() | numbers, st.text(), st.none() | numbers)
def test_measurements_survive_strict_json(norms, similarities, kl, answer, paraphrase):
    m = Measurements(
        weight_norm_ratio=norms,
        subspace_similarity=similarities,
        probe_kl_nats=kl,
        cases={"a": CaseResult(True, answer, paraphrase, target="NaN")},
        measured_at=1.5,
        seconds={"weights": 0.1},
    )
    text = json.dumps(m.to_json(), allow_nan=False)
    assert Measurements.from_json(text) == Measurements.from_json(m.to_json()) == m


def test_nan_survives_json_and_strange_json_is_refused():
    m = Measurements(probe_kl_nats=math.nan, drift={3: math.nan})
    found = Measurements.from_json(json.dumps(m.to_json(), allow_nan=False))
    assert math.isnan(found.probe_kl_nats)
    assert math.isnan(found.drift[3])
    for strange in ('{"nonsense": 1}', "[1]", "{", '{"cases": 3}', '{"probe_kl_nats": "many"}'):
        with pytest.raises(MeasurementError):
            Measurements.from_json(strange)
