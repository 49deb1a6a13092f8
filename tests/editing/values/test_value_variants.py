"""What methods change in the value optimisation: when to stop, what δ is held to, a second change."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from editing.facts import Fact
from editing.methods.interference import MEMORY, WARM_UP, barred, deviating, interference
from editing.model.suffixes import finish
from editing.model.tokens import encode
from editing.values.descent import EASED, SPARSITY, Barred, Compressed, Descended, Evaluation, Restraint
from editing.values.descent import descend as descend_
from editing.values.objective import leads, rows_of
from editing.values.options import ValueOptions
from editing.values.search import optimise

CONTEXTS = ["", "The sky. "]
LAYER = 3
D = 5


@dataclass
class Bowl:
    """NLL = ‖δ − goal‖² per fact; a target is the most probable when that is below `near`."""

    goal: torch.Tensor
    near: float = 0.5
    divergence: float = 0.001
    turns: ClassVar[int] = 1

    def evaluate(self, delta):
        nll = ((delta - self.goal) ** 2).sum(1)
        return Evaluation(nll, self.divergence * (1 + delta.abs().sum(1)), nll.detach() < self.near)

    def select(self, facts):
        return replace(self, goal=self.goal[facts])


def descend(bowl, restraint=None, variables=1, **options):
    norms = torch.full((len(bowl.goal), variables), 100.0)
    chosen = ValueOptions(**({"steps": 60, "rate": 0.1} | options))
    return descend_(bowl, D, norms, chosen, restraint or Restraint())


@pytest.fixture
def bowl():
    return Bowl(torch.randn(6, D, generator=torch.Generator().manual_seed(0)))


def test_most_probable_stop_ends_at_the_first_step_that_has_it(bowl):
    found = descend(bowl, finish="argmax")
    assert (((found.delta[:, 0] - bowl.goal) ** 2).sum(1) < bowl.near).all()
    earlier = [descend(Bowl(bowl.goal[i : i + 1]), steps=int(found.steps[i]) - 1) for i in range(6)]
    assert all(
        float(((e.delta[0, 0] - g) ** 2).sum()) >= 0.5 for e, g in zip(earlier, bowl.goal, strict=True)
    )


def test_extra_steps_are_counted_from_the_first_success(bowl):
    plain, more = descend(bowl, finish="argmax"), descend(bowl, finish="argmax", extra=3)
    # The third is not asked what it has come to.
    assert torch.equal(more.steps, plain.steps + 2)
    assert (more.loss < plain.loss).all()
    once = descend(bowl, finish="argmax", extra=1)
    assert torch.equal(once.steps, plain.steps)
    assert torch.equal(once.loss, plain.loss)
    for i, step in enumerate(plain.steps.tolist()):
        # One evaluation more, and so one update.
        torch.testing.assert_close(once.delta[i], descend(bowl, steps=step + 1).delta[i])


def test_a_fact_stops_the_same_in_any_company(bowl):
    for rule in ("loss", "argmax", "preserved", "probable"):
        together = descend(bowl, finish=rule)
        for i in range(6):
            alone = descend(Bowl(bowl.goal[i : i + 1]), finish=rule)
            assert int(alone.steps) == int(together.steps[i])
            torch.testing.assert_close(alone.delta[0], together.delta[i])


@dataclass
class Quarrel(Bowl):
    """A bowl asked in turn, in which each turn pulls another dimension too, as far as the turns disagree."""

    disagreement: float = 0.0
    asked: int = 0
    turns: ClassVar[int] = 3

    def evaluate(self, delta):
        seen = super().evaluate(delta)
        self.asked += 1
        pull = self.disagreement * (1.0, -0.5, -0.5)[self.asked % 3] * delta[:, -1]
        return replace(seen, nll=seen.nll + pull - pull.detach())


def test_what_turns_disagree_in_does_not_shorten_the_steps():
    """Over whole rounds they agree; were the second moment that of single turns, δ would stay behind."""
    goal = torch.full((1, D), 6.0)
    agreed = descend(Quarrel(goal), steps=31, decay=0.0).delta
    quarrel = descend(Quarrel(goal, disagreement=20.0), steps=31, decay=0.0).delta
    plain = descend(Bowl(goal), steps=31, decay=0.0).delta
    torch.testing.assert_close(agreed, plain, rtol=0.02, atol=0.02)
    torch.testing.assert_close(quarrel[..., :-1], plain[..., :-1], rtol=0.02, atol=0.02)
    assert quarrel[..., -1] == pytest.approx(float(plain[..., -1]), rel=0.2)


def test_probable_stop_is_at_98_percent(bowl):
    found = descend(bowl, finish="probable", decay=0.0)
    assert (found.steps < 60).all()
    assert (((found.delta[:, 0] - bowl.goal) ** 2).sum(1) < max(0.05, -math.log(0.98))).all()


def test_a_target_already_most_probable_weighs_less_until_the_divergence_is_small():
    goal = torch.full((1, D), 4.0)
    looks = [descend(Bowl(goal, 1e9, 0.02), finish="preserved", steps=n, decay=0.0) for n in (1, 2)]
    assert float(looks[0].loss[0]) == pytest.approx(80.02)
    moved = ((looks[1].delta[0, 0] - goal[0]) ** 2).sum()
    expected = EASED * moved + 0.02 * (1 + looks[1].delta.abs().sum())
    assert float(looks[1].loss[0]) == pytest.approx(float(expected))
    # With a small divergence the very first look is the last.
    assert int(descend(Bowl(goal, 1e9), finish="preserved").steps) == 1


def test_two_changes_are_clamped_each_to_its_own_norm():
    bowl = Bowl(torch.full((2, D), 30.0))
    norms = torch.tensor([[4.0, 8.0], [1.0, 20.0]])
    found = descend_(bowl, D, norms, ValueOptions(steps=80, rate=2.0), Restraint())
    torch.testing.assert_close(found.delta.norm(dim=2), 0.75 * norms)


def test_barred_directions_are_left_by_the_facts_flagged_and_by_no_others(bowl):
    directions = torch.linalg.qr(torch.randn(D, 2, generator=torch.Generator().manual_seed(1))).Q
    flagged = torch.tensor([True, False, True, False, False, True])
    held, free = descend(bowl, Barred(directions, flagged)), descend(bowl)
    assert (held.delta[flagged, 0] @ directions).norm() < 1e-5
    assert torch.equal(held.delta[~flagged], free.delta[~flagged])
    outside = bowl.goal - (bowl.goal @ directions) @ directions.T
    torch.testing.assert_close(held.delta[flagged, 0], outside[flagged], atol=0.2, rtol=0.1)


def test_compression_keeps_the_salient_dimensions_and_prices_them_by_saliency():
    generator = torch.Generator().manual_seed(0)
    delta, gradient = torch.randn(2, 3, 1, 40, generator=generator)
    limits = Compressed(Descended(delta, gradient, torch.zeros(3), torch.ones(3)), 0.1)
    facts = torch.arange(3)
    kept = limits.held(facts, torch.ones(3, 1, 40))
    saliency = (delta * gradient).abs()
    for i in range(3):
        assert kept[i, 0].nonzero()[:, 0].tolist() == sorted(
            saliency[i, 0].topk(int(0.1 * 40)).indices.tolist()
        )
    price = (SPARSITY / (saliency + 1e-6) * kept).sum((1, 2))
    torch.testing.assert_close(limits.penalty(facts, torch.ones(3, 1, 40)), price)


def test_compressed_values_move_few_dimensions(editor, facts):
    plain = ValueOptions(steps=20, rate=0.1)
    dense = optimise(editor.loaded, facts, LAYER, CONTEXTS, plain)
    found = optimise(editor.loaded, facts, LAYER, CONTEXTS, replace(plain, compressed=True))
    assert ((dense.delta != 0).sum(0) == 32).all()
    assert ((found.delta != 0).sum(0) == 1).all()
    assert (found.steps <= 20).all()


@pytest.mark.parametrize("context", range(len(CONTEXTS)))
@pytest.mark.parametrize("last", [False, True])
def test_every_target_token_of_every_prompt_must_be_the_most_probable(
    editor, facts, context, last, monkeypatch
):
    """The published code's slice leaves the bare prompt out."""
    rows = rows_of(editor.loaded, [[fact] for fact in facts], LAYER, CONTEXTS, ValueOptions())
    asked = (rows.row == (len(CONTEXTS) + 1) * 1 + context).nonzero()[:, 0]
    missed = asked[-1 if last else 0]

    def answers(_loaded, part, hidden, at):
        logits = finish(_loaded, part, hidden, at)
        logits[: len(rows.token)] = torch.nn.functional.one_hot(rows.token, 257).float()
        logits[missed] = 0.0
        logits[missed, 0] = 1.0
        return logits

    monkeypatch.setattr("editing.values.objective.finish", answers)
    assert rows.evaluate(torch.zeros(4, 32)).top.tolist() == [True, False, True, True]


def test_a_token_leads_when_it_is_more_than_that_before_every_other_one(editor, facts, monkeypatch):
    logits, token = torch.tensor([[3.0, 1.0, 2.5], [1.0, 1.0, 0.0], [0.0, 2.0, 1.0]]), torch.tensor([0, 0, 1])
    assert leads(logits, token, 0.0).tolist() == [True, False, True]
    assert leads(logits, token, 0.4).tolist() == [True, False, True]
    assert leads(logits, token, 0.5).tolist() == [False, False, True]
    assert leads(logits.bfloat16(), token, 1.0).tolist() == [False, False, False]
    rows = rows_of(editor.loaded, [[fact] for fact in facts], LAYER, CONTEXTS, ValueOptions(lead=0.9))

    for part in (rows, rows.turn(0, 2), rows.select(torch.arange(2, 4))):
        right = torch.nn.functional.one_hot(part.token, 257).float()
        monkeypatch.setattr(
            part,
            "_answers",
            lambda _delta, right=right, part=part: (right, torch.zeros(len(part.essence), 257)),
        )
        assert part.evaluate(torch.zeros(4, 32)).top.tolist() == [True] * 4
    assert replace(rows, lead=1.0).evaluate(torch.zeros(4, 32)).top.tolist() == [False] * 4


def test_in_chat_a_value_takes_more_steps():
    options = ValueOptions(steps=5, chat_steps=3, extra=1, chat_ends="stop")
    assert options.asked_in(False) == options
    asked = options.asked_in(True)
    assert (asked.steps, asked.extra, asked.ends, asked.chat_steps) == (8, 1, "stop", 0)
    assert asked.asked_in(True) == asked


def serial_pmet(loaded, fact, options):
    """PMET's two changes with a full pass each step; both join the stream at the block's output."""
    tokenizer, model, size = loaded.tokenizer, loaded.model, loaded.model.config.hidden_size
    prompts = [encode(tokenizer, fact, c) for c in CONTEXTS]
    subject = tokenizer(f"{fact.subject} is a")["input_ids"]
    at = len(tokenizer(fact.subject)["input_ids"]) - 1
    changes = [torch.zeros(size, requires_grad=True) for _ in range(2)]
    optimiser = torch.optim.Adam(changes, lr=options.rate)
    where, seen = {"position": 0}, {}
    block = loaded.layers[LAYER]

    def run(ids, position, add):
        where["position"] = position
        hook = block.register_forward_hook(
            lambda _m, _i, out: (
                out.index_add(1, torch.tensor([position]), sum(changes)[None, None]) if add else out
            )
        )
        found = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        hook.remove()
        return found

    handles = [
        block.self_attn.register_forward_hook(lambda _m, _i, out: seen.update(attention=out[0][0])),
        block.mlp.register_forward_hook(lambda _m, _i, out: seen.update(mlp=out[0])),
    ]
    with torch.no_grad():
        run(prompts[0].ids, prompts[0].subject_last, False)
        norms = [seen[name][prompts[0].subject_last].norm() for name in ("mlp", "attention")]
        before = run(subject, at, False)[at]
    for handle in handles:
        handle.remove()
    ease = 1.0
    for step in range(options.steps):
        each, top = [], True
        for p in prompts:
            log_p = run(p.ids, p.subject_last, True)[p.target_start - 1 : -1]
            wanted = torch.tensor(p.ids[p.target_start :])
            each.append(-log_p.gather(1, wanted[:, None]).mean())
            top = top and bool((log_p.argmax(1) == wanted).all())
        now = run(subject, at, True)[at]
        kl = options.kl * (now.exp() * (now - before)).sum()
        decay = sum(c.norm() / n**2 for c, n in zip(changes, norms, strict=True))
        loss = ease * torch.stack(each).mean() + kl + options.decay * decay
        ease = 0.1 if top else 1.0
        if loss < options.stop or (top and kl <= 0.01) or step == options.steps - 1:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for change, norm in zip(changes, norms, strict=True):
                change *= min(1.0, float(options.clamp * norm / change.norm()))
    return changes[0].detach(), float(loss.detach()), step + 1


def test_two_changes_equal_the_serial_procedure(editor, facts):
    options = ValueOptions(steps=10, rate=0.1, kl=1.0, finish="preserved", attention=True)
    values = optimise(editor.loaded, facts, LAYER, CONTEXTS, options)
    for i, fact in enumerate(facts):
        delta, loss, steps = serial_pmet(editor.loaded, fact, options)
        torch.testing.assert_close(values.delta[:, i], delta, atol=1e-4, rtol=1e-3)
        assert abs(float(values.loss[i]) - loss) < 1e-3
        assert int(values.steps[i]) == steps


SHARED = [
    Fact("the old mill", "The owner of {} is", "Ada", "a"),
    Fact("a cat", "The colour of {} was", "red", "b"),
    Fact("the old mill", "The owner of {} lives in", "Rome", "c"),
    Fact("the old mill", "The miller of {} is", "Bob", "d"),
]


def test_facts_of_one_subject_get_one_value_that_serves_all(editor):
    options = ValueOptions(steps=8, rate=0.1)
    merged = optimise(editor.loaded, SHARED, LAYER, CONTEXTS, options, merged=True)
    apart = optimise(editor.loaded, SHARED, LAYER, CONTEXTS, options)
    assert torch.equal(merged.delta[:, 0], merged.delta[:, 2])
    assert torch.equal(merged.delta[:, 0], merged.delta[:, 3])
    assert not torch.allclose(apart.delta[:, 0], apart.delta[:, 2], atol=1e-3)
    torch.testing.assert_close(merged.delta[:, 1], apart.delta[:, 1], atol=1e-4, rtol=1e-4)


def test_facts_that_share_a_value_keep_what_each_has_without_it(editor):
    options = ValueOptions(steps=2)
    merged = optimise(editor.loaded, SHARED, LAYER, CONTEXTS, options, merged=True)
    apart = optimise(editor.loaded, SHARED, LAYER, CONTEXTS, options)
    torch.testing.assert_close(merged.hidden, apart.hidden)
    torch.testing.assert_close(merged.output, apart.output)
    # Before "The miller of" the subject has another h₀ than before "The owner of".
    assert not torch.allclose(merged.hidden[:, 0], merged.hidden[:, 3], atol=1e-3)


def test_values_that_are_kept_are_those_of_each_fact(editor):
    options = ValueOptions(steps=2, rate=0.1)
    found = editor.install.values(SHARED, LAYER, options)
    assert editor.install.lacking(SHARED, LAYER, options) == []
    apart = optimise(editor.loaded, SHARED, LAYER, editor.install.contexts(), options)
    torch.testing.assert_close(found.hidden, apart.hidden)
    again = editor.install.values(SHARED, LAYER, options)
    assert all(torch.equal(x, y) for x, y in zip(vars(found).values(), vars(again).values(), strict=True))
    # Of fewer facts of a subject it is another value.
    assert editor.install.lacking(SHARED[:3], LAYER, options) == [SHARED[0], SHARED[2]]


def test_a_value_of_several_facts_has_the_steps_of_all(editor):
    options = ValueOptions(steps=3, stop=0.0)
    merged = optimise(editor.loaded, SHARED, LAYER, CONTEXTS, options, merged=True)
    assert merged.steps.tolist() == [9, 3, 9, 9]


def test_a_shared_value_starts_from_the_mean_loss_of_its_facts(editor):
    once = ValueOptions(steps=1, kl=0.0, rate=0.0)
    merged = optimise(editor.loaded, SHARED, LAYER, CONTEXTS, once, merged=True)
    apart = optimise(editor.loaded, SHARED, LAYER, CONTEXTS, once)
    torch.testing.assert_close(merged.loss[0], apart.loss[[0, 2, 3]].mean())
    torch.testing.assert_close(merged.loss[1], apart.loss[1])


def test_interference_is_what_the_update_adds_for_a_key():
    a, b, keys = torch.randn(4, 2), torch.randn(6, 2), torch.randn(6, 3)
    torch.testing.assert_close(interference((a, b), keys)[0], ((a @ b.T) @ keys).norm(dim=0))
    assert interference(None, keys).tolist() == [[0.0, 0.0, 0.0]]


def test_only_a_deviation_after_the_warm_up_is_flagged_and_kept_out_of_the_mean():
    norms = torch.tensor([1.0, 1.2] * 15)
    calm = deviating(norms, 0, 3.0)
    assert not calm.any()
    early, late = norms.clone(), norms.clone()
    early[WARM_UP - 1], late[[25, 27]] = 9.0, 9.0
    assert not deviating(early, 0, 3.0)[WARM_UP - 1]
    assert deviating(late, 0, 3.0).nonzero()[:, 0].tolist() == [25, 27]


def test_deviations_are_those_of_the_running_moments():
    norms = 1 + 0.2 * torch.rand(40, generator=torch.Generator().manual_seed(0))
    expected, mean, variance = [], float(norms[0]), 0.0
    for i, norm in enumerate(norms.tolist()):
        out = i >= WARM_UP and abs(norm - mean) > 1.0 * math.sqrt(variance)
        expected.append(out)
        if not out:
            mean = MEMORY * mean + (1 - MEMORY) * norm
            variance = MEMORY * variance + (1 - MEMORY) * (norm - mean) ** 2
    assert any(expected)
    assert deviating(norms, 0, 1.0).tolist() == expected
    assert deviating(norms, 30, 1.0).tolist() == expected[30:]


def test_barred_are_the_leading_output_directions_of_the_update():
    a, b = torch.randn(8, 3), torch.randn(12, 3)
    found = barred((a, b), torch.tensor([True, False]), 0.25)
    assert found is not None
    u = torch.linalg.svd(a @ b.T, full_matrices=False).U[:, :2]
    torch.testing.assert_close(found.directions @ found.directions.T, u @ u.T, atol=1e-4, rtol=1e-4)
    assert barred((a, b), torch.tensor([False, False]), 0.25) is None
    assert barred(None, torch.tensor([True]), 0.25) is None
