"""Every method through the editor: what is written, taken out, restored, repeated and refused."""

from dataclasses import replace

import pytest
import torch

from editing.errors import EditError, OptionError
from editing.facts import Fact
from editing.memory.state import EditState
from editing.methods import METHODS
from editing.methods.published import numbers
from editing.methods.tuning import tune
from editing.model.capture import capture
from editing.model.tokens import encode
from editing.solve.placement import rounds
from editing.values.anchor import anchored
from editing.values.options import ValueOptions
from editing.values.search import optimise

TUNED = ["ft", "lora"]
#: Methods without values, which therefore have nothing to anchor and nothing to protect.
PLAIN = [*TUNED, "locft", "ultraedit", "stableedit"]
SOLVED = [name for name in METHODS if name not in PLAIN]
MORE = [
    Fact("Red Hill", "The height of {} is", "low", "g1"),
    Fact("Mia", "The sister of {} likes", "tea", "g2"),
]


def test_every_name_of_the_contract_is_a_method():
    names = "rome memit memit-seq pmet emmet alphaedit encore nse deltaedit eac rect prune ft lora"
    names += " evoedit ultraedit stableedit locft"
    assert set(METHODS) == set(names.split())


def combinations():
    for method in METHODS:
        yield method, METHODS[method].placements[0], "none"
        if method in SOLVED:
            yield method, "single", "revive"
    for method in ("memit", "pmet", "deltaedit", "prune", "memit-seq"):
        yield method, "boundary", "none"
    for method in ("memit", "memit-seq", "deltaedit"):
        yield method, "replay", "none"
    yield "ft", "single", "none"
    yield "rect", "boundary", "revive-after"


@pytest.mark.parametrize(("method", "placement", "protect"), list(combinations()))
def test_two_batches_are_written_restored_and_one_fact_is_retracted(
    open_editor, facts, method, placement, protect
):
    choices = {
        "method": method,
        "placement": placement,
        "protect": protect,
        "anchor": "none",
        "options": ValueOptions(steps=4),
        # The rates published for large models move a random small one by less than its rounding.
        "changed": {"warm_up": 8, "step_rate": 1e-3} if method in ("ultraedit", "stableedit") else {},
    }
    editor = open_editor(**choices)
    base = editor.weight_hashes()
    states, hashes = [editor.state], [base]
    for batch in (facts, MORE):
        report = editor.apply(batch)
        assert report.ids == tuple(fact.id for fact in batch)
        states.append(editor.state)
        hashes.append(editor.weight_hashes())
    assert all(b not in (a, c) for a, b, c in zip(*(h.values() for h in hashes), strict=True))
    assert editor.state.ids == ("f1", "f2", "f3", "f4", "g1", "g2")
    # Everything recorded is recorded of every fact.
    assert {column.shape[1] for column in editor.state.columns.values()} <= {6}
    for state, expected in zip(states, hashes, strict=True):
        editor.restore(state)
        assert editor.weight_hashes() == expected
    again = open_editor(**choices)
    again.restore(states[1])
    again.apply(MORE)
    assert again.weight_hashes() == hashes[2]
    if method in TUNED:
        with pytest.raises(EditError, match="records no keys"):
            editor.retract("f2")
        with pytest.raises(EditError, match="records no keys"):
            editor.compact()
        assert editor.weight_hashes() == hashes[2]
    else:
        editor.retract("f2")
        assert editor.state.ids == ("f1", "f3", "f4", "g1", "g2")
        recorded = set() if method == "locft" else {5}
        assert {column.shape[1] for column in editor.state.columns.values()} == recorded
        editor.compact()
        assert {column.shape[1] for column in editor.state.columns.values()} == recorded
    editor.retract(*editor.state.ids)
    assert editor.weight_hashes() == base
    assert editor.state == EditState()


@pytest.mark.parametrize("method", ["memit", "rome", "nse", "rect", "prune", "evoedit"])
def test_state_is_the_same_bits_whether_grown_or_folded_anew(open_editor, facts, method):
    editor = open_editor(method=method, placement="single", anchor="none")
    editor.apply(facts)
    editor.apply(MORE)
    grown = editor.state.factors
    layer, name = editor.layers[0], editor.tensor_names[0]
    folded = editor._solvers[layer].factors(editor.state.table(name))
    assert all(torch.equal(a, b) for a, b in zip(grown[name], folded, strict=True))


@pytest.mark.parametrize("protect", ["none", "revive", "revive-after"])
@pytest.mark.parametrize("method", ["memit-seq", "encore", "alphaedit"])
def test_joint_methods_add_columns_and_reach_the_solve_of_all(open_editor, facts, method, protect):
    # The tiny model has few directions that text does not use.
    changed = {"protected_share": 0.1, "nullspace_threshold": 1.0, "moment_weight": 1.0}
    editor = open_editor(method=method, placement="single", anchor="none", protect=protect, changed=changed)
    layer, name = editor.layers[0], editor.tensor_names[0]
    for batch in (facts, MORE):
        before = editor.state.factors.get(name)
        editor.apply(batch)
    grown = editor.state.factors[name]
    if protect != "revive-after":
        assert all(torch.equal(old, new[:, :4]) for old, new in zip(before, grown, strict=True))
    at_once = editor._solvers[layer].factors(editor.state.table(name))
    changes = [a.double() @ b.double().T for a, b in (grown, at_once)]
    assert (changes[0] - changes[1]).norm() < 1e-5 * changes[1].norm()


def test_batches_of_a_chain_are_recorded_and_compaction_makes_them_one(open_editor, facts):
    editor = open_editor(method="memit", placement="boundary", anchor="none")
    editor.apply(facts)
    editor.apply(MORE)
    editor.retract("f1")
    assert editor.state.columns["batches"].tolist() == [[0, 0, 0, 1, 1]]
    editor.apply([Fact("Tom", "The hat of {} is", "big", "h1")])
    assert editor.state.columns["batches"].tolist() == [[0, 0, 0, 1, 1, 2]]
    editor.compact()
    assert editor.state.columns["batches"].tolist() == [[0] * 6]


def test_compacting_nothing_changes_nothing(editor):
    before = editor.weight_hashes()
    editor.compact()
    assert editor.weight_hashes() == before


@pytest.mark.parametrize("protect", ["revive", "revive-after"])
def test_written_weights_keep_their_dominant_directions(open_editor, facts, protect):
    editor = open_editor(protect=protect, anchor="none", changed={"protected_share": 0.1})
    editor.apply(facts)
    for name, weight in editor.weights().items():
        base = editor.base_weights()[name].double()
        u, _, vt = torch.linalg.svd(base, full_matrices=False)
        delta = weight.double() - base
        assert delta.norm() > 0
        assert (delta @ vt[:3].T).norm() < 1e-4 * delta.norm()
        assert (u[:, :3].T @ delta).norm() < 1e-4 * delta.norm()


def test_rome_writes_the_target_as_output_for_the_averaged_key(open_editor, facts):
    editor = open_editor(method="rome", anchor="none")
    editor.apply(facts[:1])
    name, layer = editor.tensor_names[0], editor.layers[0]
    written = editor.weights()[name] @ editor.state.columns[f"{name}/keys"]
    torch.testing.assert_close(written, editor.state.columns[f"targets/{layer}"], atol=1e-3, rtol=1e-3)


def test_anchored_rome_writes_values_of_the_anchor_and_has_a_wider_outlier_rule(open_editor, facts):
    editor = open_editor(method="rome")
    assert editor.rule == "nas"
    layer = editor.layers[0]
    norm = editor.apply(facts[:1]).outcomes[0].value_norm
    written = editor.state.columns[f"targets/{layer}"].norm(dim=0)
    torch.testing.assert_close(written, torch.tensor([editor.anchors[layer]]))
    editor.retract("f1")
    editor.anchors[layer] = norm / 6
    assert "more than 5 times" in editor.apply(facts[:1]).outcomes[0].reason
    editor.anchors[layer] = norm / 4
    assert editor.apply(facts[:1]).ids == ("f1",)


def test_pmet_spreads_the_residual_by_the_root_of_the_layers_left(open_editor, facts):
    editor = open_editor(method="pmet", anchor="none")
    assert [round(editor.method.share(n) ** 2, 6) for n in (3, 2, 1)] == [3, 2, 1]
    editor.apply(facts)
    assert set(editor.state.columns) >= {f"targets/{editor.layers[-1]}"}


def test_interference_is_recorded_and_the_same_after_a_restart(open_editor, facts):
    editor = open_editor(method="deltaedit", anchor="none")
    editor.apply(facts)
    name = f"interference/{editor.layers[-1]}"
    assert editor.state.columns[name].tolist() == [[0.0] * 4]
    editor.apply(MORE)
    assert (editor.state.columns[name][0, 4:] > 0).all()


def test_a_fact_disturbed_more_than_usual_avoids_the_directions_of_the_update(open_editor, facts):
    editor = open_editor(method="deltaedit", placement="single", anchor="none", changed={"deviations": 1e-6})
    editor.apply(facts)
    layer, name = editor.layers[-1], editor.tensor_names[-1]
    # Twenty facts with hardly differing interference: whatever comes next deviates.
    state, column = editor.state, f"interference/{layer}"
    steady = 1.0 + 0.001 * (torch.arange(24) % 2)[None]
    many = {key: value.repeat(1, 6) for key, value in state.columns.items()} | {column: steady}
    copies = tuple(replace(fact, id=f"{fact.id}-{i}") for i in range(6) for fact in state.facts)
    editor.restore(replace(state, facts=copies, columns=many))
    before = editor.model.get_parameter(name).clone()
    editor.apply(MORE[:1])
    target = editor.state.columns[f"targets/{layer}"][:, -1:]
    plain = open_editor(method="alphaedit", placement="single", anchor="none")
    plain.restore(replace(state, columns={k: v for k, v in state.columns.items() if k != column}))
    assert torch.equal(plain.model.get_parameter(name), before)
    plain.apply(MORE[:1])
    free = plain.state.columns[f"targets/{layer}"][:, -1:]
    a, b = (factor.double() for factor in state.factors[name])
    u = torch.linalg.svd(a @ b.T, full_matrices=False).U[:, :4].float()
    # Both began at the same h₀: the two targets differ within the barred directions.
    assert (u.T @ (target - free)).norm() > 1e-3


def test_fine_tuning_is_adam_on_the_weights_themselves(open_editor, facts):
    editor = open_editor(method="ft", placement="single")
    layer, name = editor.layers[0], editor.tensor_names[0]
    p = editor.numbers.changed(tuning_steps=3, tuning_rate=0.01)
    update, losses = tune(editor.loaded, facts, [layer], p, low_rank=False, seed=0)
    weight = editor.model.get_parameter(name)
    before = weight.detach().clone()
    weight.requires_grad_(True)
    optimiser = torch.optim.Adam([weight], lr=0.01)
    for _ in range(3):
        loss = torch.stack([mean_loss(editor, fact) for fact in facts])
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
    a, b = update[layer]
    torch.testing.assert_close(a @ b.T, weight.detach() - before, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(losses, loss.detach(), atol=1e-4, rtol=1e-4)


def mean_loss(editor, fact):
    text = f"{fact.text} {fact.target}"
    ids, start = editor.tokenizer(text)["input_ids"], len(editor.tokenizer(fact.text)["input_ids"])
    log_p = editor.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return -torch.stack([log_p[i - 1, ids[i]] for i in range(start, len(ids))]).mean()


def test_lora_is_adam_on_both_factors(open_editor, facts):
    editor = open_editor(method="lora", placement="single")
    layer, name = editor.layers[0], editor.tensor_names[0]
    p = editor.numbers.changed(tuning_steps=3, tuning_rate=0.01, tuning_rank=2)
    update, losses = tune(editor.loaded, facts, [layer], p, low_rank=True, seed=7)
    weight = editor.model.get_parameter(name)
    drawn = torch.randn(weight.shape[1], 2, generator=torch.Generator().manual_seed(7))
    a, b = torch.zeros(len(weight), 2, requires_grad=True), (drawn / weight.shape[1] ** 0.5).requires_grad_()
    optimiser, base = torch.optim.Adam([a, b], lr=0.01), weight.detach().clone()
    for _ in range(3):
        weight.copy_(base + (a @ b.T).detach())
        weight.requires_grad_(True)
        loss = torch.stack([mean_loss(editor, fact) for fact in facts])
        (gradient,) = torch.autograd.grad(loss.mean(), weight)
        weight.requires_grad_(False)
        a.grad, b.grad = gradient @ b.detach(), gradient.T @ a.detach()
        optimiser.step()
    for found, expected in zip(update[layer], (a, b), strict=True):
        torch.testing.assert_close(found, expected.detach(), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(losses, loss.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["memit", "alphaedit"])
def test_boundary_writes_the_full_residual_of_a_value_found_after_the_first_layer(open_editor, facts, method):
    """BLUE: the last layer's value is that of the model whose first layer is written already."""
    options = ValueOptions(steps=4, rate=0.1)
    editor = open_editor(method=method, placement="boundary", options=options)
    editor.apply(facts)
    found = open_editor(method=method, placement="boundary", options=options)
    prompts = [encode(found.tokenizer, fact, target=False) for fact in facts]
    for write in editor.rounds:
        assert write.layers == (write.target,)
        layer, name = write.target, editor.loaded.tensor_name(write.target)
        values = optimise(found.loaded, facts, layer, found.contexts, options)
        captured = capture(found.loaded, prompts, [layer])
        # Each boundary layer has an anchor of its own.
        longest = editor.state.columns[f"targets/{layer}"] - captured.hidden[layer] + captured.outputs[layer]
        torch.testing.assert_close(longest.norm(dim=0), torch.full((4,), editor.anchors[layer]))
        targets, _, _ = anchored(values, editor.anchors[layer], "nas")
        torch.testing.assert_close(editor.state.columns[f"targets/{layer}"], targets)
        keys, values = (editor.state.columns[f"{name}/{kind}"] for kind in ("keys", "values"))
        residual = values - editor.base_weights()[name] @ keys
        torch.testing.assert_close(residual, targets - captured.hidden[layer], atol=1e-4, rtol=1e-3)
        found.loaded.set_weight(layer, editor.weights()[name])
    assert len(set(editor.anchors.values())) == 2


@pytest.mark.parametrize("method", TUNED)
def test_tuning_lowers_the_loss_and_lora_stays_of_low_rank(open_editor, facts, method):
    editor = open_editor(method=method)
    p = editor.numbers.changed(tuning_rate=0.02)
    _, first = tune(editor.loaded, facts, editor.layers, p.changed(tuning_steps=1), method == "lora", 0)
    _, last = tune(editor.loaded, facts, editor.layers, p, method == "lora", 0)
    assert (last < first).all()
    editor.apply(facts)
    rank = 8 if method == "lora" else 32
    assert all(a.shape[1] == b.shape[1] == rank for a, b in editor.state.factors.values())


@pytest.mark.parametrize(
    ("choices", "mend"),
    [
        ({"method": "rome", "placement": "spread"}, "placement = 'spread'.*'rome'; use single"),
        ({"method": "rome", "placement": "boundary"}, "placement = 'boundary'.*'rome'; use single"),
        ({"method": "ft", "anchor": "nas"}, "anchor = 'nas'.*'ft'; use none"),
        ({"method": "lora", "protect": "revive"}, "protect = 'revive'.*'lora'; use none"),
        ({"method": "stableedit", "anchor": "nas"}, "anchor = 'nas'.*'stableedit'; use none"),
        ({"method": "ft", "protect": "crisp"}, "protect = 'crisp'.*'ft'; use none"),
        ({"method": "memit", "protect": "crisp"}, "'crisp'.*'memit'; use revive, revive-after, none"),
        ({"method": "locft", "protect": "revive"}, "protect = 'revive'.*'locft'; use crisp, none"),
        ({"method": "locft", "placement": "spread"}, "placement = 'spread'.*'locft'; use single"),
        ({"method": "locft", "forms": ["prompt", "chat"]}, "forms = .*'locft', which has no values"),
        ({"method": "ft", "placement": "boundary"}, "placement = 'boundary'.*use spread, single"),
        ({"method": "magic"}, "method = 'magic': known are memit-seq, encore"),
    ],
)
def test_impossible_combinations_are_refused_with_what_to_use(open_editor, choices, mend):
    with pytest.raises(OptionError, match=mend):
        open_editor(**choices)


def test_what_projects_nothing_has_no_error_to_carry_on(open_editor):
    with pytest.raises(OptionError, match=r"compensated = True.*'memit', which.*; use rect, prune"):
        open_editor(method="memit", changed={"compensated": True})


def test_choices_left_out_are_those_the_method_can_take(open_editor):
    for method in METHODS:
        placement, anchor, _ = METHODS[method].combined(method, None, None, "none")
        assert placement == ("single" if method in ("rome", "locft") else "spread")
        assert anchor == ("none" if method in PLAIN else "nas-cap" if method == "memit-seq" else "nas")
    assert open_editor(method="ft").rule == "none"


def test_whatever_changes_results_changes_the_settings_hash(open_editor):
    choices = [
        {},
        {"method": "encore"},
        {"placement": "single"},
        {"protect": "revive"},
        {"protect": "revive-after"},
        {"options": ValueOptions(steps=13)},
        {"changed": {"moment_weight": 2.0}},
        {"changed": {"protected_share": 0.1}},
        {"placement": "replay"},
        {"method": "rect"},
        {"method": "rect", "changed": {"compensated": True}},
    ]
    hashes = {open_editor(anchor="none", **choice).settings_hash for choice in choices}
    assert len(hashes) == len(choices)
    assert open_editor(anchor="none").settings_hash in hashes


def test_options_given_keep_what_makes_the_method_its_own(open_editor):
    options = ValueOptions(steps=7)
    editor = open_editor(method="encore", anchor="none", options=options)
    assert editor.options == replace(options, finish="argmax")
    assert open_editor(method="eac", anchor="none", options=options).options.compressed


def test_published_numbers_win_over_the_rule_and_small_models_have_measured_ones():
    small = numbers("memit-seq", "llama", 576, 1536, 30)
    assert (small.prior.moment_weight, small.values) == (
        1500.0,
        ValueOptions(
            finish="argmax",
            extra=1,
            turns=3,
            unedited=True,
            lead=2.0,
            chat_steps=10,
            chat_ends="stop",
        ),
    )
    assert numbers("memit", "llama", 576, 1536, 30).values == ValueOptions()
    assert small.layers == (4, 5, 6, 7, 8)
    large = numbers("alphaedit", "llama", 4096, 14336, 32)
    assert (large.layers, large.values.rate, large.values.steps) == ((4, 5, 6, 7, 8), 0.1, 25)
    assert large.prior.nullspace_ridge == 10.0
    assert numbers("memit", "qwen2", 3584, 18944, 28).layers == (7, 8, 9, 10, 11)
    assert numbers("memit", "gpt2", 1600, 6400, 48).prior.moment_weight == 20000.0
    assert numbers("pmet", "gptj", 4096, 16384, 28).prior.moment_weight == 6000.0
    assert numbers("emmet", "gpt2", 1600, 6400, 48).layers == (17,)
    medium = numbers("rome", "gpt2", 1024, 4096, 24)
    assert (medium.layers, medium.values.clamp) == ((8,), 3.0)
    ridges = [
        numbers("alphaedit", "gptj", 4096, 16384, 28, p).prior.nullspace_ridge for p in ("spread", "boundary")
    ]
    assert ridges == [10.0, 95.0]
    unknown = numbers("memit", "llama", 5120, 13824, 40)
    assert (unknown.prior.moment_weight, unknown.values.rate, unknown.layers) == (
        15000.0,
        0.1,
        (6, 7, 8, 9, 10),
    )
    assert rounds("boundary", unknown.layers)[1].layers == (10,)
