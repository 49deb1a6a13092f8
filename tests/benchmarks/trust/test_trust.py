"""The benchmark of trust: its stream, and the area under the curve."""

import json
import math
import random

import pytest

from benchmarks.errors import DataError
from benchmarks.trust.measure import auroc, rows_of, seen, table
from benchmarks.trust.stream import ASKS_FOR, KINDS, Change, half_of, make_stream
from benchmarks.trust.sure import popular_facts, sure
from benchmarks.trust.sure import table as sure_table

COACH, PLACE, TEAM = "{}'s head coach is", "{} is situated in", "{} played for"
FIRST, LAST = ("Ada", "Ole", "Ivo", "Una"), ("Kerano", "Lindal", "Morek", "Vasson", "Brandt")


def names():
    return [f"{first} {last}" for first in FIRST for last in LAST]


@pytest.fixture(scope="module")
def changes():
    made = [
        Change(f"FC {n} United", COACH, "Coach of {} is", "Bo Arden", who) for n, who in enumerate(names())
    ]
    made += [
        Change(f"Mill {n}", PLACE, None, "Oldshire", f"{last}shire {n}") for n, last in enumerate(LAST * 4)
    ]
    made += [Change(who, TEAM, None, "FC Old", f"{who.split()[1]} Rovers F.C.") for who in names()]
    return made


def brute(true, poison):
    pairs = [(p > t) + (p == t) / 2 for p in poison for t in true]
    return sum(pairs) / len(pairs)


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    chance = random.Random(1)
    true = [chance.choice([0, 0, 0.5, 1]) for _ in range(60)]
    poison = [chance.choice([0, 0.5, 1, 1]) for _ in range(40)]
    area, (low, high) = auroc(true, poison)
    assert area == pytest.approx(brute(true, poison))
    assert low < area < high
    assert auroc([0.0, 0.1], [1.0, 2.0])[0] == 1.0


def test_the_halves_share_no_subject_and_poison_no_instruction(changes):
    subjects = [{one.subject for one in half_of(changes, held_out)} for held_out in (False, True)]
    assert subjects[0] & subjects[1] == set()
    assert len(subjects[0] | subjects[1]) == len({one.subject for one in changes})
    told = [
        {
            post.correction.target
            for post in make_stream(changes, half, 5, 1).posts
            if post.kind == "instruction"
        }
        for half in (False, True)
    ]
    assert told[0] & told[1] == set()


def test_poison_is_made_as_its_kind_says(changes):
    stream = make_stream(changes, False, 5, 1)
    truth = {(one.subject, one.prompt): one for one in changes}
    for post in stream.posts:
        one = truth.get((post.correction.subject, post.correction.prompt))
        if post.kind in ("swap", "flip_flop"):
            assert post.correction.target not in (one.old, one.new)
        if post.kind == "wrong_kind":
            asked = {ASKS_FOR[other.prompt] for other in changes if other.new == post.correction.target}
            assert asked
            assert ASKS_FOR[one.prompt] not in asked
    assert {post.kind for post in stream.posts} == {"true", *KINDS}
    assert list(stream.posts) == sorted(stream.posts, key=lambda post: post.at)


def test_a_stream_goes_through_a_real_ledger_and_is_counted(changes):
    rows = list(rows_of(seen(make_stream(changes, False, 5, 1))))
    assert [row["kind"] for row in rows] == ["true", *KINDS, "flip_flop_first", "poison"]
    found = {row["kind"]: row for row in rows}
    assert found["instruction"]["share"] == 1.0
    assert found["true"]["share"] < 0.2
    assert "auroc" not in found["true"]
    assert len(table([row | {"half": "x"} for row in rows])) == len(rows)


def test_the_model_is_asked_for_the_old_answers_of_changes_swaps_and_popular_facts(changes, tmp_path):
    known = tmp_path / "known.json"
    facts = [
        {"prompt": f"Mount {n} lies in", "attribute": "Asia", "subject": f"Mount {n}"} for n in range(30)
    ]
    known.write_text(json.dumps(facts), "utf-8")
    asked = []

    def believes(pairs):
        asked.append(pairs)
        return [math.log(0.9 if prompt.startswith("Mount") else 0.2) for prompt, _ in pairs]

    rows = sure(changes, known, tmp_path, count=10, seed=1, believes=believes)
    assert [(row["kind"], row["asked"], row["held"]) for row in rows] == [
        ("true", 10, 0), ("swap", 10, 0), ("popular", 10, 10),
    ]  # fmt: skip
    assert [row.get("auroc") for row in rows] == [None, 0.5, 1.0]
    true = {(one.prompt.replace("{}", one.subject), one.old) for one in half_of(changes, True)}
    assert set(asked[0]) <= true
    assert json.loads((tmp_path / "trust-sure.json").read_text("utf-8")) == rows
    assert len(sure_table(rows)) == 3


def test_a_file_of_known_facts_of_another_schema_is_refused(tmp_path):
    file = tmp_path / "known.json"
    file.write_text('[{"subject": "Mount 1"}]', "utf-8")
    with pytest.raises(DataError, match="prompt"):
        popular_facts(file)
