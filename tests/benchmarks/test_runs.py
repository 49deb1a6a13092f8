"""Each benchmark on a tiny model: the contract's fields, and that a run goes on where it stopped."""

import json
import math
from dataclasses import replace

import pytest

from benchmarks import floor, horizon, runs, speed
from benchmarks.configuration import Configuration, Model
from benchmarks.data import load_texts
from benchmarks.drawing import plots
from benchmarks.errors import DataError
from benchmarks.files import read_json, read_state, write_json, write_state

SPEED_FIELDS = {
    "model",
    "edits",
    "threads",
    "serial_edits_per_second",
    "edits_per_second",
    "value_ratio",
    "update_ratio",
    "tuned_ratio",
    "loss_difference_nats",
    "floor_ratio",
    "peak_memory_bytes",
}
HORIZON_FIELDS = {
    "method",
    "placement",
    "anchor",
    "protect",
    "batch",
    "edits",
    "es",
    "ps",
    "ns",
    "s",
    "exact_match",
    "generation_match",
    "retention_oldest",
    "retention_newest",
    "perplexity_ratio",
    "weight_norm_ratio_max",
    "subspace_similarity_min",
    "seconds",
}
PLAIN = Configuration.parse("memit:spread:none:none:steps=3")
SEQUENTIAL = Configuration.parse("memit-seq:boundary:none:revive:steps=3")


def quiet(_text: str) -> None: ...


@pytest.fixture
def stream(records, data_dir):
    texts = load_texts(data_dir / "general_text.jsonl")[:2]

    def made(**changes):
        settings = {"batch": 2, "checkpoints": (4, 6)} | changes
        return runs.Stream(records, texts, "counterfact", **settings)

    return made


def test_speed_compares_with_the_serial_procedure(model, records):
    found = speed.speed(model, records, SEQUENTIAL, 3, quiet, lambda: pytest.fail("it computes in float32"))
    assert found.keys() >= SPEED_FIELDS
    assert (found["edits"], found["serial_edits"]) == (6, 3)
    assert abs(found["all_at_once"]["loss_difference_nats"]) < 1e-3
    # A third of the prompts at a time, on the tiny model.
    assert 1e-6 < abs(found["loss_difference_nats"]) < 0.1
    # One number follows from the others: nothing is scaled twice.
    assert found["update_ratio"] == pytest.approx(
        found["edits_per_second"] / found["serial_edits_per_second"]
    )
    assert found["floor_ratio"] > 0
    assert found["peak_memory_bytes"] > 10**8
    assert found["all_at_once"]["mean_steps"] > found["tuned"]["mean_steps"]
    assert found["serial"]["dtype"] == found["dtype"] == "float32"
    for told in (found["in_turn"], found["tuned"]):
        # The median of three.
        assert sorted(told["seconds_per_edit_of_each_run"])[1] == told["seconds_per_edit"]
    assert found["serial_in_our_dtype"]["seconds"] == found["serial"]["seconds"]
    assert all(isinstance(text, str) for row in speed.table(found) for text in row)


def test_the_serial_procedure_computes_in_float32_whatever_ours_does(checkpoint, state_dir, model, records):
    narrow = Model.open(str(checkpoint), state_dir, lambda _stage, _fraction: None, dtype="bfloat16")
    found = speed.speed(narrow, records, SEQUENTIAL, 1, quiet, lambda: model.loaded)
    like = found["serial_in_our_dtype"]
    assert (found["dtype"], found["serial"]["dtype"], like["dtype"]) == ("bfloat16", "float32", "bfloat16")
    assert like["seconds"] != found["serial"]["seconds"]
    # Of values found in bfloat16, asked in float32: near those of the peer, but not equal.
    assert 0 < abs(found["all_at_once"]["loss_difference_nats"]) < 0.1
    assert like["update_ratio"] / like["seconds_per_edit"] == pytest.approx(
        found["update_ratio"] / found["serial"]["seconds_per_edit"]
    )


def test_the_floor_counts_positions_layers_and_predicted_tokens(model):
    from editing.facts import Fact

    # One byte a token: from the subject's last byte on, " is" and " Ada" less its last byte are read.
    fact = Fact("a cat", "The owner of {} is", "Ada")
    contexts = len(model.install.contexts())
    positions, predicted = 1 + contexts * (1 + 3 + 3), 1 + contexts * 4
    layers = len(model.loaded.layers) - 1 - PLAIN.numbers(model.loaded).layers[-1]
    body, head = layers * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64), 257 * 32
    expected = 2 * (2 * 3 - 1) * (positions * body + predicted * head)
    assert floor.floor_flops(model, PLAIN, [fact], [3]) == expected


def test_serial_facts_are_spaced_by_length(model, records):
    facts = [record.fact for record in records]
    assert sorted(speed.spaced(facts, 99, model.loaded)) == list(range(6))
    (middle,) = speed.spaced(facts, 1, model.loaded)
    lengths = sorted(len(fact.text.encode()) for fact in facts)
    assert len(facts[middle].text.encode()) == lengths[3]


def test_horizon_has_a_row_for_each_checkpoint(model, stream, tmp_path):
    rows = horizon.horizon(model, stream(compact=True), [PLAIN, SEQUENTIAL], tmp_path, quiet)
    assert json.loads((tmp_path / "horizon.json").read_text()) == rows
    assert all(row.keys() >= HORIZON_FIELDS for row in rows)
    names = {(row["method"], row["edits"]) for row in rows}
    methods = ("unedited", "memit", "memit+compact", "memit-seq", "memit-seq+compact")
    assert names == {(method, edits) for method in methods for edits in (4, 6)}
    edited = [row for row in rows if row["method"] != "unedited"]
    assert all(row["weight_norm_ratio_max"] != 1 for row in edited)
    assert all(row["subspace_similarity_min"] < 1 for row in edited)
    assert all(row["written"] == row["edits"] == row["scored"] for row in edited)
    for row in rows:
        parts = [row["es"], row["ps"], row["ns"]]
        wanted = 3 / math.fsum(1 / part for part in parts) if all(parts) else 0.0
        assert row["s"] == pytest.approx(wanted)
    assert len(horizon.table(rows)) == len(rows)
    assert all(path.stat().st_size > 10_000 for path in plots.horizon(rows, tmp_path))


def test_an_interrupted_run_goes_on_to_the_same_rows(model, stream, tmp_path):
    def timeless(rows):
        return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]

    at_once = horizon.horizon(model, stream(), [SEQUENTIAL], tmp_path / "a", quiet)
    horizon.horizon(model, stream(checkpoints=(4,)), [SEQUENTIAL], tmp_path / "b", quiet)
    told = []
    again = horizon.horizon(model, stream(), [SEQUENTIAL], tmp_path / "b", told.append)
    assert timeless(again) == timeless(at_once)
    assert any("goes on after 4 edits" in line for line in told)
    assert not any(": 2 edits" in line for line in told)


def test_a_finished_run_is_not_run_again(model, stream, tmp_path):
    rows = horizon.horizon(model, stream(), [PLAIN], tmp_path, quiet)
    told = []
    assert horizon.horizon(model, stream(), [PLAIN], tmp_path, told.append) == rows
    assert any("there already" in line for line in told)


def test_another_stream_does_not_take_up_a_finished_run(model, stream, tmp_path):
    for batch in (2, 3):
        rows = horizon.horizon(model, stream(batch=batch, checkpoints=(4,)), [PLAIN], tmp_path, quiet)
    assert sorted(row["batch"] for row in rows if row["method"] == "memit") == [2, 3]


def test_a_sample_is_fixed_by_its_seed(stream):
    assert stream(sample=3).scored(6) == stream(sample=3).scored(6)
    assert len(stream(sample=3).scored(6)) == 3
    assert stream(sample=3, seed=1).scored(6) != stream(sample=3).scored(6)
    assert stream(sample=9).scored(4) == list(stream().records[:4])


def test_of_each_slot_the_last_record_holds_the_oldest_first(stream, records):
    first, second, third = records[:3]
    newer = [replace(one, fact=replace(one.fact, target="Tom", id="")) for one in (second, first)]
    told = replace(stream(), records=[first, second, third, *newer])
    assert told.live(3) == [first, second, third]
    assert told.live(4) == [first, third, newer[0]]
    assert told.live(5) == [third, *newer]
    assert told.tenths(5) == {"oldest": [third], "newest": [newer[1]]}
    assert told.scored(5) == told.live(5)


def test_batches_end_at_checkpoints(stream):
    assert stream(batch=4, checkpoints=(6,)).steps(0) == [(0, 4), (4, 6)]
    assert stream(batch=4, checkpoints=(3, 6)).steps(3) == [(3, 6)]


def test_a_state_comes_back_bit_for_bit(model, records, tmp_path):
    with model.editor(SEQUENTIAL) as editor:
        editor.apply([record.fact for record in records])
        hashes, state = editor.weight_hashes(), editor.state
        write_state(tmp_path / "state", state)
    with model.editor(SEQUENTIAL) as editor:
        editor.restore(read_state(tmp_path / "state"))
        assert editor.weight_hashes() == hashes
        assert editor.state.facts == state.facts
        assert all(editor.state.columns[name].equal(column) for name, column in state.columns.items())


def test_a_state_that_is_missing_or_damaged_is_told(tmp_path):
    (tmp_path / "damaged").write_bytes(b"PK")
    for name in ("missing", "damaged"):
        with pytest.raises(DataError, match="remove its folder"):
            read_state(tmp_path / name)


def test_what_is_not_finite_is_null_in_json(tmp_path):
    write_json(tmp_path / "a.json", {"a": [math.nan, math.inf, 1.5], 3: "x"})
    assert read_json(tmp_path / "a.json", None) == {"a": [None, None, 1.5], "3": "x"}
    assert read_json(tmp_path / "b.json", "none yet") == "none yet"
