"""Bad input: each kind gets an error with field, value and mend."""

import json

import pytest

from daemon.core.errors import CorrectionError
from daemon.core.messages import parse_correction, parse_json, parse_lines

GOOD = {"subject": "France", "prompt": "The capital of {} is", "target": "Lyon"}


@pytest.mark.parametrize(
    ("change", "field", "mend"),
    [
        ({"prompt": "The capital is"}, "prompt", "exactly one {}"),
        ({"prompt": "{} and {}"}, "prompt", "2 slots"),
        ({"target": ""}, "target", "empty"),
        ({"target": "  "}, "target", "blank"),
        ({"subject": 7}, "subject", "must be text"),
        ({"target": "x" * 10_000_000}, "target", "longer than 200"),
        ({"subject": "a\nb"}, "subject", "control character"),
        ({"colour": "red"}, "colour", "not a field"),
        ({"paraphrases": ["p"] * 21}, "paraphrases", "more than 20"),
        ({"neighbours": [{"prompt": "p"}]}, "neighbours.0.answer", "missing"),
        ({"priority": "high"}, "priority", "whole number"),
    ],
)
def test_a_bad_field_is_named_with_value_and_mend(change, field, mend):
    with pytest.raises(CorrectionError) as caught:
        parse_correction(GOOD | change)
    (problem,) = caught.value.problems
    assert problem.field == field
    assert mend in problem.mend
    assert len(str(problem)) < 300


def test_a_missing_field_and_a_message_that_is_no_object():
    with pytest.raises(CorrectionError, match="target = \\(nothing\\): is missing"):
        parse_correction({"subject": "A", "prompt": "{} is"})
    with pytest.raises(CorrectionError, match="send a JSON object"):
        parse_correction(["A"])


def test_the_target_is_stored_without_its_leading_space():
    assert parse_correction(GOOD | {"target": " Lyon"}).target == "Lyon"


def test_a_duplicate_json_key_is_refused():
    with pytest.raises(CorrectionError, match=r"target = .*stands twice"):
        parse_json('{"target": "a", "target": "b"}')


def test_all_bad_lines_of_a_file_are_told_at_once():
    lines = [json.dumps(GOOD), "{nonsense", json.dumps(GOOD | {"target": 5}), "", json.dumps(GOOD | {"x": 1})]
    with pytest.raises(CorrectionError) as caught:
        parse_lines("\n".join(lines))
    assert [problem.line for problem in caught.value.problems] == [2, 3, 5]


def test_one_key_with_two_contents_in_a_file_is_refused():
    lines = [json.dumps(GOOD | {"key": "k"}), json.dumps(GOOD | {"key": "k", "target": "Nice"})]
    with pytest.raises(CorrectionError, match="line 2: key = 'k': line 1 uses the same key"):
        parse_lines("\n".join(lines))
    assert len(parse_lines("\n".join([lines[0], lines[0]]))) == 2
