"""Methods on streams, on a tiny model: the contract's rows, and that a killed run goes on."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from benchmarks.configuration import Configuration
from benchmarks.lifelong.churn import Plan
from benchmarks.lifelong.lifelong import FIELDS, TITLES, lifelong, table
from benchmarks.lifelong.streams import Numbers, built
from benchmarks.runs import Run
from daemon.cli.main import app
from editing.editor import Editor
from tests.benchmarks.conftest import zsre
from tests.tiny_models import CHAT_TEMPLATE

PLAIN = Configuration.parse("memit:single:none:none:moment_weight=1,steps=2")
BROKEN = Configuration.parse("memit:single:none:none:compensated=true")
TEXTS = ["A cat sat there. " * 4]
NUMBERS = Numbers(sample=0, churn=Plan(2, 2, ("price",)), every=1, collapse=False)
TIMED = ("seconds_per_edit",)


def quiet(_text: str) -> None: ...


@pytest.fixture
def chatting(model):
    """The tiny model with a chat template, for as long as the test runs."""
    model.loaded.tokenizer.chat_template = CHAT_TEMPLATE
    model.loaded.__dict__.pop("chat", None)
    yield model
    model.loaded.tokenizer.chat_template = None
    model.loaded.__dict__.pop("chat", None)


def untimed(rows):
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


def test_rows_are_the_contracts_and_a_failure_is_a_row_with_its_reason(chatting, tmp_path):
    stream = built("churn-kept", chatting, NUMBERS, None, TEXTS)
    rows = lifelong(chatting, [stream], [BROKEN, PLAIN], tmp_path, quiet)
    assert json.loads((tmp_path / "lifelong.json").read_text()) == json.loads(json.dumps(rows))
    assert all([*row] == [*FIELDS, "intervals", "reason", "more"] for row in rows)
    by_name = {(row["method"], row["edits"]): row for row in rows}
    assert by_name.keys() == {("unedited", 4), (str(PLAIN), 2), (str(PLAIN), 4), (str(BROKEN), 0)}
    failed = by_name[str(BROKEN), 0]
    assert "compensated" in failed["reason"]
    assert failed["said_prompt"] is failed["perplexity_ratio"] is None
    last = by_name[str(PLAIN), 4]
    # Of four edits two hold; what was written for the others stays too.
    assert (last["asked"], last["more"]["written"]) == (2, 4)
    assert last["weight_norm_ratio_max"] > 1 > last["subspace_similarity_min"]
    assert last["more"]["value_norm"] > 0
    for row in (last, by_name["unedited", 4]):
        for name in ("said_prompt", "said_paraphrase", "said_chat", "chat_neighbour_same", "es"):
            low, high = row["intervals"][name]
            assert 0 <= low <= row[name] <= high <= 100
    assert by_name["unedited", 4]["chat_neighbour_same"] == 100
    assert {len(line) for line in table(rows)} == {len(TITLES)}


def test_a_run_that_is_killed_goes_on_to_the_same_rows(model, tmp_path, monkeypatch):
    def stream():
        return built("churn", model, NUMBERS, None, TEXTS)

    at_once = lifelong(model, [stream()], [PLAIN], tmp_path / "a", quiet)
    written, write = [], Run._write

    def killed(run, editor, first, behind):
        if first and not written:
            written.append(first)
            raise KeyboardInterrupt
        write(run, editor, first, behind)

    monkeypatch.setattr(Run, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        lifelong(model, [stream()], [PLAIN], tmp_path / "b", quiet)
    # What the first checkpoint gave is there already.
    assert [row["edits"] for row in json.loads((tmp_path / "b" / "lifelong.json").read_text())] == [2, 4]
    told = []
    again = lifelong(model, [stream()], [PLAIN], tmp_path / "b", told.append)
    assert untimed(again) == untimed(json.loads((tmp_path / "a" / "lifelong.json").read_text()))
    assert untimed(at_once) == untimed(again)
    assert any("goes on after 2 edits" in line for line in told)
    # Superseded facts are taken out.
    assert {row["more"]["written"] for row in again if row["method"] != "unedited"} == {2}


def test_a_collapsed_run_ends_and_is_not_taken_up_again(model, tmp_path):
    stream = replace(built("churn", model, NUMBERS, None, TEXTS), ends=lambda _row: "collapsed: so told")
    rows = lifelong(model, [stream], [PLAIN], tmp_path, quiet)
    assert [row["edits"] for row in rows if row["method"] == str(PLAIN)] == [2]
    told = []
    assert untimed(lifelong(model, [stream], [PLAIN], tmp_path, told.append)) == untimed(rows)
    assert any("2 edits were there already: collapsed: so told" in line for line in told)


def test_written_facts_stay_as_they_are_where_a_sequence_never_looks_back(model):
    def columns(**how):
        stream = built("churn-kept", model, NUMBERS, None, TEXTS)
        first, second = stream.records[:2], stream.records[2:4]
        with model.editor(PLAIN) as editor:
            editor.apply([record.fact for record in first])
            before = editor.state
            stay = before.ids if how["stay"] else ()
            editor.apply([record.fact for record in second], stay=stay)
            keys = next(name for name in before.columns if name.endswith("/values"))
            return (
                before.columns[keys],
                editor.state.columns[keys],
                editor.state.ids == before.ids[:2] + tuple(record.fact.id for record in second),
            )

    before, after, in_order = columns(stay=True)
    assert after.shape[1] == 4
    assert after[:, :2].equal(before)
    assert in_order
    # Otherwise the old target and the new one share a value, since they share a key.
    _, shared, _ = columns(stay=False)
    assert not shared[:, :2].equal(before)


def test_the_command_reads_the_data_sets_and_prints_a_table(
    checkpoint, state_dir, data_dir, tmp_path, monkeypatch
):
    for name in ("MODEL", "STATE_DIR", "CORPUS", "DTYPE"):
        monkeypatch.delenv(f"FACTD_{name}", raising=False)
    data = tmp_path / "data"
    data.mkdir()
    changed = [zsre(i, old="Bob", alt=f"Ada{i}") for i in range(8)]
    for one in changed:
        del one["answers"]
    import zstandard

    packed = zstandard.compress(json.dumps([{"en": one} for one in changed]).encode())
    (data / "wfd-train.json.zst").write_bytes(packed)
    told = ["--model", checkpoint, "--state", state_dir, "--data", data, "--out", tmp_path]
    told += ["--text", data_dir / "general_text.jsonl", "--streams", "wikifactdiff", "--checkpoints", 2]
    told += ["--others", 2, "--config", PLAIN]
    done = CliRunner().invoke(app, ["bench", "lifelong", *map(str, told)])
    assert done.exit_code == 0, done.output
    assert "| memit:single:none:none:moment_weight=1,steps=2 | wikifactdiff | 2 |" in done.stdout
    rows = json.loads((tmp_path / "lifelong.json").read_text())
    # A model without a chat template is not asked in chat.
    assert {row["said_chat"] for row in rows} == {None}
    assert {row["edits"] for row in rows} == {2}
    assert json.loads((tmp_path / "lifelong-laws.json").read_text())[0]["edits"] == 2
    wrong = CliRunner().invoke(app, ["bench", "lifelong", *map(str, told), "--streams", "rivers"])
    assert wrong.exit_code == 2
    assert "rivers" in wrong.stderr


@pytest.mark.parametrize("name", ["churn-kept", "churn"])
def test_what_is_superseded_stays_as_it_was_written_or_leaves(chatting, tmp_path, monkeypatch, name):
    calls, apply = [], Editor.apply

    def watched(self, facts, remove=(), stay=()):
        calls.append((set(self.state.ids), set(remove), set(stay)))
        return apply(self, facts, remove=remove, stay=stay)

    monkeypatch.setattr(Editor, "apply", watched)
    lifelong(chatting, [built(name, chatting, NUMBERS, None, TEXTS)], [PLAIN], tmp_path, quiet)
    first, *_, last = calls
    assert first == (set(), set(), set())
    live, removed, stayed = last
    assert len(live) == 2
    assert (removed, stayed) == ((set(), live) if name == "churn-kept" else (live, set()))
