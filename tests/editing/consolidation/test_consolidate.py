"""Consolidation beside a dense float64 reference, its limits, what its steps leave alone, and going on."""

import copy

import pytest
import torch

from editing.consolidation.consolidate import Training, consolidate
from editing.consolidation.numbers import ConsolidationNumbers
from editing.consolidation.projectors import projectors
from editing.consolidation.prompts import Ordinary, lessons, ordinary_texts
from editing.errors import OptionError
from editing.memory.delta import materialise, tensor_sha256
from editing.model.tokens import Prompt
from editing.solve.crisp import LowCurvature
from editing.solve.revive import dominant

LAYERS = (2, 4, 6)
PLAIN = ConsolidationNumbers(LAYERS, epochs=3, batch=4, rate=0.003, other_rows=0, chat_rows=2, rows=3)


@pytest.fixture(scope="module")
def joint(open_chat_editor):
    """An editor that has written the facts, its factors, and the installation of the unedited model."""

    def made(facts):
        editor = open_chat_editor(forms=("prompt", "chat"))
        editor.apply(facts)
        factors = dict(editor.state.factors)
        editor.restore(type(editor.state)())
        return editor, factors

    return made


def changed(**numbers):
    return PLAIN.changed(**numbers)


def weights(editor, factors):
    names = {editor.loaded.tensor_name(i): i for i in range(8)}
    base = editor.loaded.base_weights([names[name] for name in factors])
    return {name: materialise(base[name], *pair) for name, pair in factors.items()}


def hashes(factors):
    return {name: [tensor_sha256(x) for x in pair] for name, pair in factors.items()}


def reference(editor, facts, start, numbers, ordinary, steps):
    """Adam of torch on a float64 copy of the model: each prompt in a pass of its own, nothing shared."""
    loaded = editor.loaded
    base, model = copy.deepcopy(loaded.model).double(), copy.deepcopy(loaded.model).double()
    names = [loaded.tensor_name(layer) for layer in numbers.layers]
    with torch.no_grad():
        for name, pair in start.items():
            model.get_parameter(name).add_(pair[0].double() @ pair[1].double().T)
    trained = [model.get_parameter(name).requires_grad_(True) for name in names]
    optimiser = torch.optim.Adam(trained, lr=numbers.rate)
    every = lessons(loaded, facts, editor.contexts, numbers)
    per_epoch = -(-len(every) // numbers.batch)

    def log_p(of, ids):
        return of(torch.tensor([ids])).logits[0].log_softmax(-1)

    for done in range(steps):
        epoch, at = divmod(done, per_epoch)
        generator = torch.Generator().manual_seed(numbers.seed * 1_000_003 + epoch)
        order = torch.randperm(len(every), generator=generator).tolist()
        loss, batch = 0.0, order[at * numbers.batch : (at + 1) * numbers.batch]
        for i in batch:
            prompts = every[i]
            prompt = prompts[(i + epoch) % len(prompts) if epoch % 2 else 0]
            told, places = log_p(model, prompt.ids), range(prompt.target_start, len(prompt.ids))
            nll = -torch.stack([told[t - 1, prompt.ids[t]] for t in places]).mean()
            right = all(int(told[t - 1].argmax()) == prompt.ids[t] for t in places)
            said = right and float(nll) < numbers.margin
            loss = loss + (numbers.said_weight if said else 1.0) * nll / len(batch)
        for kind in ordinary:
            for text in kind.drawn(done, numbers.seed):
                before, now = log_p(base, text.ids).detach(), log_p(model, text.ids)
                kl = (before.exp() * (before - now)).sum(-1)[text.target_start - 1 : -1].mean()
                loss = loss + kind.weight * kl / kind.rows
        optimiser.zero_grad()
        loss.backward()
        optimiser.param_groups[0]["lr"] = numbers.rate * (1 - done / (per_epoch * numbers.epochs))
        optimiser.step()
    return dict(zip(names, (weight.detach() for weight in trained), strict=True))


def test_it_is_adam_on_the_float64_loss(joint, facts):
    editor, start = joint(facts)
    ordinary = ordinary_texts(editor.install, facts, PLAIN)
    assert [len(kind.texts) > 0 for kind in ordinary] == [True, True, False]
    found = weights(editor, consolidate(editor.install, facts, start, PLAIN).factors)
    expected = reference(editor, facts, start, PLAIN, ordinary[:2], 2 * 3)
    begun = weights(editor, start)
    for name, weight in expected.items():
        moved = (
            weight - begun.get(name, editor.loaded.base_weights([2])[editor.loaded.tensor_name(2)])
        ).norm()
        assert moved > 0.1
        assert (found[name] - weight).norm() < 0.01 * moved


def test_without_epochs_it_is_the_joint_solution_and_without_facts_the_base(joint, facts):
    editor, start = joint(facts)
    none = consolidate(editor.install, facts, start, changed(epochs=0))
    assert {name: hashes(none.factors)[name] for name in start} == hashes(start)
    # A layer that the joint solution does not write gets an update of no columns.
    assert {pair[0].shape[1] for name, pair in none.factors.items() if name not in start} == {0}
    assert consolidate(editor.install, [], {}, PLAIN).factors == {}


def test_training_may_begin_with_a_share_of_the_joint_solution(joint, facts):
    editor, start = joint(facts)
    half = {name: (0.5 * a, b) for name, (a, b) in start.items()}
    none = consolidate(editor.install, facts, start, changed(epochs=0, start=0.5)).factors
    assert {name: hashes(none)[name] for name in start} == hashes(half)
    found = consolidate(editor.install, facts, start, changed(start=0.5)).factors
    assert hashes(found) == hashes(consolidate(editor.install, facts, half, PLAIN).factors)
    assert hashes(found) != hashes(consolidate(editor.install, facts, start, PLAIN).factors)
    with pytest.raises(OptionError, match=r"start = 1\.5: give a share from 0 to 1"):
        changed(start=1.5)


def test_layers_that_are_not_trained_stay_what_the_joint_solution_made_them(joint, facts):
    editor, start = joint(facts)
    found = consolidate(editor.install, facts, start, PLAIN).factors
    untouched = [name for name in start if name not in {editor.loaded.tensor_name(i) for i in LAYERS}]
    assert untouched
    assert {name: hashes(found)[name] for name in untouched} == {
        name: hashes(start)[name] for name in untouched
    }


def test_the_same_set_of_facts_gives_the_same_bits(joint, facts):
    editor, start = joint(facts)
    one = consolidate(editor.install, facts, start, PLAIN)
    other = consolidate(editor.install, facts[::-1], start, PLAIN)
    assert hashes(one.factors) == hashes(other.factors)
    assert one.epochs == other.epochs
    third = consolidate(editor.install, facts, start, changed(seed=1))
    assert hashes(one.factors) != hashes(third.factors)


@pytest.mark.parametrize("rank", [0, 3])
def test_a_training_that_was_killed_goes_on_to_the_same_bits(joint, facts, tmp_path, rank):
    editor, start = joint(facts)
    numbers = changed(rank=rank)
    whole = consolidate(editor.install, facts, start, numbers)
    told = []
    for _ in range(6):
        steps = iter([False, True])
        found = consolidate(
            editor.install,
            facts,
            start,
            numbers,
            folder=tmp_path,
            progress=lambda stage, fraction: told.append((stage, fraction)),
            stop=lambda steps=steps: next(steps),
        )
    assert hashes(found.factors) == hashes(whole.factors)
    assert found.epochs == whole.epochs
    assert len(found.epochs) == 3
    # Six steps in all: each was made once.
    fractions = [fraction for stage, fraction in told if stage == "consolidating"]
    assert fractions == pytest.approx([(i + 1) / 6 for i in range(6)])


def test_what_was_saved_of_other_facts_or_numbers_is_not_gone_on_with(joint, facts, tmp_path):
    editor, start = joint(facts)
    consolidate(editor.install, facts, start, PLAIN, folder=tmp_path)
    for fewer, numbers in ((facts[:2], PLAIN), (facts, changed(rate=0.01))):
        fresh = consolidate(editor.install, fewer, start, numbers)
        kept = consolidate(editor.install, fewer, start, numbers, folder=tmp_path)
        assert hashes(fresh.factors) == hashes(kept.factors)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("rank", [0, 3])
def test_revive_moves_nothing_that_the_leading_directions_say(joint, facts, rank):
    editor, start = joint(facts)
    free = weights(editor, consolidate(editor.install, facts, start, changed(rank=rank)).factors)
    found = weights(
        editor, consolidate(editor.install, facts, start, changed(protect="revive", rank=rank)).factors
    )
    base = editor.loaded.base_weights(LAYERS)
    begun = base | weights(editor, start)
    for name in base:
        sides = dominant(base[name], PLAIN.protected_share, within=False)
        keys = sides.right.float() @ torch.randn(sides.right.shape[1], 5)
        moved = found[name] - begun[name]
        assert moved.norm() > 0.02
        assert (moved @ keys).norm() < 1e-4 * moved.norm() * keys.norm()
        assert (sides.left.float().T @ moved).norm() < 1e-4
        assert ((free[name] - begun[name]) @ keys).norm() > 0.02 * moved.norm() * keys.norm()


def test_crisp_moves_only_what_ordinary_text_hardly_uses(joint, facts):
    editor, start = joint(facts)
    numbers = changed(protect="crisp", curvature_energy=0.5)
    found = weights(editor, consolidate(editor.install, facts, start, numbers).factors)
    base = editor.loaded.base_weights(LAYERS)
    begun = base | weights(editor, start)
    inputs, outputs = editor.install.moments(LAYERS, True), editor.install.output_moments(LAYERS)
    for layer in LAYERS:
        name = editor.loaded.tensor_name(layer)
        crisp = LowCurvature(inputs[layer], outputs[layer], 0.5)
        moved = found[name] - begun[name]
        assert moved.norm() > 0.1
        torch.testing.assert_close(crisp.projected(moved), moved, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(crisp.single(moved), crisp.projected(moved), atol=1e-5, rtol=1e-3)
    assert projectors(editor.install, PLAIN) == {}


def test_epochs_say_more_and_divergence_holds_the_rest(joint, facts):
    editor, start = joint(facts)
    loose = {"rate": 0.01, "epochs": 12, "text_weight": 0.0, "chat_weight": 0.0}
    free = consolidate(editor.install, facts, start, changed(**loose))
    assert free.epochs[-1].surprise < 0.75 * free.epochs[0].surprise
    assert free.epochs[-1].divergence == (0.0, 0.0, 0.0)
    bound = loose | {"text_weight": 1.0, "chat_weight": 1.0}
    held = consolidate(editor.install, facts, start, changed(**bound))
    tight = consolidate(
        editor.install, facts, start, changed(**bound | {"text_weight": 30.0, "chat_weight": 30.0})
    )
    for kind in (0, 1):
        assert tight.epochs[-1].divergence[kind] < held.epochs[-1].divergence[kind]
    assert tight.epochs[-1].surprise > free.epochs[-1].surprise


def test_a_low_rank_update_has_that_rank(joint, facts):
    editor, start = joint(facts)
    found = weights(editor, consolidate(editor.install, facts, start, changed(rank=3)).factors)
    base = editor.loaded.base_weights(LAYERS)
    begun = base | weights(editor, start)
    for name in base:
        values = torch.linalg.svdvals((found[name] - begun[name]).double())
        assert values[2] > 1e-3
        assert values[3] < 1e-4 * values[0]


def test_the_model_has_its_unedited_weights_again_whatever_happens(joint, facts):
    editor, start = joint(facts)
    before = {name: x.clone() for name, x in editor.model.state_dict().items()}

    def fails():
        raise RuntimeError("killed")

    for stop in (lambda: False, fails):
        try:
            consolidate(editor.install, facts, start, PLAIN, stop=stop)
        except RuntimeError:
            assert stop is fails
        assert all(torch.equal(x, before[name]) for name, x in editor.model.state_dict().items())
        assert not any(x.requires_grad for x in editor.model.parameters())


def test_what_is_said_already_weighs_less(joint, facts):
    editor, _ = joint(facts)
    every = lessons(editor.loaded, facts, editor.contexts, PLAIN)
    # At a margin of any size, what is right is settled.
    sure = changed(margin=100.0, said_weight=0.0, text_weight=0.0, chat_weight=0.0)
    training = Training(editor.install, every, {}, sure, ())
    model, name = editor.model, editor.loaded.tensor_name(2)
    prompt = every[0][0]
    said = int(model(torch.tensor([prompt.ids[:-1]])).logits[0, -1].argmax())
    right = Prompt((*prompt.ids[:-1], said), prompt.subject_last, len(prompt.ids) - 1)
    gradients = {2: torch.zeros_like(model.get_parameter(name))}
    training._of_facts([right], gradients)
    assert gradients[2].norm() == 0
    training._of_facts([prompt], gradients)
    assert gradients[2].norm() > 0


def test_ordinary_texts_are_drawn_in_turn():
    texts = tuple(Prompt((i, i), 0, 1) for i in range(5))
    kind = Ordinary(texts, 1.0, 2)
    drawn = [text.ids[0] for step in range(5) for text in kind.drawn(step, 3)]
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == list(range(5))
    assert drawn != [text.ids[0] for step in range(5) for text in kind.drawn(step, 4)]
    assert Ordinary(texts, 0.0, 2).drawn(0, 3) == Ordinary((), 1.0, 2).drawn(0, 3) == []
    assert len(Ordinary(texts, 1.0, 9).drawn(7, 0)) == 5


def test_numbers_that_are_unknown_or_of_no_use_are_refused():
    for numbers, why in (
        ({"epoch": 1}, "epoch: no number of a consolidation"),
        ({"layers": []}, "layers"),
        ({"protect": "nas"}, "use none, crisp, revive"),
        ({"ends": "never"}, "use open, stop, eos"),
        ({"batch": 0}, "batch = 0"),
        ({"forms": ["chat"]}, "add 'prompt'"),
    ):
        with pytest.raises(OptionError, match=why):
            PLAIN.changed(**numbers)
