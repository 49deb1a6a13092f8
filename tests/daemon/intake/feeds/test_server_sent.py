"""Bytes into events, as the HTML standard has it, however the bytes are cut."""

import random

import pytest

from daemon.intake.feeds.server_sent import MOST_BYTES, Parser

STREAM = (
    "\ufeff: a comment\n\n"
    "data: first\n\n"
    "id: 1\r\ndata: second\r\ndata:  line two \r\n\r\n"
    "event: other\rdata:third\r\r"
    "id: 2\n\n"
    "data\n\n"
    "id: 3\nretry: 1500\nunknown: x\ndata: ünï\n\n"
    "retry: soon\nid: a\0b\ndata: fifth\n\n"
    "id\ndata: sixth\n\n"
    "data: cut off"
).encode()
WANTED = [
    ("", "message", "first"),
    ("1", "message", "second\n line two "),
    ("1", "other", "third"),
    ("2", "message", ""),
    ("3", "message", "ünï"),
    ("3", "message", "fifth"),
    ("", "message", "sixth"),
]


@pytest.mark.parametrize("seed", range(30))
def test_events_are_the_same_however_the_bytes_are_cut(seed):
    chance, parser, found, place = random.Random(seed), Parser(), [], 0
    while place < len(STREAM):
        size = chance.randrange(1, 2 + seed)
        found += parser.feed(STREAM[place : place + size])
        place += size
    assert [(event.id, event.kind, event.data) for event in found] == WANTED
    assert parser.retry_seconds == 1.5


def test_events_behind_one_id_have_places():
    parser = Parser(last_id="9")
    found = list(parser.feed(b"data: a\n\ndata: b\n\nid: 10\ndata: c\n\ndata: d\n\n"))
    assert [(event.id, event.place) for event in found] == [("9", 0), ("9", 1), ("10", 0), ("10", 1)]


@pytest.mark.parametrize("line", [b"x" * (MOST_BYTES + 2), b"x" * 100_000 + b"\ndata: "])
def test_an_event_that_is_too_long_loses_its_data_and_no_other(line):
    parser = Parser()
    long = b"data: " + (line if b"\n" not in line else line * 12) + b"\n\n"
    found = []
    for start in range(0, len(long), 65536):
        found += parser.feed(long[start : start + 65536])
    found += parser.feed(b"id: 5\ndata: next\n\n")
    assert [event.data for event in found] == [None, "next"]
