"""Several facts of one subject, on a tiny model."""

import json

from benchmarks.asking.mates import FORMS, measured
from benchmarks.configuration import Configuration
from benchmarks.lifelong.churn import Plan


def test_all_relations_so_far_are_asked_after_each_one(model, tmp_path):
    configuration = Configuration.parse("memit-seq:::none:again=0,steps=2")
    rows = measured(model, Plan(2, 1, ("price", "seat")), configuration, tmp_path)
    assert [(row["written"], row["asked"]) for row in rows] == [
        ("price", "price"),
        ("seat", "price"),
        ("seat", "seat"),
    ]
    assert [row["facts_a_subject"] for row in rows] == [1, 2, 2]
    for row in rows:
        assert row["facts"] == 2
        assert row["cpu_seconds_a_fact"] > 0
        # This model has no chat template.
        assert [form for form in FORMS if form in row] == ["prompt"]
        assert row["prompt_low"] <= row["prompt"] <= row["prompt_high"]
        assert row["said_prompt"] <= row["prompt"]
    assert json.loads((tmp_path / "mates.json").read_text()) == rows
