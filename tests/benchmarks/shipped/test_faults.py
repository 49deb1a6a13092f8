"""Faults that reach an editor."""

import pytest
import torch

from benchmarks.configuration import Configuration
from benchmarks.shipped.faults import RIDGE, InverseMoments, add_noise
from editing.errors import EditError
from editing.memory.state import EditState
from tests.benchmarks.shipped.conftest import PLAIN


def noise_in(editor):
    base = editor.base_weights()
    return {n: float((w - base[n]).norm() / base[n].norm()) for n, w in editor.weights().items()}


def test_without_a_fault_it_does_what_an_editor_does(model, open_editor, records):
    facts = [record.fact for record in records[:3]]
    faulty = open_editor()
    told = faulty.apply(facts)
    hashes, ids = faulty.weight_hashes(), faulty.state.ids
    faulty.restore(EditState())
    with model.editor(Configuration.parse(PLAIN)) as editor:
        assert editor.apply(facts).ids == told.ids == ids
        assert editor.weight_hashes() == hashes


def test_noise_has_the_norm_asked_for_and_stays_under_the_next_batch(open_editor, records):
    editor = open_editor()
    add_noise(editor, 0.2, seed=1)
    base, noise = editor.base_weights(), {}
    for name, weight in editor.weights().items():
        noise[name] = weight - base[name]
        assert float(noise[name].norm() / base[name].norm()) == pytest.approx(0.2, rel=1e-4)
    editor.apply([records[0].fact])
    for name, weight in editor.weights().items():
        # As much of it as before, whatever the edit added.
        left = ((weight - base[name]) * noise[name]).sum() / noise[name].norm() ** 2
        assert float(left) == pytest.approx(1, abs=0.3)


def test_noise_comes_with_one_batch_and_is_another_each_time(open_editor, records):
    editor = open_editor()
    before = editor.state
    clean = editor.apply([records[0].fact]) and noise_in(editor)
    editor.restore(before)
    found = []
    for _ in range(2):
        editor.noise = 0.5
        editor.apply([records[0].fact])
        found.append(editor.weight_hashes())
        assert all(share > 0.4 for share in noise_in(editor).values())
        editor.restore(before)
        editor.apply([records[0].fact])
        assert noise_in(editor) == clean
        editor.restore(before)
    assert found[0] != found[1]


def test_a_batch_that_cannot_be_written_leaves_the_noise_to_the_next(open_editor, records):
    editor = open_editor()
    editor.noise = 0.5
    with pytest.raises(EditError):
        editor.apply([records[0].fact, records[0].fact])
    assert max(noise_in(editor).values()) == 0
    editor.apply([records[0].fact])
    assert min(noise_in(editor).values()) > 0.4


def test_edits_come_singly_where_that_is_asked_for(open_editor, records):
    editor = open_editor()
    editor.singly = True
    told = editor.apply([record.fact for record in records[:3]])
    assert told.ids == tuple(record.fact.id for record in records[:3])
    assert editor.state.columns["batches"].unique().numel() == 3
    editor.apply([records[3].fact], remove=[records[0].fact.id])
    assert editor.state.ids == tuple(record.fact.id for record in records[1:4])


def test_a_huge_value_is_optimised_without_bounds_and_no_other(open_editor, records):
    editor = open_editor()
    options = editor.options
    editor.huge = frozenset({records[1].fact.id})
    for record in records[:2]:
        editor.apply([record.fact])
    assert editor.options == options
    name = editor.tensor_names[0]
    small, huge = (editor.state.columns[f"{name}/values"][:, i].norm() for i in (0, 1))
    assert huge > 3 * small


def test_inverse_moments_keep_the_trace_and_turn_the_order_of_directions_round(model):
    right, wrong = model.install.moments((2,))[2], InverseMoments(model.install).moments((2,))[2]
    torch.testing.assert_close(wrong.trace(), right.trace())
    values, vectors = torch.linalg.eigh(right)
    found = (vectors.T @ wrong @ vectors).diagonal()
    expected = 1 / (values + RIDGE * values.mean())
    torch.testing.assert_close(found, expected * (values.sum() / expected.sum()))
