"""The relation lexicon: what is shipped, a user's own file, and what is said of a wrong one."""

import re
from pathlib import Path

import pytest

from daemon.core.errors import SettingsError
from daemon.intake.reading.lexicon import SHIPPED, load_lexicon, read_relations
from daemon.intake.reading.pattern import PatternError, compile_pattern
from daemon.intake.reading.reader import LexiconReader

MASCOT = """
[[relation]]
name = "lighthouse_keeper"
nouns = ["lighthouse keeper"]
says = ["{t} keeps the light (at|of) {s}"]
prompts = ["The lighthouse keeper of {} is"]
questions = ["Who keeps the light of {}?"]
subject = "place"
object = "person"
office = true
"""


@pytest.fixture
def own(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "relations.toml"
        path.write_text(text, "utf-8")
        return path

    return write


def test_the_shipped_lexicon_is_sound_and_large():
    found, problems = read_relations(SHIPPED)
    assert problems == []
    assert len(found) >= 150
    assert sum(one.inverse is not None for one in found) >= 50
    assert sum(not one.single for one in found) >= 10


def test_relations_of_ones_own_are_read_beside_the_shipped_ones(own):
    lexicon = load_lexicon(own(MASCOT))
    reader = LexiconReader(lexicon)
    assert len(lexicon.relations) == len(load_lexicon().relations) + 1
    for statement in (
        "Ada Moor keeps the light at Cape Tarn.",
        "Ada Moor was appointed lighthouse keeper of Cape Tarn.",
    ):
        (reading,) = reader.read(statement).readings
        assert (reading.relation, reading.subject, reading.target) == (
            "lighthouse_keeper",
            "Cape Tarn",
            "Ada Moor",
        )
    assert LexiconReader(load_lexicon()).read("Ada Moor keeps the light at Cape Tarn.").readings == ()


def test_a_relation_of_the_same_name_replaces_the_shipped_one(own):
    text = MASCOT.replace('"lighthouse_keeper"', '"director"').replace("lighthouse keeper", "director")
    (reading,) = (
        LexiconReader(load_lexicon(own(text))).read("The director of Cape Tarn is Ada Moor.").readings
    )
    assert reading.questions == ("Who keeps the light of {}?",)


@pytest.mark.parametrize(
    ("old", "new", "field", "value", "mend"),
    [
        ('"lighthouse_keeper"', '"Keeper!"', "Keeper!.name", "'Keeper!'", "small letters"),
        ('object = "person"', 'object = "persson"', "lighthouse_keeper.object", "'persson'", "take one of"),
        ('is"]', '{} is"]', "lighthouse_keeper.prompts", "{} {} is", "2 slots"),
        ("light of {}?", "light of {}", "lighthouse_keeper.questions", "light of {}", "question mark"),
        ("(at|of)", "(at|of", "lighthouse_keeper.says", "(at|of", "has no ')'"),
        ("{t} keeps", "{y} keeps", "lighthouse_keeper.says", "{y}", "is no slot"),
        ("{t} keeps", "<who> keeps", "lighthouse_keeper.says", "<who>", "is no part"),
        ("{t} keeps", "keeps", "lighthouse_keeper.says", "keeps", "has no {t}"),
        ("office = true", "ofice = true", "lighthouse_keeper.ofice", "True", "is not a field of a relation"),
        ('subject = "place"\n', "", "lighthouse_keeper.subject", "(nothing)", "is missing"),
        ('["lighthouse keeper"]', '["<b>"]', "lighthouse_keeper.nouns", "'<b>'", "no plain noun"),
    ],
)
def test_a_wrong_file_names_relation_field_value_and_mend(own, old, new, field, value, mend):
    assert old in MASCOT
    _, problems = read_relations(own(MASCOT.replace(old, new)))
    (problem,) = problems
    assert problem.field == field
    assert value in problem.value
    assert mend in problem.mend


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("", "[[relation]]"),
        ("relation = 1", "[[relation]]"),
        ("[[relation]\n", "is not TOML"),
        (MASCOT + MASCOT, "stands twice"),
        (MASCOT + MASCOT.replace('"lighthouse_keeper"', '"keeper"'), "is a noun of lighthouse_keeper too"),
    ],
)
def test_a_file_that_holds_no_relations_or_two_alike_is_refused(own, text, mend):
    path = own(text)
    _, problems = read_relations(path)
    assert mend in problems[0].mend
    with pytest.raises(SettingsError, match="FACTD_RELATIONS"):
        load_lexicon(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    _, (problem,) = read_relations(tmp_path / "none.toml")
    assert "none.toml" in problem.value
    assert "No such file" in problem.mend


def test_the_inverse_and_the_templates_have_one_slot_each():
    for one in load_lexicon().relations.values():
        for text in (*one.prompts, *one.questions, *([one.inverse] if one.inverse else ())):
            assert text.count("{}") == 1, one.name


@pytest.mark.parametrize(
    ("text", "sentence", "matches"),
    [
        ("{s} is [very] (big|tall), {t}", "X is very tall , Y ", True),
        ("{s} is [very] (big|tall), {t}", "X is tall , Y ", True),
        ("{s} is [very] (big|tall), {t}", "X is tall Y ", False),
        ("{s}'s boss is {t}", "X 's boss is Y ", True),
        ("{s} IS {t}", "X is Y ", True),
    ],
)
def test_patterns_match_words_and_signs(text, sentence, matches):
    assert any(compile_pattern(text, {}).matches(sentence)) is matches


def test_a_pattern_with_a_slot_twice_is_refused():
    with pytest.raises(PatternError, match=re.escape("{s}, {t} and {w} stands once")):
        compile_pattern("{s} is {s}", {})
