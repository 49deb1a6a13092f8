"""The batched value optimiser against the published serial procedure (`benchmarks.serial`)."""

from dataclasses import replace

import pytest
import torch

from benchmarks.serial import optimise_one
from editing.facts import Fact
from editing.model.suffixes import finish, suffixes
from editing.model.tokens import encode
from editing.model.tree import Tree
from editing.values import search as values
from editing.values.descent import Evaluation
from editing.values.objective import Rows, Surprise, rows_of
from editing.values.options import ValueOptions
from editing.values.search import losses, optimise
from editing.values.turns import Turns

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


@pytest.mark.parametrize("contexts", [CONTEXTS, [""]])
def test_a_subject_of_one_token_has_nothing_before_it_in_the_essence_prompt(editor, facts, contexts):
    options = ValueOptions(steps=4, rate=0.1)
    lone = Fact("Q", "The letter {} is", "Ada")
    found = optimise(editor.loaded, [lone, facts[0]], LAYER, contexts, options)
    alone = optimise_one(editor.loaded, lone, LAYER, contexts, options)
    torch.testing.assert_close(found.delta[:, 0], alone.delta, atol=1e-4, rtol=1e-4)
    assert abs(float(found.loss[0]) - alone.loss) < 1e-4


def test_prompts_that_share_nothing_have_no_beginnings_to_run(editor):
    prompt = encode(editor.tokenizer, Fact("Q", "{} is", "Ada"), allow_first=True)
    part = suffixes(editor.loaded, [prompt, prompt], LAYER)
    full = editor.model(input_ids=torch.tensor([prompt.ids])).logits[0]
    with torch.no_grad():
        ours = finish(editor.loaded, part, part.hidden, torch.arange(2 * len(prompt.ids)))
    torch.testing.assert_close(ours, torch.cat([full, full]), atol=1e-4, rtol=1e-4)


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
            ours = finish(editor.loaded, part, part.hidden, part.first[row] + steps).log_softmax(-1)
        torch.testing.assert_close(ours, full[prompt.subject_last :], atol=1e-4, rtol=1e-4)


def test_the_surprise_and_its_gradient_are_those_of_log_probabilities():
    logits, token = (
        torch.randn(5, 11, generator=torch.Generator().manual_seed(1)),
        torch.tensor([3, 0, 10, 7, 7]),
    )
    weight = torch.tensor([1.0, 0.5, 2.0, 0.0, 0.25])
    ours, plain = logits.clone().requires_grad_(True), logits.double().requires_grad_(True)
    found = Surprise.apply(ours, token)
    expected = -plain.log_softmax(-1).gather(1, token[:, None])[:, 0]
    torch.testing.assert_close(found, expected.float())
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad.float())


def test_batches_of_values_are_of_like_size(editor, facts, monkeypatch):
    def sizes(options):
        seen = []
        plain = values._optimise_chunk
        with monkeypatch.context() as patch:
            patch.setattr(
                values, "_optimise_chunk", lambda *given: seen.append(len(given[1])) or plain(*given)
            )
            optimise(editor.loaded, facts, LAYER, CONTEXTS, options)
        return seen

    assert len(facts) == 4
    # Three facts would fit with nine prompts at once; asked in turn, three times as many.
    assert sizes(ValueOptions(steps=3, rows=9)) == [2, 2]
    assert sizes(ValueOptions(steps=3, rows=4, turns=3)) == [4]


def test_prompts_share_their_common_beginnings(editor, facts):
    prompts = [encode(editor.tokenizer, fact, context) for fact in facts for context in CONTEXTS]
    tree = Tree.of(prompts, lambda prompt: prompt.subject_last)
    assert tree.shared < sum(prompt.subject_last for prompt in prompts)
    for prompt, path in zip(prompts, tree.paths, strict=True):
        assert tuple(tree.ids[place] for place in path) == prompt.ids
        assert [tree.position[place] for place in path] == list(range(len(prompt.ids)))
        assert all(place >= tree.shared for place in path[prompt.subject_last :])
    own = [place for path in tree.paths for place in path if place >= tree.shared]
    assert sorted(own) == list(range(tree.shared, len(tree.ids)))
    trunk = tree.trunk()
    assert (trunk.ids, trunk.position) == (tree.ids[: tree.shared], tree.position[: tree.shared])
    assert torch.equal(trunk.allowed(None), tree.allowed(None)[: tree.shared, : tree.shared])


@pytest.fixture
def rows(editor, facts):
    units = [facts[:2], facts[2:3], facts[3:]]
    return rows_of(editor.loaded, units, LAYER, CONTEXTS, ValueOptions(kl=1.0))


def test_turns_together_are_the_whole(rows):
    delta = torch.randn(3, 32, generator=torch.Generator().manual_seed(3))
    whole = rows.evaluate(delta)
    parts = [rows.turn(i, 3).evaluate(delta) for i in range(3)]
    torch.testing.assert_close(sum(part.nll for part in parts) / 3, whole.nll)
    torch.testing.assert_close(sum(part.kl for part in parts) / 3, whole.kl)


def test_turns_ask_each_prompt_once(rows):
    groups = [rows.turn(i, 2) for i in range(2)]
    # Two facts, then one and one; an essence prompt for each unit, in the last turn.
    assert [len(group.owner) for group in groups] == [2 * 4, 4 + 3]
    for group in groups:
        torch.testing.assert_close(
            torch.zeros(3).index_add(0, group.owner[group.row], group.weight), torch.ones(3)
        )


def test_a_round_of_turns_knows_the_loss_and_has_the_gradient_of_the_whole(rows):
    generator = torch.Generator().manual_seed(4)
    delta = torch.randn(3, 32, generator=generator).requires_grad_(True)
    whole = rows.evaluate(delta)
    (expected,) = torch.autograd.grad((whole.nll + whole.kl).sum(), delta)
    turns, gradients = Turns.of(rows, 3), []
    for asked in range(1, 4):
        seen = turns.evaluate(delta)
        gradients.append(torch.autograd.grad((seen.nll + seen.kl).sum(), delta)[0])
        # No fact is done before each of its prompts was asked.
        assert bool(seen.nll.isinf().all()) == (asked < 3)
    torch.testing.assert_close(seen.nll, whole.nll)
    torch.testing.assert_close(seen.kl, whole.kl)
    torch.testing.assert_close(sum(gradients) / 3, expected, atol=1e-5, rtol=1e-4)
    left = turns.select(torch.tensor([0, 2]))
    torch.testing.assert_close(left.evaluate(delta[[0, 2]]).nll, whole.nll[[0, 2]])


def test_a_fact_is_done_when_every_turn_gave_the_target(rows, monkeypatch):
    turns = Turns.of(rows, 3)
    told = iter([[True, True, False], [True, False, True], [True, True, True], [True, True, True]])
    none = torch.zeros(3)
    monkeypatch.setattr(Rows, "evaluate", lambda _s, _d: Evaluation(none, none, torch.tensor(next(told))))
    seen = [turns.evaluate(torch.zeros(3, 32)).top.tolist() for _ in range(4)]
    assert seen == [[False] * 3, [False] * 3, [True, False, False], [True, False, True]]


def test_one_context_needs_no_turns(editor, facts):
    plain = optimise(editor.loaded, facts, LAYER, [""], ValueOptions(steps=4, rate=0.1))
    turning = optimise(editor.loaded, facts, LAYER, [""], ValueOptions(steps=4, rate=0.1, turns=3))
    assert torch.equal(turning.delta, plain.delta)


def test_every_prompt_is_asked_however_few_the_steps(editor, facts):
    options = ValueOptions(steps=2, rate=0.1, turns=3)
    assert optimise(editor.loaded, facts, LAYER, CONTEXTS, options).loss.isfinite().all()


def test_both_descents_of_compressed_values_begin_with_nothing_known(editor, facts, monkeypatch):
    """What turns said of the first descent's δ must not end the second one."""
    begun = []

    def descend(objective, *rest):
        begun.append((objective.next, bool(objective.nll.isinf().all()), bool(objective.top.any())))
        return plain(objective, *rest)

    plain = values.descend
    monkeypatch.setattr(values, "descend", descend)
    options = ValueOptions(steps=14, rate=0.1, turns=3, compressed=True, kept=0.5)
    optimise(editor.loaded, facts, LAYER, CONTEXTS, options)
    assert begun == [(0, True, False)] * 2


def test_losses_of_values_are_those_of_the_last_evaluation(editor, facts):
    options = ValueOptions(steps=6, rate=0.1, rows=9)
    values = optimise(editor.loaded, facts, LAYER, CONTEXTS, options)
    found = losses(editor.loaded, facts, LAYER, CONTEXTS, options, values.delta)
    torch.testing.assert_close(found, values.loss, atol=1e-4, rtol=1e-4)


def test_a_turning_fact_does_not_depend_on_its_batch_and_repeats(editor, facts):
    options = ValueOptions(steps=9, rate=0.1, turns=2, finish="argmax")
    together = optimise(editor.loaded, facts, LAYER, CONTEXTS, options)
    again = optimise(editor.loaded, facts, LAYER, CONTEXTS, options)
    alone = optimise(editor.loaded, facts[2:3], LAYER, CONTEXTS, options)
    assert torch.equal(together.delta, again.delta)
    torch.testing.assert_close(together.delta[:, 2:3], alone.delta, atol=1e-4, rtol=1e-4)


def test_turning_values_lower_the_loss_over_all_contexts(editor, facts):
    options = ValueOptions(steps=12, rate=0.1, turns=3)
    values = optimise(editor.loaded, facts, LAYER, CONTEXTS, options)
    before = replace(values, delta=torch.zeros_like(values.delta))
    now, then = (losses(editor.loaded, facts, LAYER, CONTEXTS, options, v.delta) for v in (values, before))
    assert (now < then).all()
