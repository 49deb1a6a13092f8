"""Facts with several columns: what is written, retracted, compacted, and what older states become."""

from dataclasses import replace

import pytest
import torch

from editing.columns import layout, numbers_in
from editing.errors import OptionError
from editing.facts import Fact
from editing.memory.state import FORMS, EditState
from editing.methods import METHODS
from editing.model.asked import asked
from editing.model.capture import capture, mean_keys
from editing.model.says import Sureness
from editing.values.options import ValueOptions

ALL = ("prompt", "chat", "questions")
OWNER = Fact("the old mill", "The owner of {} is", "Ada", "owner", ("Who owns {}?",))
CAT = Fact("a cat", "The colour of {} was", "red", "cat")
LAKE = Fact("Blue Lake", "We know that {} lies near", "Oslo", "lake", ("Where is {}?", "What is near {}?"))
FACTS = [OWNER, CAT, LAKE]
#: prompt, chat, question; prompt, chat; prompt, chat, two questions.
EACH = [1, 2, 4, 1, 2, 1, 2, 4, 16]


def near(found, expected):
    for name, weight in expected.weights().items():
        torch.testing.assert_close(found.weights()[name], weight, atol=1e-4, rtol=1e-3)


def test_a_column_says_which_forms_it_holds():
    numbers = [[0, 1, 2], [0], [0, 4]]
    assert layout(numbers, "each").tolist() == [1, 2, 4, 1, 1, 16]
    assert layout(numbers, "averaged").tolist() == [7, 1, 17]
    assert layout(numbers, "needed").tolist() == [1, 1, 1]
    assert [numbers_in(form) for form in (1, 7, 16)] == [[0], [0, 1, 2], [4]]


def test_one_form_is_written_bit_for_bit_as_before(open_chat_editor, open_editor):
    plain, told, none = (
        open_chat_editor(),
        open_chat_editor(forms=("prompt",)),
        open_chat_editor(forms=("prompt", "questions", "paraphrases")),
    )
    facts = [CAT, replace(OWNER, questions=())]
    for editor in (plain, told, none):
        editor.apply(facts)
        assert FORMS not in editor.state.columns
    # Of the third the second moments are over chats too, and values take further steps.
    assert plain.weight_hashes() == told.weight_hashes() != none.weight_hashes()
    assert plain.settings_hash == told.settings_hash != none.settings_hash
    asked_too = open_chat_editor()
    asked_too.apply([CAT, OWNER])
    assert asked_too.weight_hashes() == plain.weight_hashes()


def test_each_form_has_its_key_and_its_own_state_plus_one_value(open_chat_editor):
    editor = open_chat_editor(forms=ALL, placement="single")
    base = open_chat_editor().loaded
    editor.apply(FACTS)
    layer, name = editor.layers[0], editor.tensor_names[0]
    assert editor.state.columns[FORMS].tolist() == [EACH]
    assert editor.state.owners.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    at = 0
    for fact in FACTS:
        values = []
        for one in asked(base, fact, editor.contexts, ALL):
            captured = capture(base, one.prompts, [layer])
            key = mean_keys(captured.keys[layer], len(one.prompts))[:, 0]
            torch.testing.assert_close(editor.state.columns[f"{name}/keys"][:, at], key, atol=1e-5, rtol=1e-4)
            values.append(editor.state.columns[f"targets/{layer}"][:, at] - captured.hidden[layer][:, 0])
            at += 1
        for value in values[1:]:
            torch.testing.assert_close(value, values[0], atol=1e-4, rtol=1e-3)


def test_an_averaged_column_holds_the_means_of_the_columns_of_its_forms(open_chat_editor):
    each, averaged = (
        open_chat_editor(forms=ALL, placement="single", changed={"columns": columns})
        for columns in ("each", "averaged")
    )
    for editor in (each, averaged):
        editor.apply([LAKE])
    assert averaged.state.columns[FORMS].tolist() == [[1 + 2 + 4 + 16]]
    for name in (f"{each.tensor_names[0]}/keys", f"targets/{each.layers[0]}"):
        mean = each.state.columns[name].mean(dim=1, keepdim=True)
        torch.testing.assert_close(averaged.state.columns[name], mean, atol=1e-5, rtol=1e-4)
    hashes = averaged.weight_hashes()
    averaged.compact()
    assert averaged.state.columns[FORMS].tolist() == [[23]]
    assert averaged.weight_hashes() == hashes
    assert averaged.settings_hash != each.settings_hash


@pytest.mark.parametrize("placement", ["spread", "boundary"])
def test_forms_that_are_not_said_get_a_column_when_columns_are_written_as_needed(
    open_chat_editor, monkeypatch, placement
):
    def opened(columns):
        return open_chat_editor(forms=ALL, placement=placement, changed={"columns": columns})

    each, needed = opened("each"), opened("needed")
    each.apply(FACTS)
    told = []

    def unsaid(_loaded, facts, contexts, kinds, _lead):
        told.append((list(contexts), kinds))
        return answers

    monkeypatch.setattr("editing.refining.unsaid", unsaid)
    answers = [[0, 1, 2], [1], [1, 2, 4]]
    needed.apply(FACTS)
    assert told == [([""], ALL)]
    assert needed.weight_hashes() == each.weight_hashes()
    assert needed.state.columns.keys() == each.state.columns.keys()
    answers = [[], [0], [2]]
    some = opened("needed")
    some.apply(FACTS)
    assert some.state.columns[FORMS].tolist() == [[1, 1, 1, 4]]
    answers = [[], [], []]
    none, bare = opened("needed"), opened("needed")
    none.apply(FACTS)
    assert FORMS not in none.state.columns
    bare.apply(FACTS)
    assert none.weight_hashes() == bare.weight_hashes()


def test_with_a_light_prior_every_column_gets_its_value_and_with_a_heavy_one_none(open_chat_editor):
    # The moment is singular without its floor; the floor is light too.
    light = open_chat_editor(forms=ALL, placement="single", changed={"moment_weight": 1e-3})
    light.apply(FACTS)
    name = light.tensor_names[0]
    keys, values = (light.state.columns[f"{name}/{kind}"] for kind in ("keys", "values"))
    torch.testing.assert_close(light.weights()[name] @ keys, values, atol=0.05, rtol=0.05)
    heavy = open_chat_editor(forms=ALL, placement="single", changed={"moment_weight": 1e12})
    base = heavy.weights()[name]
    heavy.apply(FACTS)
    torch.testing.assert_close(heavy.weights()[name], base, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("columns", ["each", "averaged"])
def test_retracting_takes_all_columns_of_a_fact(open_chat_editor, columns):
    editor, never = (
        open_chat_editor(forms=ALL, placement="single", changed={"columns": columns}) for _ in range(2)
    )
    editor.apply(FACTS)
    table = editor.state.columns
    editor.retract("owner")
    width = 3 if columns == "each" else 1
    assert editor.state.ids == ("cat", "lake")
    assert all(torch.equal(x, table[name][:, width:]) for name, x in editor.state.columns.items())
    never.apply(FACTS[1:])
    near(editor, never)
    editor.retract("cat", "lake")
    assert editor.state == EditState()
    assert all(torch.equal(weight, editor.base_weights()[name]) for name, weight in editor.weights().items())


def test_retraction_is_the_exact_downdate_of_several_columns(open_chat_editor):
    """W' = W − (V_r − WK_r)K_rᵀM'⁻¹ with M' = M₀ + KKᵀ of the columns that stay."""
    editor = open_chat_editor(forms=ALL, placement="single")
    editor.apply(FACTS)
    layer, name = editor.layers[0], editor.tensor_names[0]
    weight, table = editor.weights()[name].double(), editor.state.table(name)
    gone = torch.tensor([3, 4])
    stay = torch.tensor([i for i in range(9) if i not in (3, 4)])
    keys, values = table.keys.double(), table.values.double()
    prior = editor._solvers[layer]._prior.factor
    system = prior @ prior.T + keys[:, stay] @ keys[:, stay].T
    residual = values[:, gone] - weight @ keys[:, gone]
    expected = weight - torch.linalg.solve(system, keys[:, gone] @ residual.T).T
    editor.retract("cat")
    torch.testing.assert_close(editor.weights()[name].double(), expected, atol=1e-5, rtol=1e-4)


def test_superseding_replaces_all_columns_and_gives_the_same_bits_again(open_chat_editor):
    successor = Fact(OWNER.subject, OWNER.prompt, "Bob", "bob", OWNER.questions)
    editor, again, fresh = (open_chat_editor(forms=ALL, placement="single") for _ in range(3))
    for one in (editor, again):
        one.apply(FACTS)
        one.apply([successor], remove=["owner"])
    assert editor.state.columns[FORMS].tolist() == [[*EACH[3:], *EACH[:3]]]
    assert editor.weight_hashes() == again.weight_hashes()
    fresh.apply([CAT, LAKE])
    fresh.apply([successor])
    near(editor, fresh)


def test_a_fact_that_shares_a_question_with_a_live_one_is_written_with_it(open_chat_editor):
    """In that form their keys are one, so that one value must serve both."""
    second = Fact(OWNER.subject, "The buyer of {} is", "Eve", "buyer", ("Who owns {} now?",))
    after, together, apart = (open_chat_editor(forms=ALL) for _ in range(3))
    after.apply([OWNER])
    after.apply([second])
    together.apply([OWNER, second])
    assert after.weight_hashes() == together.weight_hashes()
    apart.apply([replace(OWNER, questions=())])
    apart.apply([second])
    assert apart.weight_hashes() != together.weight_hashes()


def test_old_states_have_one_column_a_fact_and_go_on(open_chat_editor):
    old, new = open_chat_editor(), open_chat_editor(forms=ALL)
    old.apply([CAT, OWNER])
    new.restore(old.state)
    assert new.weight_hashes() == old.weight_hashes()
    new.apply([LAKE])
    assert new.state.columns[FORMS].tolist() == [[1, 1, 1, 2, 4, 16]]
    new.retract("owner")
    assert new.state.columns[FORMS].tolist() == [[1, 1, 2, 4, 16]]
    hashes = new.weight_hashes()
    new.restore(new.state)
    assert new.weight_hashes() == hashes
    new.compact()
    assert new.state.columns[FORMS].tolist() == [[1, 1, 2, 4, 16]]
    # And an editor that asks the bare prompt alone adds one column a fact to a state with several.
    plain = open_chat_editor()
    plain.restore(new.state)
    plain.apply([OWNER])
    assert plain.state.columns[FORMS].tolist() == [[1, 1, 2, 4, 16, 1]]


def test_tables_join_whichever_says_its_forms():
    one = {"targets/1": torch.zeros(2, 1)}
    two = {"targets/1": torch.ones(2, 2), FORMS: torch.tensor([[1, 2]])}
    state = EditState().with_columns([CAT], one).with_columns([OWNER], two)
    assert state.columns[FORMS].tolist() == [[1, 1, 2]]
    state = state.with_columns([LAKE], one)
    assert state.columns[FORMS].tolist() == [[1, 1, 2, 1]]
    assert [state.width(count) for count in range(4)] == [0, 1, 3, 4]
    assert state.without(["owner"]).columns["targets/1"].tolist() == [[0, 0], [0, 0]]
    assert FORMS not in EditState().with_columns([CAT, LAKE], {"targets/1": torch.zeros(2, 2)}).columns


def test_compaction_of_one_batch_changes_nothing_but_rounding(open_chat_editor):
    editor = open_chat_editor(forms=ALL)
    editor.apply(FACTS)
    before = editor.weights()
    editor.compact()
    assert editor.state.columns[FORMS].tolist() == [EACH]
    for name, weight in editor.weights().items():
        torch.testing.assert_close(weight, before[name], atol=1e-4, rtol=1e-3)


def test_values_found_again_change_all_columns_of_a_fact_and_no_other(open_chat_editor, monkeypatch):
    editor = open_chat_editor(forms=ALL)
    editor.apply(FACTS)
    name, columns = f"targets/{editor.layers[-1]}", editor.state.columns
    answers = iter([[Sureness.LED, Sureness.UNSAID, Sureness.LED], [Sureness.LED] * 3])
    monkeypatch.setattr("editing.refining.sureness", lambda *_asked: next(answers))
    editor.compact()
    changed = (editor.state.columns[name] != columns[name]).any(dim=0)
    assert changed.tolist() == [False] * 3 + [True] * 2 + [False] * 4


@pytest.mark.parametrize("method", [name for name in METHODS if not METHODS[name].tuned])
def test_every_method_writes_retracts_and_compacts_several_columns(open_chat_editor, method):
    choices = {"method": method, "forms": ALL, "options": ValueOptions(steps=3)}
    editor, again = open_chat_editor(**choices), open_chat_editor(**choices)
    base = editor.weight_hashes()
    for one in (editor, again):
        assert one.apply(FACTS[:2]).ids == ("owner", "cat")
        one.apply(FACTS[2:])
    assert editor.weight_hashes() == again.weight_hashes() != base
    assert {column.shape[1] for column in editor.state.columns.values()} == {9}
    if METHODS[method].batched:
        assert editor.state.columns["batches"].tolist() == [[0] * 5 + [1] * 4]
    editor.retract("cat")
    assert {column.shape[1] for column in editor.state.columns.values()} == {7}
    editor.compact()
    assert {column.shape[1] for column in editor.state.columns.values()} == {7}
    editor.retract("owner", "lake")
    assert editor.weight_hashes() == base


def test_a_report_names_forms_left_out(open_chat_editor):
    editor = open_chat_editor(forms=("prompt", "chat", "paraphrases"))
    fact = Fact("Q", "The {} is of", "Ada", "f", paraphrases=("{} is of",))
    (outcome,) = editor.apply([fact]).outcomes
    assert outcome.written
    assert [name for name, _ in outcome.left_out] == ["paraphrase 1"]
    assert editor.state.columns[FORMS].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"changed": {"columns": "many"}}, "columns = 'many'"),
        ({"options": ValueOptions(ends="never")}, "ends = 'never'"),
        ({"forms": ("prompt", "song")}, "forms = "),
        ({"forms": ALL, "method": "lora"}, "does not combine"),
    ],
)
def test_choices_about_forms_are_checked(open_chat_editor, choices, said):
    with pytest.raises(OptionError, match=said):
        open_chat_editor(**choices)
