import json
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editing.memory.state import EditState
from monitoring.errors import BaselineError, MeasurementError, ProbeError
from monitoring.measurements import Case, CaseResult, Measurements, measured_again
from monitoring.measuring.baseline import Baseline, baseline_path, measure_baseline, open_baseline
from monitoring.measuring.behaviour import TEXT_TOKENS
from monitoring.measuring.cases import MOST_BESIDE, retention_samples, sample_cases
from monitoring.measuring.measure import Memory, layer_of, measure
from monitoring.measuring.probes import ProbeSet, default_probes
from monitoring.measuring.schedule import Schedule
from monitoring.measuring.scoring import Scorer, kl_nats, perplexity
from monitoring.registry import LAYER_MEASURES
from monitoring.shares import Counted

PROMPT = "The river flows"


def with_output(editor, prompt: str, target: str) -> None:
    """Trains the model until it says `target`, and then a blank: an edit without an editor."""
    scorer = Scorer(editor.model, editor.tokenizer)
    item = scorer.encode(prompt, f"{target} {target}")
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
        assert m.weight_norm_ratio[layer] == 1
        assert m.spectral_norm_ratio[layer] == pytest.approx(1, abs=1e-9)
        assert m.stable_rank_ratio[layer] == pytest.approx(1, abs=1e-9)
        assert m.gap_aware_similarity[layer] == pytest.approx(1, abs=1e-6)
        assert m.entropy_rank_ratio[layer] == m.corpus_energy_ratio[layer] == 1
        assert m.contact_ratio[layer] == m.key_drift_ratio[layer] == 0
        assert m.drift[layer] == 0
        assert m.subspace_similarity[layer] == pytest.approx(1, abs=1e-6)
        assert m.singular_vector_similarity[layer] == pytest.approx(1, abs=1e-6)
    assert sorted(m.activation_norm_ratio) == sorted(m.layer_share) == [0, 1, 2, 3]
    assert set(m.activation_norm_ratio.values()) == {1}
    assert min(m.activation_subspace_similarity.values()) == pytest.approx(1, abs=1e-6)
    assert m.probe_kl_nats == 0
    assert m.probe_perplexity_ratio == m.canary_ratio == 1
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
        kl_nats(baseline.log_probs, now.next_log_probs(probes.watched)), rel=1e-6
    )
    assert m.probe_kl_nats > 0
    read = [now.encode_text(text[: TEXT_TOKENS + 1]) for text in probes.texts]  # a token is a byte
    expected = perplexity(now.score(read)) / baseline.perplexity
    assert m.probe_perplexity_ratio == pytest.approx(expected, rel=1e-6)
    assert m.activation_norm_ratio[1] == 1
    assert m.activation_norm_ratio[2] != 1
    assert m.activation_subspace_similarity[3] < 1


def test_a_value_without_an_anchor_is_not_measured(editor, baseline, probes):
    assert measure(editor, baseline, [], [], math.nan, probes).value_norm_ratio is None


def test_a_taught_fact_is_answered_and_an_untaught_one_is_not(editor, baseline, probes):
    with_output(editor, PROMPT, "north")
    batch = [
        Case("taught", PROMPT, "North".lower(), paraphrases=(PROMPT,)),
        Case("untaught", "A heart", "zebra", paraphrases=("Ice",)),
    ]
    m = measure(editor, baseline, batch, batch, None, probes)
    assert m.cases["taught"].efficacy
    assert m.cases["taught"].answer.startswith("north")
    assert m.cases["taught"].paraphrase == 1.0
    assert not m.cases["untaught"].efficacy
    assert m.efficacy_ratio == 0.5
    assert m.retention_ratio == 0.5
    assert m.paraphrase_ratio == 0.5
    half = Counted(1, 2)
    assert {m.counted(f"{name}_ratio") for name in ("efficacy", "retention", "paraphrase")} == {half}
    assert m.counted("neighbourhood_ratio") is None
    assert m.counted("retention_oldest_ratio") is None


def test_only_neighbours_the_base_knew_count(editor, probes):
    with_output(editor, PROMPT, "north")
    editor._base = editor.weights()  # a base model that knows one thing
    baseline = measure_baseline(editor, probes, rank=8)
    case = Case("a", "A heart", "beats", neighbours=((PROMPT, "north"), ("Ice", "never known")))
    kept = measure(editor, baseline, [case], [], None, probes)
    assert kept.cases["a"].neighbourhood == kept.neighbourhood_ratio == 1
    assert kept.counted("neighbourhood_ratio") == Counted(1, 1)
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


def test_layers_are_read_from_names():
    assert layer_of("model.layers.8.mlp.down_proj.weight") == 8
    assert layer_of("transformer.h.11.mlp.c_proj.weight") == 11


def test_a_baseline_survives_storage(editor, baseline, probes, tmp_path):
    baseline.save(tmp_path / "b" / "one.safetensors")
    loaded = Baseline.load(tmp_path / "b" / "one.safetensors")
    assert loaded.noise == baseline.noise
    assert loaded.free_answers == baseline.free_answers
    assert torch.equal(loaded.activations.bases, baseline.activations.bases)
    assert loaded.thresholds() == baseline.thresholds()
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


def test_deep_measures_are_taken_on_their_schedule_only(editor, baseline, probes):
    memory = Memory(Schedule(versions=2))
    first, second, third = (measure(editor, baseline, [], [], None, probes, memory=memory) for _ in range(3))
    assert first.canary_ratio == third.canary_ratio == 1
    assert first.entropy_rank_ratio == third.entropy_rank_ratio == {1: 1, 2: 1}
    assert second.canary_ratio is None
    assert second.entropy_rank_ratio == {}
    assert first.audited_at == second.audited_at < third.audited_at


def test_the_base_is_asked_once_for_a_missed_neighbour(editor, baseline, probes, monkeypatch):
    case = Case("a", "A heart", "beats", neighbours=(("Ice", "never known"),))
    memory, asked = Memory(), []
    exact = Scorer.exact
    monkeypatch.setattr(Scorer, "exact", lambda self, pairs: asked.append(list(pairs)) or exact(self, pairs))
    for _ in range(2):
        measure(editor, baseline, [case], [], None, probes, memory=memory)
    # Of the edited model each time, of the base once.
    assert asked.count([("Ice", "never known")]) == 3


def test_retention_asks_the_oldest_a_random_and_the_newest_sample():
    cases = [Case(str(i), "p", "t") for i in range(100)]
    samples = retention_samples(cases, 32)
    assert [c.id for c in samples["oldest"]] == [str(i) for i in range(8)]
    assert [c.id for c in samples["newest"]] == [str(i) for i in range(92, 100)]
    asked = [case.id for sample in samples.values() for case in sample]
    assert len(asked) == len(set(asked)) == 32
    for few in (0, 1, 3, 7, 32):
        found = [case.id for sample in retention_samples(cases[:few], 32).values() for case in sample]
        assert sorted(found) == sorted(case.id for case in cases[:few])


def test_all_earlier_facts_of_the_batchs_subjects_are_asked_and_are_in_no_share(editor, baseline, probes):
    with_output(editor, PROMPT, "north")
    far = [Case(f"far {i}", PROMPT, "north", subject=f"s{i}") for i in range(12)]
    mates = [Case("mate", PROMPT, "zebra", subject="s"), Case("kept", PROMPT, "north", subject="s")]
    earlier = [*far[:6], *mates, *far[6:]]
    sampled = {case.id for sample in retention_samples(earlier, 4).values() for case in sample}
    assert "mate" not in sampled
    alone = measure(editor, baseline, [Case("new", PROMPT, "north")], earlier, None, probes, sample=4)
    assert set(alone.again) == sampled
    new = Case("new", PROMPT, "north", subject="s")
    m = measure(editor, baseline, [new], earlier, None, probes, sample=4)
    assert set(m.again) == sampled | {"mate", "kept"}
    assert m.again["kept"] == {}
    assert m.again["mate"]["prompt"].startswith("north")
    assert m.retention_ratio == 1.0
    unnamed = [Case(str(i), PROMPT, "zebra") for i in range(12)]
    m = measure(editor, baseline, [Case("new", PROMPT, "north")], unnamed, None, probes, sample=4)
    assert len(m.again) == 4
    many = [Case(str(i), PROMPT, "zebra", subject="s") for i in range(MOST_BESIDE + 8)]
    m = measure(editor, baseline, [new], many, None, probes, sample=0)
    assert list(m.again) == [str(i) for i in range(8, MOST_BESIDE + 8)]


def test_facts_of_the_editors_table_are_looked_up_in_the_weights(editor, baseline, probes):
    torch.manual_seed(0)
    name = editor.tensor_names[0]
    keys = torch.randn(64, 3)
    columns = {f"{n}/keys": keys for n in editor.tensor_names}
    columns |= {f"{n}/values": w @ keys for n, w in editor.base_weights().items()}
    editor.state = EditState(facts=("a", "b", "c"), columns=columns)
    assert measure(editor, baseline, [], [], None, probes).key_error_ratio[1] == pytest.approx(0, abs=1e-6)
    editor.set(name, editor.base_weights()[name] * 0.9)
    m = measure(editor, baseline, [], [], None, probes)
    assert m.key_error_ratio[1] == pytest.approx(0.1, rel=1e-4)
    assert m.key_error_ratio[2] == pytest.approx(0, abs=1e-6)


@given(by_layer, by_layer, st.none() | numbers, st.text(), st.none() | numbers)
def test_measurements_survive_strict_json(norms, similarities, kl, answer, paraphrase):
    m = Measurements(
        weight_norm_ratio=norms,
        subspace_similarity=similarities,
        probe_kl_nats=kl,
        cases={"a": CaseResult(True, answer, paraphrase, target="NaN")},
        counts={"retention_ratio": Counted(8, 9)},
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
    for strange in ('{"counts": {"retention_ratio": [9, 8]}}', '{"counts": {"retention_ratio": 3}}'):
        with pytest.raises(MeasurementError):
            Measurements.from_json(strange)
    for strange in ('{"nonsense": 1}', "[1]", "{", '{"cases": 3}', '{"probe_kl_nats": "many"}'):
        with pytest.raises(MeasurementError):
            Measurements.from_json(strange)


def test_measurements_of_before_counts_are_read():
    stored = Measurements(retention_ratio=8 / 9).to_json()
    del stored["counts"]
    assert Measurements.from_json(stored).counted("retention_ratio") is None


def test_a_version_that_is_looked_at_again_keeps_what_its_batch_showed():
    before = Measurements(
        retention_ratio=1.0,
        paraphrase_ratio=0.5,
        counts={"retention_ratio": Counted(4, 4), "paraphrase_ratio": Counted(1, 2)},
        cases={"a": CaseResult(True, "north", target="north")},
    )
    now = Measurements(retention_ratio=0.75, counts={"retention_ratio": Counted(3, 4)})
    again = Measurements.from_json(measured_again(now.to_json(), before.to_json()))
    assert (again.retention_ratio, again.counted("retention_ratio")) == (0.75, Counted(3, 4))
    assert (again.paraphrase_ratio, again.counted("paraphrase_ratio")) == (0.5, Counted(1, 2))
    assert again.cases == before.cases
