"""The editor: what is written, what is taken out, and that nothing else changes."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from editing.editor import Editor
from editing.errors import EditError, FactError, OptionError
from editing.facts import Fact
from editing.memory.state import EditState
from editing.model.capture import mean_keys
from editing.model.tokens import encode
from editing.values.anchor import anchored, pilot_facts
from editing.values.kept import Work
from editing.values.options import ValueOptions
from editing.values.search import Values


def served(editor):
    return {name: editor.model.get_parameter(name).clone() for name in editor.tensor_names}


@pytest.mark.parametrize("method", ["memit-seq", "alphaedit"])
@pytest.mark.parametrize("placement", ["spread", "boundary", "single"])
def test_every_combination_writes_and_restores_bits(open_editor, facts, method, placement):
    editor = open_editor(method=method, placement=placement, anchor="nas-cap")
    before, state = editor.weight_hashes(), editor.state
    report = editor.apply(facts)
    assert report.ids == ("f1", "f2", "f3", "f4")
    after = editor.weight_hashes()
    assert all(after[name] != before[name] for name in editor.tensor_names)
    written = editor.state
    editor.restore(state)
    assert editor.weight_hashes() == before
    editor.restore(written)
    assert editor.weight_hashes() == after
    for name, weight in served(editor).items():
        assert torch.equal(weight, editor.weights()[name])


def test_two_runs_give_the_same_bits(open_editor, facts):
    first, second = open_editor(), open_editor()
    first.apply(facts)
    second.apply(facts)
    assert first.weight_hashes() == second.weight_hashes()


def test_retracting_the_only_facts_gives_the_base_bits(editor, facts):
    before = editor.weight_hashes()
    editor.apply(facts[:2])
    editor.retract("f1", "f2")
    assert editor.weight_hashes() == before
    assert editor.state == EditState()


def test_retracting_keeps_the_columns_of_the_others(editor, facts):
    editor.apply(facts)
    columns = editor.state.columns
    editor.retract("f2")
    assert editor.state.ids == ("f1", "f3", "f4")
    for name, column in editor.state.columns.items():
        assert torch.equal(column, columns[name][:, [0, 2, 3]])


def test_written_keys_give_their_values_with_a_light_prior(open_editor, facts):
    editor = open_editor(changed={"moment_weight": 1e-3}, placement="single", anchor="none")
    editor.apply(facts)
    name = editor.tensor_names[0]
    keys, values = (editor.state.columns[f"{name}/{kind}"] for kind in ("keys", "values"))
    torch.testing.assert_close(editor.weights()[name] @ keys, values, atol=0.05, rtol=0.05)


def test_removing_and_adding_in_one_batch(editor, facts):
    editor.apply(facts[:2])
    editor.apply([Fact("the old mill", "The owner of {} is", "Bob", "f9")], remove=["f1"])
    assert editor.state.ids == ("f2", "f9")


def test_compaction_of_one_batch_changes_nothing_but_rounding(editor, facts):
    editor.apply(facts)
    before = editor.weights()
    editor.compact()
    assert editor.state.ids == ("f1", "f2", "f3", "f4")
    for name, weight in editor.weights().items():
        torch.testing.assert_close(weight, before[name], atol=1e-4, rtol=1e-3)


def test_rebasing_without_a_change_gives_the_bits_of_the_compaction(editor, facts):
    editor.apply(facts[:2])
    editor.apply(facts[2:])
    start = editor.state
    editor.compact()
    compacted, hashes = editor.state, editor.weight_hashes()
    editor.restore(start)
    editor.rebase(start, compacted)
    assert editor.weight_hashes() == hashes
    assert editor.state is compacted


def test_rebasing_takes_over_what_changed_since(editor, facts):
    editor.apply(facts[:2])
    editor.apply(facts[2:3])
    start = editor.state
    editor.compact()
    compacted = editor.state
    editor.restore(start)
    editor.apply(facts[3:], remove=["f1"])
    live = editor.state
    editor.rebase(start, compacted)
    assert editor.state.ids == ("f2", "f3", "f4")
    for name, column in editor.state.columns.items():
        assert torch.equal(column[:, :2], compacted.columns[name][:, 1:]), name
        if name.startswith("targets/"):
            assert torch.equal(column[:, 2:], live.columns[name][:, 2:])
    found = editor.weights()
    editor.restore(live)
    editor.compact()
    base = editor.base_weights()
    for name, weight in editor.weights().items():
        # Keys above the lowest layer were recorded with f1 and without f4.
        assert (weight - found[name]).norm() < 0.3 * (weight - base[name]).norm(), name


def test_a_fact_with_another_target_under_the_same_id_is_written_again_when_rebasing(editor, facts):
    editor.apply(facts[:2])
    start = editor.state
    editor.compact()
    compacted = editor.state
    editor.restore(start)
    mate = Fact("the old mill", "The owner of {} was", "Eve", "f9")
    editor.apply([mate])  # shares its value with f1, which gets another one
    assert editor.state.ids == ("f2", "f1", "f9")
    live = editor.state
    editor.rebase(start, compacted)
    assert editor.state.ids == ("f2", "f1", "f9")
    (name,) = (name for name in live.columns if name.startswith("targets/"))
    assert torch.equal(editor.state.columns[name][:, 1:], live.columns[name][:, 1:])


def test_an_interrupted_compaction_goes_on_with_the_values_it_has_kept(open_editor, facts, tmp_path):
    editor, told = open_editor(), []
    editor.apply(facts)
    start = editor.state
    editor.compact()
    hashes = editor.weight_hashes()
    editor.restore(start)

    def cut(stage, fraction):
        told.append(stage)
        if stage == "values" and fraction > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        editor.compact(tmp_path, cut)
    assert editor.state is start
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.safetensors")}
    assert kept
    editor.compact(tmp_path)
    assert editor.weight_hashes() == hashes
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_failure_in_the_middle_leaves_the_weights_as_they_were(editor, facts, monkeypatch):
    editor.apply(facts[:1])
    before, state = editor.weight_hashes(), editor.state
    calls = []

    def broken(*args):
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return real(*args)

    real = Editor._set_weight
    monkeypatch.setattr(Editor, "_set_weight", broken)
    with pytest.raises(RuntimeError, match="power cut"):
        editor.apply(facts[1:])
    assert len(calls) > 2
    assert editor.weight_hashes() == before
    assert editor.state is state


@pytest.mark.parametrize("placement", ["spread", "boundary"])
def test_outlier_is_reported_and_leaves_no_column(open_editor, facts, placement):
    editor = open_editor(placement=placement)
    lonely = open_editor(placement=placement)
    last = editor.rounds[-1].target

    def small_anchor_for_second_fact(values, anchor, rule, longest, factor):
        targets, norms, outliers = anchored(values, anchor, rule, longest, factor)
        outliers = torch.zeros_like(outliers)
        if anchor == editor.anchors[last] and values.delta.shape[1] == 2:
            outliers[1] = True
        return targets, norms, outliers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("editing.refining.anchored", small_anchor_for_second_fact)
        report = editor.apply(facts[:2])
    assert report.ids == ("f1",)
    assert report.outcomes[1].reason.startswith("skipped_outlier")
    assert editor.state.ids == ("f1",)
    lonely.apply(facts[:1])
    for name, weight in editor.weights().items():
        torch.testing.assert_close(weight, lonely.weights()[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("place", [0, 1])
def test_a_fact_whose_subjects_value_is_an_outlier_leaves_the_subjects_others_as_they_were(
    open_editor, facts, place
):
    editor = open_editor()
    editor.apply(facts[:1])
    live, hashes = editor.state, editor.weight_hashes()

    def one_is_long(*given):
        targets, norms, outliers = anchored(*given)
        outliers = torch.zeros_like(outliers)
        # The live fact stands before the new one; the rule flags one of them.
        outliers[place] = len(outliers) == 2
        return targets, norms, outliers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("editing.refining.anchored", one_is_long)
        report = editor.apply([Fact(facts[0].subject, "The miller of {} is", "Bob", "new")])
    assert report.ids == ()
    assert report.outcomes[0].reason.startswith("skipped_outlier")
    assert editor.state.ids == live.ids
    assert editor.weight_hashes() == hashes


def test_duplicate_and_unknown_ids_are_refused(editor, facts):
    editor.apply(facts[:1])
    with pytest.raises(FactError, match="live already"):
        editor.apply(facts[:1])
    with pytest.raises(EditError, match="no live fact"):
        editor.retract("nobody")


@pytest.mark.parametrize(
    "choices", [{"method": "magic"}, {"placement": "top"}, {"anchor": "rope"}, {"protect": "all"}]
)
def test_unknown_options_are_refused_by_name(open_editor, choices):
    with pytest.raises(OptionError, match=next(iter(choices.values()))):
        open_editor(**choices)


def vectors(norms):
    """Values whose v₀ is zero and whose δ has the given norms."""
    delta = torch.zeros(3, len(norms))
    delta[0] = torch.tensor(norms)
    return Values(delta, torch.ones(3, len(norms)), torch.zeros_like(delta), torch.zeros(1), torch.zeros(1))


def test_nas_scales_to_the_anchor_from_both_sides_and_cap_only_down():
    for rule, expected in (("nas", [4.0, 4.0, 4.0]), ("nas-cap", [1.0, 4.0, 4.0]), ("none", [1.0, 4.0, 7.0])):
        targets, norms, outliers = anchored(vectors([1.0, 4.0, 7.0]), 4.0, rule)
        torch.testing.assert_close((targets - 1.0).norm(dim=0), torch.tensor(expected))
        assert norms.tolist() == [1.0, 4.0, 7.0]
        assert not outliers.any()


def test_nas_keeps_the_direction_and_skips_beyond_twice_the_anchor():
    for rule in ("nas", "nas-cap"):
        targets, _, outliers = anchored(vectors([7.9, 8.1]), 4.0, rule)
        assert outliers.tolist() == [False, True]
        assert torch.equal(targets[1:] - 1.0, torch.zeros(2, 2))


def test_the_cap_may_be_some_anchors_high():
    targets, norms, outliers = anchored(vectors([1.0, 5.0, 7.0, 8.1]), 4.0, "nas-cap", factor=1.5)
    assert torch.allclose((targets - 1.0).norm(dim=0), torch.tensor([1.0, 5.0, 6.0, 6.0]))
    assert torch.allclose(norms, torch.tensor([1.0, 5.0, 7.0, 8.1]))
    assert outliers.tolist() == [False, False, False, True]


def test_pilots_are_seeded_and_distinct():
    assert pilot_facts(300) == pilot_facts(300)
    assert len({fact.id for fact in pilot_facts(300)}) == 300


def test_bare_key_weighs_as_much_as_all_contexts_together(editor):
    keys = torch.arange(12.0).reshape(1, 12)
    mean = mean_keys(keys, len(editor.contexts))
    assert mean.tolist() == [[0.5 * 0 + 0.5 * 3, 0.5 * 6 + 0.5 * 9]]


UNEDITED = ValueOptions(steps=6, unedited=True)


def test_values_of_the_unedited_model_do_not_depend_on_what_was_written_before(open_editor, facts):
    alone, after = open_editor(options=UNEDITED), open_editor(options=UNEDITED)
    alone.apply(facts[2:])
    after.apply(facts[:2])
    after.apply(facts[2:])
    layer = alone.rounds[-1].target
    targets = [editor.state.columns[f"targets/{layer}"] for editor in (alone, after)]
    assert torch.equal(targets[0], targets[1][:, 2:])
    for name, weight in served(after).items():
        assert torch.equal(weight, after.weights()[name])


def test_values_of_the_unedited_model_are_found_once(open_editor, facts, monkeypatch):
    shared = Fact(facts[0].subject, "The owner of {} is named", "Eve", "f5")
    options = replace(UNEDITED, steps=5)
    first = open_editor(options=options)
    first.apply([*facts, shared])
    hashes = first.weight_hashes()
    first.restore(EditState())
    second = open_editor(options=options, method="memit-seq")

    def refused(*_args, **_named):
        raise AssertionError("optimised again")

    monkeypatch.setattr("editing.install.optimise", refused)
    second.apply([*facts, shared])
    assert second.weight_hashes() == hashes


def test_a_batch_that_was_killed_between_two_of_its_values_ends_with_the_same_bits(open_editor, facts):
    """What is found beside a fact changes the rounding of its value."""
    editor = open_editor(options=replace(UNEDITED, steps=7))
    editor.apply(facts)
    hashes, install, layer = editor.weight_hashes(), editor.install, editor.rounds[0].target
    kept = sorted((install.directory / install.value_key(layer, editor.options)).iterdir())
    for lost in ([kept[0]], kept[1:], kept[:2]):
        for path in lost:
            path.unlink()
        editor.restore(EditState())
        editor.apply(facts)
        assert editor.weight_hashes() == hashes


def test_a_prompt_is_encoded_once_a_batch(open_editor, facts, monkeypatch):
    editor, asked = open_editor(changed={"again": 1}), Counter()

    def counted(tokenizer, fact, context, *, target, allow_first, **named):
        asked[fact, context, target, allow_first] += 1
        return encode(tokenizer, fact, context, target=target, allow_first=allow_first, **named)

    monkeypatch.setattr("editing.model.loaded.encode", counted)
    editor.loaded.__dict__.pop("_encoded", None)
    editor.apply(facts)
    assert set(asked.values()) == {1}
    rewriting = {(fact, context, True, False) for fact in facts for context in editor.contexts}
    assert rewriting < asked.keys()


def test_what_is_not_kept_is_not_named():
    """A name may take a hash of all weights, which an instant edit must not wait for."""
    keep = Work().keep(lambda: pytest.fail("asked what it is about"), "cpu")
    assert keep("1-of-1", lambda: "found") == "found"
