"""Recent changes of Wikidata as corrections, by a file of labels."""

import json

import pytest

from daemon.core.errors import CorrectionError, SettingsError
from daemon.intake.feeds.server_sent import Event
from daemon.intake.feeds.wikimedia import PROPERTIES, RecentChanges, read_labels
from daemon.intake.reading.lexicon import load_lexicon

LABELS = {"Q142": "France", "Q456": "Lyon", "Q312": "Apple"}
CHANGE = {
    "$schema": "/mediawiki/recentchange/1.0.0",
    "meta": {"id": "b1c8", "domain": "www.wikidata.org", "dt": "2026-11-28T10:00:00Z"},
    "type": "edit",
    "title": "Q142",
    "wiki": "wikidatawiki",
    "comment": "/* wbsetclaim-update:2||1|1 */ [[Property:P36]]: [[Q456]]",
}


def read(**change):
    event = Event('[{"topic":"x","offset":7}]', "message", json.dumps(CHANGE | change))
    return RecentChanges(load_lexicon(), LABELS)(event)


def test_a_statement_that_is_set_is_a_correction_with_the_words_of_its_relation():
    found = read()
    fields = found.correction.model_dump(
        include={"subject", "prompt", "target", "questions", "source", "key"}
    )
    assert (found.change, fields) == (
        "new",
        {
            "subject": "France",
            "prompt": "The capital of {} is",
            "target": "Lyon",
            "questions": ["What is the capital of {}?"],
            "source": "wikidata",
            "key": "wikimedia:b1c8",
        },
    )


def test_a_statement_that_is_removed_is_obsolete():
    found = read(comment="/* wbremoveclaims-remove:1| */ [[Property:P36]]: [[Q456]]")
    assert (found.change, found.correction.target) == ("obsolete", "Lyon")


def test_a_value_may_be_words_in_place_of_an_item():
    found = read(title="Q312", comment="/* wbcreateclaim-create:1| */ [[Property:P348]]: 27.1")
    assert (found.correction.subject, found.correction.target) == ("Apple", "27.1")


@pytest.mark.parametrize(
    "change",
    [
        {"type": "log"},
        {"wiki": "enwiki"},
        {"title": "Q1"},
        {"meta": {"id": "b1c8", "domain": "canary"}},
        {"meta": {"domain": "www.wikidata.org"}},
        {"comment": "/* wbsetclaim-update:2||1|1 */ [[Property:P31]]: [[Q456]]"},
        {"comment": "/* wbsetclaim-update:2||1|1 */ [[Property:P36]]: [[Q999]]"},
        {"comment": "/* wbsetlabel-add:1|en */ Lyon"},
        {"comment": "vandalism"},
    ],
)
def test_everything_else_is_skipped(change):
    assert read(**change) is None


def test_data_that_is_no_json_is_an_error_and_not_skipped():
    found = RecentChanges(load_lexicon(), LABELS)(Event("1", "message", "{oops"))
    assert isinstance(found, CorrectionError)


def test_each_property_has_its_relation():
    assert set(PROPERTIES.values()) <= set(load_lexicon().relations)


def test_labels_are_read_and_a_bad_line_is_named(tmp_path):
    file = tmp_path / "labels.tsv"
    file.write_text("\ufeffQ142\tFrance\n\nQ456\tLyon \n")
    assert read_labels(file) == {"Q142": "France", "Q456": "Lyon"}
    file.write_text("Q142\tFrance\nQ456 Lyon\n")
    with pytest.raises(SettingsError, match="line 2: write an item, a tab"):
        read_labels(file)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_labels(tmp_path / "none")
