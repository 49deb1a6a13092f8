"""LocFT-BF: Adam in mini-batches over all live facts, from the base weights."""

import torch

from editing.methods.locft import ended, train
from editing.values.gradients import surprise


def opened(open_editor, **changed):
    return open_editor(
        method="locft", changed={"layers": (3,), "tuning_rate": 0.01, "tuning_steps": 3} | changed
    )


def test_it_is_adam_on_the_weight_itself_in_mini_batches_of_all_facts(open_editor, facts):
    editor = opened(open_editor, tuning_batch=3)
    (a, b), losses = train(editor.loaded, facts, 3, editor.numbers)
    weight = editor.model.get_parameter(editor.tensor_names[0])
    before = weight.detach().clone()
    weight.requires_grad_(True)
    optimiser = torch.optim.Adam([weight], lr=0.01)
    order = sorted(facts, key=lambda fact: (fact.subject, fact.prompt, fact.target))
    generator, last = torch.Generator().manual_seed(0), {}
    for _ in range(3):
        drawn = torch.randperm(4, generator=generator).tolist()
        for batch in (drawn[:3], drawn[3:]):
            found = {order[i].id: mean_loss(editor, order[i]) for i in batch}
            optimiser.zero_grad()
            (sum(found.values()) / len(batch)).backward()
            optimiser.step()
            last |= found
    weight.requires_grad_(False)
    torch.testing.assert_close(a @ b.T, weight - before, atol=1e-4, rtol=1e-3)
    expected = torch.stack([last[fact.id].detach() for fact in facts])
    torch.testing.assert_close(losses, expected, atol=1e-4, rtol=1e-4)
    weight.copy_(before)


def mean_loss(editor, fact):
    """Of the target's tokens and the end."""
    text = f"{fact.text} {fact.target}"
    ids = [*editor.tokenizer(text)["input_ids"], editor.tokenizer.eos_token_id]
    start = len(editor.tokenizer(fact.text)["input_ids"])
    log_p = editor.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return -torch.stack([log_p[i - 1, ids[i]] for i in range(start, len(ids))]).mean()


def test_the_weights_follow_from_the_set_of_facts(open_editor, facts):
    one, other = opened(open_editor), opened(open_editor)
    one.apply(facts)
    other.apply(facts[2:][::-1])
    other.apply(facts[:2])
    assert one.weight_hashes() == other.weight_hashes()
    one.compact()
    assert one.weight_hashes() == other.weight_hashes()


def test_a_fact_taken_out_is_as_if_it_had_never_been_there(open_editor, facts):
    editor, never = opened(open_editor), opened(open_editor)
    base = editor.weight_hashes()
    editor.apply(facts)
    editor.retract("f2")
    never.apply([fact for fact in facts if fact.id != "f2"])
    assert editor.weight_hashes() == never.weight_hashes()
    editor.retract(*editor.state.ids)
    assert editor.weight_hashes() == base


def test_epochs_lower_the_loss_and_no_epoch_changes_nothing(open_editor, facts):
    editor = opened(open_editor, tuning_steps=20)
    prompts = [ended(editor.loaded, fact) for fact in facts]
    before = surprise(editor.loaded, prompts)
    editor.apply(facts)
    assert (surprise(editor.loaded, prompts) < 0.7 * before).all()
    (_, b), _ = train(editor.loaded, facts, 3, editor.numbers.changed(tuning_steps=0))
    assert b.norm() == 0


def test_one_layer_is_written(open_editor, facts):
    editor = opened(open_editor)
    editor.apply(facts)
    assert editor.layers == (3,)
    assert {a.shape[1] for a, _ in editor.state.factors.values()} == {32}
