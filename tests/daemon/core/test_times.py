"""Moments on the wire: one spelling for each moment, and none without a zone."""

import pytest

from daemon.core.errors import CorrectionError
from daemon.core.messages import parse_correction
from daemon.core.times import moment, seconds_of, shown

GOOD = {"subject": "France", "prompt": "The capital of {} is", "target": "Lyon"}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("2027-01-01T09:00:00+01:00", "2027-01-01T08:00:00Z"),
        ("2027-01-01T08:00:00Z", "2027-01-01T08:00:00Z"),
        ("20270101T080000Z", "2027-01-01T08:00:00Z"),
        ("2027-01-01 03:00-05:00", "2027-01-01T08:00:00Z"),
        ("2027-01-01T08:00:00.25Z", "2027-01-01T08:00:00.250000Z"),
        ("1900-01-01T00:00:00Z", "1900-01-01T00:00:00Z"),
    ],
)
def test_a_moment_is_kept_in_utc(text, kept):
    assert parse_correction(GOOD | {"valid_from": text}).valid_from == kept
    assert moment(kept) == kept
    assert shown(seconds_of(kept)) == kept


@pytest.mark.parametrize(
    ("change", "field", "mend"),
    [
        ({"valid_from": "2027-01-01T09:00:00"}, "valid_from", "no zone; add Z"),
        ({"valid_until": "2027-01-01"}, "valid_until", "no zone; add Z"),
        ({"valid_from": "tomorrow"}, "valid_from", "no time in ISO 8601"),
        ({"valid_from": 1800000000}, "valid_from", "must be text"),
        ({"valid_until": "0001-01-01T00:00:00+05:00"}, "valid_until", "outside the years"),
        (
            {"valid_from": "2027-01-02T00:00:00Z", "valid_until": "2027-01-01T00:00:00Z"},
            "valid_until",
            "not after",
        ),
        (
            {"valid_from": "2027-01-01T00:00:00Z", "valid_until": "2027-01-01T01:00:00+01:00"},
            "valid_until",
            "not aft",
        ),
    ],
)
def test_a_moment_that_cannot_be_used_is_named_with_its_mend(change, field, mend):
    with pytest.raises(CorrectionError) as caught:
        parse_correction(GOOD | change)
    (problem,) = caught.value.problems
    assert problem.field == field
    assert mend in problem.mend


def test_the_same_moment_in_another_zone_is_the_same_correction():
    here = parse_correction(GOOD | {"valid_until": "2027-01-01T09:00:00+01:00"})
    there = parse_correction(GOOD | {"valid_until": "2027-01-01T08:00:00Z"})
    assert here.content_hash == there.content_hash
    later = parse_correction(GOOD | {"valid_until": "2027-01-01T08:00:01Z"})
    assert later.content_hash != here.content_hash
    assert parse_correction(GOOD | {"valid_until": None}).content_hash == parse_correction(GOOD).content_hash
