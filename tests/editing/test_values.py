"""The batched value optimiser against the published serial procedure, written out plainly."""

import torch

from editing.forward import finish, suffixes
from editing.tokens import encode
from editing.values import ESSENCE, ValueOptions, optimise

CONTEXTS = ["", "The sky. ", "I went home. "]
LAYER = 3


def serial(loaded, fact, options):
    """MEMIT's compute_z: one request, the whole model forward and backward at every step."""
    tokenizer, model = loaded.tokenizer, loaded.model
    prompts = [encode(tokenizer, fact, c) for c in CONTEXTS]
    essence_text = ESSENCE.replace("{}", fact.subject)
    essence = tokenizer(essence_text)["input_ids"]
    at = len(tokenizer(fact.subject)["input_ids"]) - 1
    delta = torch.zeros(model.config.hidden_size, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=options.rate)
    position = {"value": 0}

    def add(_module, _inputs, output):
        changed = output.clone()
        changed[0, position["value"]] += delta
        return changed

    seen = {}

    def look(_module, _inputs, output):
        seen["hidden"] = output[0, position["value"]].detach().clone()

    def log_p(ids, where):
        position["value"] = where
        return model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)

    with torch.no_grad():
        handle = loaded.layers[LAYER].register_forward_hook(look)
        log_p(prompts[0].ids, prompts[0].subject_last)
        handle.remove()
        before = log_p(essence, at)[at]
    h0 = seen["hidden"]
    handle = loaded.layers[LAYER].register_forward_hook(add)
    for step in range(options.steps):
        nll = torch.stack(
            [
                -torch.stack(
                    [log_p(p.ids, p.subject_last)[i - 1, p.ids[i]] for i in range(p.target_start, len(p.ids))]
                ).mean()
                for p in prompts
            ]
        ).mean()
        now = log_p(essence, at)[at]
        kl = (now.exp() * (now - before)).sum()
        loss = nll + options.kl * kl + options.decay * delta.norm() / h0.norm() ** 2
        if loss < options.stop or step == options.steps - 1:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            limit = options.clamp * h0.norm()
            if delta.norm() > limit:
                delta *= limit / delta.norm()
    handle.remove()
    return delta.detach(), float(loss.detach()), step + 1


def test_batched_rows_equal_the_serial_procedure(editor, facts):
    options = ValueOptions(steps=12, rate=0.1, stop=1.0)
    values = optimise(editor.loaded, facts, LAYER, CONTEXTS, options)
    for i, fact in enumerate(facts):
        delta, loss, steps = serial(editor.loaded, fact, options)
        torch.testing.assert_close(values.delta[:, i], delta, atol=1e-4, rtol=1e-4)
        assert abs(float(values.loss[i]) - loss) < 1e-4
        assert int(values.steps[i]) == steps


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
            ours = finish(editor.loaded, part, part.hidden, torch.full_like(steps, row), steps)
        torch.testing.assert_close(ours, full[prompt.subject_last :], atol=1e-4, rtol=1e-4)
