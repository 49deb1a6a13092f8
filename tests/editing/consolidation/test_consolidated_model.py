"""An editor that consolidates: what is written later, what leaves, and which bits follow from which facts."""

import pytest
import torch

from editing.consolidation.numbers import ABLE, UNABLE, ConsolidationNumbers, unable
from editing.errors import OptionError
from editing.facts import Fact
from editing.memory.state import CONSOLIDATED
from editing.methods import METHODS


@pytest.fixture
def consolidated(open_chat_editor):
    def opened(**choices):
        return open_chat_editor(forms=("prompt", "chat"), **choices)

    return opened


def numbers(editor, **changed):
    plain = ConsolidationNumbers(editor.layers, epochs=4, batch=4, rate=0.004, forms=("prompt", "chat"))
    return plain.changed(text_rows=1, chat_rows=1, other_rows=0, **changed)


@pytest.fixture
def later():
    return Fact("the tower", "The builder of {} was", "Eva", "f5")


def test_the_weights_follow_from_the_set_of_facts_whatever_came_before(consolidated, facts):
    one, other = consolidated(), consolidated()
    one.apply(facts)
    one.consolidate(numbers=numbers(one))
    other.apply([facts[3], facts[1]])
    other.consolidate(numbers=numbers(other))
    other.apply([facts[2], facts[0]])
    assert other.weight_hashes() != one.weight_hashes()
    other.consolidate(numbers=numbers(other))
    assert other.weight_hashes() == one.weight_hashes()
    assert set(one.state.ids) == set(other.state.ids) == {"f1", "f2", "f3", "f4"}


def test_a_fact_consolidated_retracted_and_consolidated_again_was_never_there(consolidated, facts):
    editor, never = consolidated(), consolidated()
    editor.apply(facts)
    editor.consolidate(numbers=numbers(editor))
    editor.retract("f2")
    editor.consolidate(numbers=numbers(editor))
    never.apply([fact for fact in facts if fact.id != "f2"])
    never.consolidate(numbers=numbers(never))
    assert editor.weight_hashes() == never.weight_hashes()
    base = {name: x.clone() for name, x in editor.base_weights().items()}
    editor.retract("f1", "f3", "f4")
    assert all(torch.equal(weight, base[name]) for name, weight in editor.weights().items())
    editor.consolidate(numbers=numbers(editor))
    assert editor.state.facts == ()


def test_the_state_restores_the_bits_and_its_table_is_what_the_weights_give(consolidated, facts):
    editor, other = consolidated(), consolidated()
    editor.apply(facts)
    joint = editor.weight_hashes()
    editor.consolidate(numbers=numbers(editor))
    assert editor.weight_hashes() != joint
    assert editor.state.fits
    other.restore(editor.state)
    assert other.weight_hashes() == editor.weight_hashes()
    for name, weight in editor.weights().items():
        table = editor.state.table(name)
        torch.testing.assert_close(weight @ table.keys, table.values, atol=1e-4, rtol=1e-4)


def test_later_facts_are_added_and_hold_what_was_trained(consolidated, facts, later):
    editor = consolidated()
    editor.apply(facts)
    editor.consolidate(numbers=numbers(editor))
    before, state = editor.weights(), editor.state
    editor.apply([later])
    assert editor.state.columns[CONSOLIDATED].tolist() == [[1] * 8 + [0] * 2]
    assert editor.state.fits
    for name, weight in editor.weights().items():
        keys = state.table(name).keys
        moved, own = weight - before[name], editor.state.table(name).keys[:, 8:]
        # What the new fact's keys get, those of earlier ones hardly feel.
        assert (moved @ own).norm(dim=0).mean() > 3 * (moved @ keys).norm(dim=0).mean()


def test_a_fact_that_leaves_is_countered_and_the_others_stay(consolidated, facts):
    editor = consolidated()
    editor.apply(facts)
    editor.consolidate(numbers=numbers(editor))
    state, before, base = editor.state, editor.weights(), editor.base_weights()
    editor.retract("f3")
    assert editor.state.ids == tuple(id for id in state.ids if id != "f3")
    assert editor.state.fits
    gone = torch.tensor([state.facts[i].id == "f3" for i in state.owners])
    for name, weight in editor.weights().items():
        keys, trained = state.table(name).keys, before[name] - base[name]
        left = weight - base[name]
        # Of what training added to the answer for its keys little is left; for those of others nearly all.
        assert (left @ keys[:, gone]).norm() < 0.5 * (trained @ keys[:, gone]).norm()
        lost = (weight - before[name]) @ keys[:, ~gone]
        assert lost.norm() < 0.5 * (trained @ keys[:, ~gone]).norm()


def test_compaction_leaves_the_training_behind(consolidated, facts):
    editor, plain = consolidated(), consolidated()
    editor.apply(facts)
    editor.consolidate(numbers=numbers(editor))
    plain.apply(sorted(facts, key=lambda fact: fact.subject))
    editor.compact()
    plain.compact()
    assert CONSOLIDATED not in editor.state.columns
    assert editor.weight_hashes() == plain.weight_hashes()


def test_changes_meanwhile_are_taken_over(consolidated, facts, later):
    editor, aside = consolidated(), consolidated()
    editor.apply(facts)
    start = editor.state
    aside.restore(start)
    aside.consolidate(numbers=numbers(aside))
    found = aside.state
    editor.rebase(start, found)
    assert editor.weight_hashes() == aside.weight_hashes()
    editor.restore(start)
    editor.apply([later], remove=["f1"])
    editor.rebase(start, found)
    aside.retract("f1")
    aside.apply([later])
    assert set(editor.state.ids) == {"f2", "f3", "f4", "f5"}
    assert editor.state.columns[CONSOLIDATED].sum() == 6


@pytest.mark.parametrize("method", ["memit", "locft", "ultraedit"])
def test_methods_that_cannot_write_onto_trained_weights_say_so(open_editor, facts, method):
    editor = open_editor(method=method)
    with pytest.raises(OptionError, match="consolidate with memit-seq"):
        editor.consolidate(numbers=ConsolidationNumbers(editor.layers))


def test_layers_that_the_method_does_not_write_are_refused(consolidated, facts):
    editor = consolidated()
    editor.apply(facts)
    with pytest.raises(OptionError, match=r"layers of a consolidation = \(0,\): use some of"):
        editor.consolidate(numbers=numbers(editor).changed(layers=(0,)))


def test_its_own_numbers_are_what_an_editor_consolidates_with_and_no_part_of_its_settings(
    consolidated, facts
):
    few = {"epochs": 1, "batch": 4, "rate": 0.004, "text_rows": 1, "chat_rows": 1, "other_rows": 0}
    own, plain = consolidated(consolidation=few), consolidated()
    assert (own.consolidation.epochs, plain.consolidation) == (
        1,
        ConsolidationNumbers(plain.layers, forms=plain.forms),
    )
    # A state directory stays what it is: its versions were written with these settings.
    assert own.settings_hash == plain.settings_hash
    for editor in (own, plain):
        editor.apply(facts[:2])
    own.consolidate()
    plain.consolidate(numbers=ConsolidationNumbers(plain.layers, forms=plain.forms).changed(**few))
    assert own.weight_hashes() == plain.weight_hashes()


def test_layers_that_the_method_does_not_write_are_refused_at_the_start(consolidated):
    with pytest.raises(OptionError, match=r"layers of a consolidation = \(77,\): use some of"):
        consolidated(consolidation={"layers": (77,)})


def test_which_methods_can_is_known_without_a_model():
    able = [name for name, made in METHODS.items() if made.valued and not made.batched]
    assert sorted(ABLE) == sorted(able)
    assert {name for name in METHODS if unable(name, "none") is None} == set(able)
    assert unable("memit-seq", "revive") is None
    assert unable("memit-seq", "revive-after") == unable("memit", "none") == UNABLE
