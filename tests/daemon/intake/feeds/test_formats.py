"""What each form of a file says, record by record, and what is told of a bad one."""

import json

import pytest

from daemon.core.errors import CorrectionError
from daemon.intake.feeds import cloudevents, jsonl, wikifactdiff
from daemon.intake.feeds.files import LONGEST_BYTES
from daemon.intake.feeds.sheet import Sheet

GOOD = {"subject": "France", "prompt": "The capital of {} is", "target": "Lyon"}


@pytest.fixture
def read(tmp_path):
    """A function: the records of a text in one form: (change, correction), or (line, field, mend)."""

    def reading(reader, text):
        file = tmp_path / "feed"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return [shown(entry) for entry in reader(file, lambda fraction: None)]

    return reading


def shown(entry):
    if isinstance(entry, CorrectionError):
        (problem,) = entry.problems
        return problem.line, problem.field, problem.mend
    correction = entry.correction
    fields = {n: v for n, v in correction.model_dump().items() if v not in (None, [], 0)}
    return str(entry.change), fields


def test_json_lines_say_what_changed(read):
    lines = [
        GOOD,
        GOOD | {"change": "unchanged"},
        {"subject": "France", "prompt": GOOD["prompt"], "was": "Paris", "change": "obsolete"},
        GOOD | {"change": "gone"},
        ["France"],
        GOOD | {"target": 5},
    ]
    found = read(jsonl.read, "\ufeff" + "\n\n".join(map(json.dumps, lines)) + "\n{no json\n")
    assert found[0] == ("new", GOOD)
    assert found[1] == ("unchanged", GOOD)
    assert found[2] == ("obsolete", GOOD | {"target": "Paris"})
    assert found[3][:2] == (7, "change")
    assert found[4][0] == 9
    assert found[5] == (11, "target", "must be text, in quotes")
    assert (found[6][0], "not valid JSON" in found[6][2]) == (12, True)


def test_a_file_that_is_one_json_list_is_read_too(read):
    assert read(jsonl.read, "\ufeff \n" + json.dumps([GOOD, GOOD | {"target": "Nice"}], indent=1)) == [
        ("new", GOOD),
        ("new", GOOD | {"target": "Nice"}),
    ]


def test_a_line_that_is_too_long_or_no_utf_8_keeps_no_other_from_being_read(read):
    good = json.dumps(GOOD).encode()
    text = good + b"\n" + b"x" * (2 * LONGEST_BYTES + 5) + b"\n" + b"\xff\n" + good
    found = read(jsonl.read, text)
    assert [one[0] for one in found] == ["new", 2, 3, "new"]
    assert "longer than" in found[1][2]
    assert "not UTF-8" in found[2][2]


def test_csv_has_a_column_a_field_and_lists_in_a_cell(read):
    text = (
        "subject,prompt,target,questions,priority,valid_until,was\r\n"
        'France,The capital of {} is,"Lyon",What is the capital of {}? | Where is {} governed from?,7,,\r\n'
        '"the ""Old""\nHouse",The owner of {} is,Ann,,,2030-01-01T00:00:00Z,Bob\r\n'
        "\r\n"
        "Spain,The capital of {} is\r\n"
        "Spain,The capital of {} is,Ávila,,high,,\r\n"
    )
    found = read(Sheet().read, text)
    questions = ["What is the capital of {}?", "Where is {} governed from?"]
    assert found[0] == ("new", GOOD | {"questions": questions, "priority": 7})
    assert found[1][1] == "subject"  # a line break inside a name
    assert found[2][:1] == (6,)
    assert "has 2 cells, the header 7" in found[2][2]
    assert found[3] == (7, "priority", "must be a whole number")


def test_csv_of_somebody_elses_columns(read):
    text = "land;old;new;note\nFrance;Paris;Lyon;x\nSpain;Madrid;;y\n"
    sheet = Sheet({"subject": "land", "was": "old", "target": "new"}, {"prompt": "The capital of {} is"}, ";")
    found = read(sheet.read, text)
    assert found[0] == ("new", GOOD | {"was": "Paris"})
    assert found[1] == (3, "target", "is missing; give it")


@pytest.mark.parametrize(
    ("sheet", "text", "mend"),
    [
        (Sheet(), "subject,prompt,tarjet\na,{} is,b\n", "is no field of a correction"),
        (Sheet({"subject": "land"}), "country\nFrance\n", "has no column 'land'"),
        (Sheet(), "subject,subject\na,b\n", "names a column twice"),
    ],
)
def test_a_header_that_cannot_be_used_is_told_once(read, sheet, text, mend):
    (found,) = read(sheet.read, text)
    assert (found[0], mend in found[2]) == (1, True)


def test_csv_with_an_open_quote_is_told_and_what_stood_before_is_read(read):
    found = read(
        Sheet().read, 'subject,prompt,target\nFrance,The capital of {} is,Lyon\nSpain,"The capital\n'
    )
    assert found[0] == ("new", GOOD)
    assert "no CSV from here on" in found[1][2]


PUBLISHED = {
    "subject": {"id": "Q142", "label": "France"},
    "relation": {"id": "P36", "label": "capital"},
    "objects": [
        {"id": "Q1", "label": "Lyon", "decision": "learn"},
        {"id": "Q2", "label": "Paris", "decision": "forget"},
    ],
    "update_prompt": "The capital of France is ____",
    "generalization_prompts": ["France's capital is ____.", "____ is the capital of France"],
}


def decided(*decisions):
    return PUBLISHED | {"objects": [{"label": label, "decision": d} for label, d in decisions]}


def test_wikifactdiff_as_it_is_published(read):
    records = [
        PUBLISHED,
        decided(("Paris", "forget")),
        decided(("Paris", "keep")),
        decided(("Lyon", "keep"), ("Paris", "forget")),
        decided(("Lyon", "new"), ("Paris", "static")),
        decided(("Lyon", "learn"), ("Nice", "learn")),
        decided(("Lyon", "guess")),
        decided(),
        PUBLISHED | {"update_prompt": "____ is the capital of France"},
        PUBLISHED | {"update_prompt": "France and the capital of France: ____"},
        PUBLISHED | {"subject": {"id": "Q142"}},
    ]
    found = read(wikifactdiff.read, "\n".join(map(json.dumps, records)))
    said = GOOD | {"paraphrases": ["{}'s capital is"]}
    assert found[0] == ("new", said | {"was": "Paris"})
    assert found[1] == ("obsolete", said | {"target": "Paris"})
    assert found[2] == ("unchanged", said | {"target": "Paris"})
    assert found[3] == ("new", said | {"was": "Paris"})
    assert [one[1] for one in found[4:]] == [
        "objects", "objects", "objects", "objects", "update_prompt", "prompt", "label",
    ]  # fmt: skip
    assert [one[0] for one in found[4:]] == [5, 6, 7, 8, 9, 10, 11]


def test_wikifactdiff_as_benchmarks_hold_it(read):
    one = {
        "case_id": 1,
        "subject": "France",
        "src": "The capital of France is",
        "alt": "Lyon",
        "old": "Paris",
    }
    one |= {"rephrase": "France's capital is", "loc": "The capital of Spain is", "loc_ans": "Madrid"}
    records = [{"en": one}, {"en": one | {"alt": "Paris"}}, {"en": one | {"alt": ""}}]
    said = GOOD | {"paraphrases": ["{}'s capital is"]}
    assert read(wikifactdiff.read, json.dumps(records)) == [
        ("new", said | {"was": "Paris"}),
        ("unchanged", said | {"target": "Paris"}),
        ("obsolete", said | {"target": "Paris"}),
    ]


EVENT = {"specversion": "1.0", "id": "7", "source": "/desk", "type": "fact", "data": GOOD}


def test_cloudevents_carry_a_correction_each(read):
    found = read(cloudevents.read, json.dumps([EVENT, EVENT | {"time": "2030-01-01T09:00:00+01:00"}]))
    said = GOOD | {"source": "/desk", "key": 'cloudevent:["/desk", "7"]'}
    assert found == [("new", said), ("new", said | {"valid_from": "2030-01-01T08:00:00Z"})]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"id": ""}, "id"),
        ({"id": 7}, "id"),
        ({"time": "2030-01-01T09:00:00"}, "time"),
        ({"time": "soon"}, "time"),
        ({"Trace": "x"}, "Trace"),
        ({"data": None}, "data"),
        ({"data": "Lyon"}, "data"),
        ({"data": GOOD | {"target": ""}}, "data.target"),
        ({"data": GOOD | {"key": "own"}}, "data.key"),
        ({"data": GOOD | {"change": "gone"}}, "data.change"),
        ({"data": None, "data_base64": "%"}, "data_base64"),
        ({"data_base64": "e30="}, "data_base64"),
        ({"source": "a\u202eb"}, "source"),
    ],
)
def test_what_is_wrong_with_an_event_is_told_with_its_field(change, field):
    found = cloudevents.entry(EVENT | change)
    assert field in [problem.field for problem in found.problems]


def test_missing_attributes_are_all_told():
    found = cloudevents.entry({"data": GOOD})
    assert [problem.field for problem in found.problems] == ["specversion", "id", "source", "type"]


def test_id_and_source_are_the_key_however_long():
    long = [cloudevents.entry(EVENT | {"id": "x" * 300 + end}).correction.key for end in "ab"]
    assert len({*long}) == 2
    assert max(map(len, long)) <= 200
    assert cloudevents.key_of("a b", "c") != cloudevents.key_of("a", "b c")
