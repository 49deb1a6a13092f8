"""Forward replay (FE): one value, a target for every layer above it."""

from dataclasses import replace

import pytest
import torch

from editing.columns import replay
from editing.facts import Fact
from editing.forms import every_form
from editing.model.capture import capture
from editing.model.forward import hooks, stream
from editing.solve.placement import Write, rounds
from editing.values.options import ValueOptions

LAYER, ABOVE = 2, [3, 5]
BARE = torch.ones(4, dtype=torch.long)


@pytest.fixture
def change():
    return torch.randn(32, 4, generator=torch.Generator().manual_seed(5))


def passed(loaded, prompt, change):
    """What blocks ABOVE give at the subject's last token when `change` is added to block LAYER there."""
    found = {}

    def add(_module, _inputs, output):
        hidden = stream(output).clone()
        hidden[0, prompt.subject_last] += change
        return hidden

    def read(layer):
        return lambda _module, _inputs, output: found.update({layer: stream(output)[0, prompt.subject_last]})

    handles = [loaded.layers[LAYER].register_forward_hook(add)]
    handles += [loaded.layers[layer].register_forward_hook(read(layer)) for layer in ABOVE]
    with hooks(handles), torch.no_grad():
        loaded.model(torch.tensor([prompt.ids]))
    return found


def test_targets_are_what_a_forward_pass_with_the_value_gives(editor, facts, change):
    columns, _ = replay(editor.loaded, facts, BARE, LAYER, ABOVE, change, "hidden")
    assert set(columns) == {"targets/3", "targets/5"}
    for i, fact in enumerate(facts):
        expected = passed(editor.loaded, editor.loaded.encode(fact, target=False), change[:, i])
        for layer in ABOVE:
            torch.testing.assert_close(
                columns[f"targets/{layer}"][:, i], expected[layer], atol=1e-4, rtol=1e-4
            )


def test_a_form_in_chat_has_a_target_of_its_own_forward_pass(open_chat_editor, facts, change):
    loaded, chat = open_chat_editor().loaded, 2
    forms = torch.tensor([1, chat] * 4)
    columns, shift = replay(loaded, facts, forms, LAYER, ABOVE, change, "hidden")
    for i, fact in enumerate(facts):
        form = next(form for form in every_form(fact) if form.chat)
        expected = passed(loaded, loaded.encode(fact, form=form, target=False), change[:, i])
        for layer in ABOVE:
            found = columns[f"targets/{layer}"][:, i] + shift[fact.id, form.number, layer]
            torch.testing.assert_close(found, expected[layer], atol=1e-4, rtol=1e-4)


def test_without_a_change_the_targets_are_what_is_there(editor, facts):
    columns, _ = replay(editor.loaded, facts, BARE, LAYER, ABOVE, torch.zeros(32, 4), "outputs")
    prompts = [editor.loaded.encode(fact, target=False) for fact in facts]
    there = capture(editor.loaded, prompts, ABOVE).outputs
    for layer in ABOVE:
        torch.testing.assert_close(columns[f"targets/{layer}"], there[layer], atol=1e-5, rtol=1e-5)


def test_a_subject_that_begins_another_does_not_change_it(editor, change):
    pair = [
        Fact("Red", "The height of {} is", "low", "a"),
        Fact("Red Hill", "The height of {} is", "low", "b"),
    ]
    both, _ = replay(editor.loaded, pair, BARE[:2], LAYER, ABOVE, change[:, :2], "hidden")
    alone, _ = replay(editor.loaded, pair[1:], BARE[:1], LAYER, ABOVE, change[:, 1:2], "hidden")
    assert all(torch.equal(both[name][:, 1:], alone[name]) for name in alone)


def test_every_layer_writes_its_whole_residual(open_editor, facts):
    choices = {"method": "memit", "placement": "replay", "anchor": "none", "options": ValueOptions(steps=4)}
    editor, found = open_editor(**choices), open_editor(**choices)
    editor.apply(facts)
    assert editor.rounds == (Write(editor.layers[0], editor.layers),)
    prompts = [found.loaded.encode(fact, target=False) for fact in facts]
    for layer, name in zip(editor.layers, editor.tensor_names, strict=True):
        keys, values = (editor.state.columns[f"{name}/{kind}"] for kind in ("keys", "values"))
        residual = values - editor.base_weights()[name] @ keys
        there = capture(found.loaded, prompts, [layer]).hidden[layer]
        expected = editor.state.columns[f"targets/{layer}"] - there
        assert expected.norm() > 0.01
        torch.testing.assert_close(residual, expected, atol=1e-4, rtol=1e-3)
        found.loaded.set_weight(layer, editor.weights()[name])


def test_replay_over_one_layer_is_that_layer_alone(open_editor, facts):
    choices = {"method": "memit-seq", "anchor": "none", "changed": {"layers": (3,)}}
    hashes = []
    for placement in ("replay", "single"):
        editor = open_editor(placement=placement, **choices)
        editor.apply(facts)
        hashes.append(editor.weight_hashes())
    assert hashes[0] == hashes[1]


def test_facts_in_chat_are_replayed_compacted_and_retracted(open_chat_editor, facts):
    choices = {"placement": "replay", "forms": ("prompt", "chat")}
    asked = [replace(fact, questions=("Who is {}?",)) for fact in facts]
    editor = open_chat_editor(**choices)
    base = editor.weight_hashes()
    editor.apply(asked)
    written, state = editor.weight_hashes(), editor.state
    assert {f"targets/{layer}" for layer in editor.layers} < set(state.columns)
    again = open_chat_editor(**choices)
    again.apply(asked)
    assert again.weight_hashes() == written
    editor.compact()
    editor.retract(*editor.state.ids)
    assert editor.weight_hashes() == base
    editor.restore(state)
    assert editor.weight_hashes() == written


@pytest.mark.parametrize("placement", ["spread", "boundary", "single", "replay"])
def test_each_layer_aims_and_shares_as_its_placement_says(placement):
    layers = (4, 5, 6)
    told = [
        (layer, write.aim(layer), write.left(layer))
        for write in rounds(placement, layers)
        for layer in write.layers
    ]
    assert (
        told
        == {
            "spread": [(4, 6, 3), (5, 6, 2), (6, 6, 1)],
            "boundary": [(4, 4, 1), (6, 6, 1)],
            "single": [(6, 6, 1)],
            "replay": [(4, 4, 1), (5, 5, 1), (6, 6, 1)],
        }[placement]
    )
