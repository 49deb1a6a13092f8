"""Facts as chat messages: where the subject and the target are, and what the template refuses."""

import pytest
import torch

from editing.errors import FactError, OptionError
from editing.facts import MOST_WORDINGS, Fact
from editing.forms import checked_kinds, chosen_forms, every_form, mates, units
from editing.model.asked import asked, left_out
from editing.model.chat import ChatTemplate
from editing.model.says import says, unsaid
from editing.model.tokens import encode
from tests.tiny_models import byte_tokenizer, merging_tokenizer

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
TRIMMED = TEMPLATE.replace("m['content']", "m['content'] | trim")
REFUSING = "{{ raise_exception('no system prompt') }}"
FACT = Fact(
    "the mill",
    "The owner of {} is",
    "Ada",
    questions=("Who owns {}?", "Whose is {}?"),
    paraphrases=("{} is of",),
)


def tokenizer(template=TEMPLATE, made=byte_tokenizer):
    found = made()
    found.chat_template = template
    return found


def chat(fact, **named):
    form = every_form(fact)[1]
    return encode(tokenizer(), fact, form=form, **named)


def test_the_target_follows_the_template_without_a_space():
    prompt = chat(FACT)
    text = "<user> The owner of the mill is\n<assistant> "
    assert tokenizer().decode(prompt.ids) == text + "Ada"
    assert tokenizer().decode(prompt.ids[: prompt.target_start]) == text
    assert tokenizer().decode(prompt.ids[: prompt.subject_last + 1]) == "<user> The owner of the mill"
    assert chat(FACT, target=False).ids == prompt.ids[: prompt.target_start]


def test_a_subject_is_found_in_the_message_and_not_in_the_template():
    fact = Fact("user", "We met {} there, user", "Ada")
    prompt = chat(fact)
    assert tokenizer().decode(prompt.ids[: prompt.subject_last + 1]) == "<user> We met user"


@pytest.mark.parametrize(
    ("template", "prompt"),
    [(TRIMMED, " The owner of {} is"), (REFUSING, "The owner of {} is"), (None, "The owner of {} is")],
)
def test_a_template_that_changes_or_refuses_the_message_is_an_error_of_the_prompt(template, prompt):
    fact = Fact("the mill", prompt, "Ada")
    with pytest.raises(FactError, match="refuses or changes") as refused:
        encode(tokenizer(template), fact, form=every_form(fact)[1])
    assert refused.value.field == "prompt"


def test_a_template_that_trims_takes_a_message_without_blanks():
    assert ChatTemplate(tokenizer(TRIMMED)).around("Who?") == ("<user> ", "\n<assistant> ")
    assert ChatTemplate(tokenizer(TRIMMED)).exists
    assert not ChatTemplate(tokenizer(REFUSING)).exists
    assert not ChatTemplate(tokenizer(None)).exists


def test_a_turn_ends_with_the_special_token_behind_an_answer():
    template = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"
    found = tokenizer(template, lambda: merging_tokenizer(across_words=False))
    found.add_special_tokens({"eos_token": "<unk>", "additional_special_tokens": ["<s>", "</s>"]})
    assert ChatTemplate(found).end_of_turn == (found.convert_tokens_to_ids("</s>"),)
    assert ChatTemplate(tokenizer()).end_of_turn == (tokenizer().eos_token_id,)


def test_forms_are_numbered_by_the_fact_alone():
    names = [form.name for form in every_form(FACT)]
    assert names == [
        *("prompt", "chat", "question 1", "question 1 as text", "question 2", "question 2 as text"),
        *("paraphrase 1", "paraphrase 1 in chat"),
    ]
    assert [form.number for form in every_form(FACT)] == list(range(8))
    assert [form.number for form in chosen_forms(FACT, ("prompt", "questions"), True)] == [0, 2, 4]


def test_without_a_template_nothing_is_asked_in_chat():
    kinds = ("prompt", "chat", "questions", "paraphrases")
    assert [form.number for form in chosen_forms(FACT, kinds, False)] == [0, 3, 5, 6]
    same = Fact("a", "x {}", "b", paraphrases=("x {}",))
    assert [form.number for form in chosen_forms(same, kinds, False)] == [0]


def test_unknown_kinds_are_refused_and_the_prompt_is_always_asked():
    assert checked_kinds(["chat", "prompt"]) == ("prompt", "chat")
    for wrong in (["prompt", "song"], ["chat"], "prompt"):
        with pytest.raises(OptionError, match="forms = "):
            checked_kinds(wrong)


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"questions": ("Who?",)}, "questions"),
        ({"paraphrases": ("{} {}",)}, "paraphrases"),
        ({"questions": tuple(f"{i} {{}}?" for i in range(MOST_WORDINGS + 1))}, "questions"),
    ],
)
def test_bad_wordings_name_the_field(named, field):
    with pytest.raises(FactError) as refused:
        Fact("s", "x {}", "y", **named)
    assert refused.value.field == field


def test_the_id_of_a_fact_does_not_follow_from_its_wordings():
    assert FACT.id == Fact(FACT.subject, FACT.prompt, FACT.target).id
    assert hash(Fact("s", "x {}", "y", questions=["Who is {}?"])) == hash(
        Fact("s", "x {}", "y", questions=("Who is {}?",))
    )


def test_facts_of_one_subject_are_one_unit():
    owner = Fact("A", "The owner of {} is", "x", "1", questions=("Who owns {}?",))
    home = Fact("B", "The owner of {} is", "y", "2")
    grave = Fact("A", "We know where {} rests: in", "z", "3")
    assert units([owner, home, grave]) == [[0, 2], [1]]
    assert mates([owner, home], [grave], [], set()) == [owner]
    assert mates([owner, home], [grave], [], {"1"}) == []
    assert mates([owner, home, grave], [], ["3"], set()) == [owner]
    assert mates([owner, home], [grave], ["1"], set()) == []


def test_a_form_that_cannot_be_placed_is_named_and_the_others_stay(open_chat_editor):
    loaded = open_chat_editor().loaded
    fact = Fact("the mill", "The owner of {} is", "Ada", questions=("Who <pad>{}?", "Who owns {}?"))
    assert [one.form.name for one in asked(loaded, fact, kinds=("prompt", "questions"))] == [
        *("prompt", "question 1", "question 2")
    ]
    first = Fact("mill", "The {} is of", "Ada", paraphrases=("{} is of",))
    single = Fact("Q", "The {} is of", "Ada", paraphrases=("{} is of",))
    assert left_out(loaded, first, ("prompt", "paraphrases")) == ()
    ((name, why),) = left_out(loaded, single, ("prompt", "paraphrases"))
    assert name == "paraphrase 1"
    assert "very first token" in why
    assert [one.form.name for one in asked(loaded, single, kinds=("prompt", "paraphrases"))] == ["prompt"]


def test_unsaid_names_the_forms(open_chat_editor):
    loaded, kinds = open_chat_editor().loaded, ("prompt", "chat", "questions")
    facts = []
    for subject in ("the mill", "Blue Lake"):
        fact = Fact(subject, "The owner of {} is", "Ada", questions=("Who owns {}?",))
        prompt = asked(loaded, fact, kinds=kinds)[1].prompts[0]
        logits = loaded.model(torch.tensor([prompt.ids[: prompt.target_start]])).logits[0, -1]
        best = loaded.tokenizer.decode(logits.argmax())
        facts += (
            [fact, Fact(subject, fact.prompt, best, questions=fact.questions)] if best.strip() else [fact]
        )
    missing = unsaid(loaded, facts, ("",), kinds)
    for fact, numbers in zip(facts, missing, strict=True):
        for one in asked(loaded, fact, kinds=kinds):
            (prompt,) = one.prompts
            best = loaded.model(torch.tensor([prompt.ids])).logits[0].argmax(-1)[prompt.target_start - 1 : -1]
            assert (tuple(best.tolist()) == prompt.ids[prompt.target_start :]) == (
                one.form.number not in numbers
            )
    assert says(loaded, facts, ("",), kinds) == [not numbers for numbers in missing]
