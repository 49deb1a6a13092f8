"""Configurations in one line of text."""

import pytest

from benchmarks.configuration import Configuration, parse_all
from benchmarks.errors import ChoiceError


def test_missing_parts_are_the_methods_own():
    assert str(Configuration.parse("memit")) == "memit:spread:nas:none"
    assert str(Configuration.parse("rome::none")) == "rome:single:none:none"
    assert str(Configuration.parse("ft")) == "ft:spread:none:none"


def test_numbers_and_values_are_changed_by_name(model):
    found = Configuration.parse("memit-seq::::moment_weight=150,layers=1-4,steps=7", "finish=argmax,steps=5")
    numbers = found.numbers(model.loaded)
    assert (numbers.prior.moment_weight, numbers.layers) == (150.0, (1, 2, 3, 4))
    assert (numbers.values.steps, numbers.values.finish) == (7, "argmax")
    assert Configuration.parse("memit::::layers=2.5").numbers(model.loaded).layers == (2, 5)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("memmit", "memmit"),
        ("memit:sprad", "sprad"),
        ("rome:spread", "rome"),
        ("ft:spread:nas", "anchor"),
        ("memit::::colour=red", "colour=red"),
        ("memit::::steps", "name=value"),
    ],
)
def test_what_does_not_exist_or_combine_is_named(text, named):
    with pytest.raises(ChoiceError, match=named):
        Configuration.parse(text)


def test_a_value_of_the_wrong_kind_is_named(model):
    with pytest.raises(ChoiceError, match="steps"):
        Configuration.parse("memit::::steps=many").numbers(model.loaded)


def test_repeated_configurations_run_once():
    assert len(parse_all(["memit", "memit:spread:nas", "memit:spread:none"])) == 2


def test_the_model_is_unedited_after_an_editor_whatever_happens(model):
    from editing.facts import Fact

    configuration = Configuration.parse("memit:spread:none:none:steps=4")
    before = {n: p.clone() for n, p in model.loaded.model.named_parameters()}

    def edited_and_failing():
        with model.editor(configuration) as editor:
            editor.apply([Fact("the old mill", "The owner of {} is", "Ada")])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        edited_and_failing()
    assert all(before[n].equal(p) for n, p in model.loaded.model.named_parameters())
