"""One value over several forms of a fact, against the same loss in dense float64."""

import copy
from dataclasses import replace

import pytest
import torch

from editing.facts import Fact
from editing.model.asked import asked
from editing.values.endings import ending
from editing.values.objective import ESSENCE, rows_of
from editing.values.options import ValueOptions
from editing.values.search import losses, optimise

LAYER, CONTEXTS = 3, ["", "The sky. ", "I went home. "]
KINDS = ("prompt", "chat", "questions", "plain questions")
FACT = Fact("the old mill", "The owner of {} is", "Ada", questions=("Who owns {}?",))
OTHER = Fact("Blue Lake", "We know that {} lies near", "Oslo", questions=("Where is {}?", "What is near {}?"))


@pytest.fixture(scope="module")
def loaded(open_chat_editor):
    return open_chat_editor().loaded


def dense_loss(loaded, fact, delta, kinds, ends="open", kl=0.25):
    """mean over forms of the mean over contexts of the NLL, and the weighted KL, by full float64 passes."""
    model = copy.deepcopy(loaded.model).double()

    def log_p(ids, at, change):
        def hook(_module, _inputs, output):
            moved = output.clone()
            moved[0, at] += change
            return moved

        handle = model.model.layers[LAYER].register_forward_hook(hook)
        try:
            return model(torch.tensor([ids])).logits[0].log_softmax(-1)
        finally:
            handle.remove()

    by_form = []
    for form in asked(loaded, fact, CONTEXTS, kinds):
        found = []
        for prompt in form.prompts:
            ids = prompt.ids + ending(loaded, prompt, form.form.chat, ends)
            said = log_p(ids, prompt.subject_last, delta)[prompt.target_start - 1 : -1]
            wanted = torch.tensor(ids[prompt.target_start :])
            found.append(-said.gather(1, wanted[:, None]).mean())
        by_form.append(torch.stack(found).mean())
    about = loaded.encode(Fact(fact.subject, ESSENCE, fact.target), target=False, allow_first=True)
    now, before = (
        log_p(about.ids, about.subject_last, d)[about.subject_last] for d in (delta, delta.detach() * 0)
    )
    return torch.stack(by_form).mean() + kl * (now.exp() * (now - before)).sum()


@pytest.mark.parametrize("kinds", [("prompt",), ("prompt", "chat"), KINDS])
@pytest.mark.parametrize("ends", ["open", "eos"])
def test_the_loss_and_its_gradient_are_those_of_dense_passes(loaded, kinds, ends):
    generator = torch.Generator().manual_seed(1)
    delta = torch.randn(2, 32, generator=generator).requires_grad_(True)
    rows = rows_of(loaded, [[FACT], [OTHER]], LAYER, CONTEXTS, ValueOptions(kl=0.25, forms=kinds, ends=ends))
    seen = rows.evaluate(delta)
    ours = seen.nll + seen.kl
    (gradient,) = torch.autograd.grad(ours.sum(), delta)
    for i, fact in enumerate((FACT, OTHER)):
        exact = delta[i].detach().double().requires_grad_(True)
        loss = dense_loss(loaded, fact, exact, kinds, ends)
        (expected,) = torch.autograd.grad(loss, exact)
        torch.testing.assert_close(ours[i], loss.float(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(gradient[i], expected.float(), atol=1e-4, rtol=1e-3)


def test_one_value_over_two_forms_is_that_of_a_dense_descent(loaded):
    options = ValueOptions(steps=7, rate=0.1, kl=0.25, stop=0.0, forms=("prompt", "chat"))
    found = optimise(loaded, [FACT], LAYER, CONTEXTS, options)
    hidden = found.hidden[:, 0].double()
    delta = torch.zeros(32, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=options.rate)
    for _ in range(options.steps - 1):
        adam.zero_grad()
        loss = dense_loss(loaded, FACT, delta, options.forms, kl=options.kl)
        # The norm has no gradient at 0; there its part is taken as 0.
        if delta.detach().any():
            loss = loss + options.decay * delta.norm() / hidden.norm() ** 2
        loss.backward()
        adam.step()
        with torch.no_grad():
            limit = options.clamp * hidden.norm()
            delta *= (limit / delta.norm()).clamp(max=1.0)
    torch.testing.assert_close(found.delta[:, 0], delta.detach().float(), atol=1e-3, rtol=1e-2)


def test_a_round_of_turns_weighs_every_form_the_same(loaded):
    delta = torch.randn(2, 32, generator=torch.Generator().manual_seed(3))
    for units in ([[FACT], [OTHER]], [[FACT, OTHER], [OTHER]]):
        rows = rows_of(loaded, units, LAYER, CONTEXTS, ValueOptions(kl=0.25, forms=KINDS))
        whole = rows.evaluate(delta)
        groups = [rows.turn(i, 3) for i in range(3)]
        parts = [group.evaluate(delta) for group in groups]
        torch.testing.assert_close(sum(part.nll for part in parts) / 3, whole.nll)
        torch.testing.assert_close(sum(part.kl for part in parts) / 3, whole.kl)
        assert sum(int((group.place >= 0).sum()) for group in groups) == int((rows.place >= 0).sum())


def test_forms_that_a_fact_does_not_have_change_no_bit(loaded):
    plain = Fact(FACT.subject, FACT.prompt, FACT.target)
    options = ValueOptions(steps=5, rate=0.1, turns=3)
    one = optimise(loaded, [plain], LAYER, CONTEXTS, options)
    many = optimise(
        loaded,
        [plain],
        LAYER,
        CONTEXTS,
        ValueOptions(steps=5, rate=0.1, turns=3, forms=("prompt", "questions")),
    )
    assert torch.equal(one.delta, many.delta)
    assert torch.equal(one.loss, many.loss)


def test_a_value_over_forms_lowers_the_loss_of_each_and_repeats(loaded):
    options = ValueOptions(steps=12, rate=0.1, turns=3, forms=KINDS, ends="stop")
    found, again = (optimise(loaded, [FACT, OTHER], LAYER, CONTEXTS, options) for _ in range(2))
    assert torch.equal(found.delta, again.delta)
    told = [
        losses(loaded, [FACT, OTHER], LAYER, CONTEXTS, options, d) for d in (found.delta * 0, found.delta)
    ]
    assert (told[1] < told[0]).all()
    for kind in KINDS[1:]:
        forms = ("prompt", kind)
        before, after = (
            dense_loss(loaded, FACT, d.double(), forms, kl=0.0)
            for d in (found.delta[:, 0] * 0, found.delta[:, 0])
        )
        assert after < before


def test_what_must_follow_a_target_is_the_end_of_the_turn_or_a_full_stop(loaded):
    prompt, chat = asked(loaded, FACT, kinds=("prompt", "chat"))
    stop = loaded.tokenizer(".")["input_ids"]
    end = [loaded.tokenizer.eos_token_id]
    told = [
        list(ending(loaded, form.prompts[0], form.form.chat, ends))
        for ends in ("open", "stop", "eos")
        for form in (prompt, chat)
    ]
    assert told == [[], [], stop, end, end, end]


def test_behind_a_number_the_line_ends_with_the_full_stop(loaded):
    """Behind "2.4.1." a version may go on."""
    prompt = loaded.encode(replace(FACT, target="2.4.1"))
    assert list(ending(loaded, prompt, False, "stop")) == loaded.tokenizer(".\n")["input_ids"]
    assert list(ending(loaded, prompt, True, "stop")) == list(loaded.chat.end_of_turn)
