"""The batched value optimiser against the published serial procedure (`benchmarks.serial`)."""

import torch

from benchmarks.serial import optimise_one
from editing.forward import finish, suffixes
from editing.tokens import encode
from editing.values import ValueOptions, optimise

CONTEXTS = ["", "The sky. ", "I went home. "]
LAYER = 3


def test_batched_rows_equal_the_serial_procedure(editor, facts):
    options = ValueOptions(steps=12, rate=0.1, stop=1.0)
    values = optimise(editor.loaded, facts, LAYER, CONTEXTS, options)
    for i, fact in enumerate(facts):
        alone = optimise_one(editor.loaded, fact, LAYER, CONTEXTS, options)
        torch.testing.assert_close(values.delta[:, i], alone.delta, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(values.hidden[:, i], alone.hidden, atol=1e-4, rtol=1e-4)
        assert abs(float(values.loss[i]) - alone.loss) < 1e-4
        assert int(values.steps[i]) == alone.steps


def test_result_of_a_fact_does_not_depend_on_its_batch(editor, facts):
    options = ValueOptions(steps=8, rate=0.1, rows=9)
    together = optimise(editor.loaded, facts, LAYER, CONTEXTS, options)
    alone = optimise(editor.loaded, facts[2:3], LAYER, CONTEXTS, options)
    torch.testing.assert_close(together.delta[:, 2:3], alone.delta, atol=1e-4, rtol=1e-4)


def test_finished_rows_stop_and_the_others_go_on(editor, facts):
    options = ValueOptions(steps=20, rate=0.1, stop=6.3)
    values = optimise(editor.loaded, facts, LAYER, CONTEXTS, options)
    done = values.loss < 6.3
    assert done.any()
    assert (~done).any()
    assert (values.steps[~done] == 20).all()
    assert (values.steps[done] < 20).all()


def test_delta_stays_below_the_clamp(editor, facts):
    options = ValueOptions(steps=10, rate=5.0, clamp=0.25)
    values = optimise(editor.loaded, facts, LAYER, CONTEXTS, options)
    assert (values.delta.norm(dim=0) <= 0.25 * values.hidden.norm(dim=0) * (1 + 1e-5)).all()


def test_cached_prefix_gives_the_log_probabilities_of_a_full_forward(editor, facts):
    prompts = [encode(editor.tokenizer, fact, context) for fact in facts for context in CONTEXTS]
    part = suffixes(editor.loaded, prompts, LAYER)
    for row, prompt in enumerate(prompts):
        full = editor.model(input_ids=torch.tensor([prompt.ids])).logits[0].log_softmax(-1)
        steps = torch.arange(len(prompt.ids) - prompt.subject_last)
        with torch.no_grad():
            ours = finish(editor.loaded, part, part.hidden, part.first[row] + steps)
        torch.testing.assert_close(ours, full[prompt.subject_last :], atol=1e-4, rtol=1e-4)
