"""What the command line looks like: narrow terminals, pipes, suggestions, tail, plot, doctor."""

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from daemon.cli import output as cli_output
from daemon.cli.act.post import _show_ended
from daemon.cli.ask.facts import _fact
from daemon.cli.ask.plot import history, series
from daemon.cli.ask.tail import moment
from daemon.cli.exits import CommandError
from daemon.cli.main import app
from daemon.cli.output import show_table
from daemon.cli.reporting import nearest
from daemon.core.settings import load_settings
from daemon.supervise.doctor import check_clock, check_ledger, check_ledger_clock, examine

ROOT = Path(__file__).parents[3]
ID = "29f4f3aa-71f0-4679-b3c7-9971d61a4010"


@pytest.fixture
def shown(monkeypatch):
    """A function: what show_table prints on a terminal or pipe of so many columns."""

    def show(width, *table, terminal=False):
        out = io.StringIO()
        made = Console(file=out, width=width, force_terminal=terminal, highlight=False)
        monkeypatch.setattr(cli_output, "console", lambda: made)
        show_table(*table)
        return out.getvalue()

    return show


@pytest.fixture
def cli(world, monkeypatch):
    """A function: runs a command in this process on the world's ledger; the broker is away."""
    for name in [name for name in os.environ if name.startswith("FACTD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FACTD_STATE_DIR", str(world.root))
    monkeypatch.setenv("FACTD_REDIS_URL", "redis://127.0.0.1:1/0")
    return lambda *arguments: CliRunner().invoke(app, arguments)


FACT = (
    ID,
    "The chief executive officer of Apple is",
    "a former Apple co-founder",
    "Maria Lopez, who",
    "v000001",
)
NAMES = ("id", "prompt", "before", "after", "version")


def test_rows_that_do_not_fit_stand_below_each_other_and_are_whole(shown):
    text = shown(80, "1 live fact", NAMES, [FACT])
    assert all(cell in text for cell in FACT)
    assert max(map(len, text.splitlines())) <= 80


def test_a_wide_terminal_gets_a_table_with_ids_in_one_line(shown):
    text = shown(140, "1 live fact", NAMES, [FACT])
    assert "┃" in text
    assert ID in text


def test_what_comes_from_users_is_no_markup_and_long_cells_are_cut(shown):
    text = shown(80, "x", ("a", "b", "c"), [("[red]mine[/red]", "1", "word " * 100)])
    assert "[red]mine[/red]" in text
    assert text.count("word") == cli_output.SHOWN // len("word ")


def test_line_breaks_and_counts_of_nothing_are_left_out(shown):
    text = shown(80, "x", ("a", "b"), [("Rome.\n\nIt is", {"live": 2, "dead": 0})])
    assert "Rome. It is" in text
    assert "live 2 " in text
    assert "dead" not in text


def test_the_status_is_for_reading(cli, world):
    world.post("A", "fine", id=ID)
    world.run()
    done = cli("status")
    assert "live 1" in done.stdout
    assert "accepted" in done.stdout
    assert "{" not in done.stdout
    at = json.loads(cli("status", "--json").stdout)["last_live_at"]
    assert datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S") in done.stdout


def test_a_fact_that_the_server_does_not_say_is_live_and_lost_everywhere(cli, world, capsys):
    world.replica.complete = lambda prompts, max_tokens=12: [" Nairobi." for _ in prompts]
    world.post("A", "fine", id=ID)
    world.run()
    shown = [cli(*command).stdout for command in (["corrections"], ["status", ID])]
    _show_ended(load_settings(), [ID], 0.0, as_json=False)
    told = capsys.readouterr()
    assert all("live, lost" in text for text in [*shown, told.out])
    assert "1 of 1 corrections are live, but the server answers otherwise" in told.err
    (view,) = json.loads(cli("facts", "--json").stdout)
    assert _fact(view).startswith("The capital of A is → fine is lost: prompt answers 'Nairobi.'")
    assert json.loads(cli("status", ID, "--json").stdout)["state"] == "live"
    world.replica.complete = lambda prompts, max_tokens=12: ["fine." for _ in prompts]
    world.post("B", "fine")
    world.run()
    assert "lost" not in cli("corrections").stdout + cli("facts").stdout


def test_no_colours_in_a_pipe_or_with_no_color(shown, monkeypatch):
    assert "\x1b[" not in shown(80, "x", ("a", "b"), [("1", "2")])
    assert "\x1b[1" in shown(80, "x", ("a", "b"), [("1", "2")], terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" + "1m" not in shown(80, "[red]x[/red]", ("a", "b"), [("1", "2")], terminal=True)


def test_an_unknown_id_is_answered_with_the_nearest(cli, world):
    world.post("A", "fine", id=ID)
    world.run()
    assert nearest("29f4", [ID]) == f"did you mean {ID}?"
    assert "factd facts" in nearest("other", [ID])
    done = cli("status", ID[:-1] + "9")
    assert done.exit_code == 3
    assert f"did you mean {ID}?" in done.stderr
    assert "did you mean v000001?" in cli("rollback", "v00001").stderr


def test_a_bad_setting_is_bad_input_with_json_too(cli, monkeypatch):
    monkeypatch.setenv("FACTD_BATCH_SIZE", "0")
    done = cli("facts", "--json")
    assert done.exit_code == 2
    assert "FACTD_BATCH_SIZE" in json.loads(done.stdout)["error"]


def test_completion_is_offered(cli):
    assert "--install-completion" in cli("--help").stdout


# -- tail -------------------------------------------------------------------------------------------


def test_moments_are_spans_or_iso_times():
    assert moment("10m", 1000.0) == 400.0
    assert moment("0.5h", 3600.0) == 1800.0
    assert moment("1970-01-01T00:01:00+00:00", 100.0) == 60.0
    assert moment("-5m", 1000.0) == 700.0
    for text, what in {"yesterday": "no time", "nans": "no time", "2099-01-01": "in the future"}.items():
        with pytest.raises(CommandError, match=f"{text}.*{what}"):
            moment(text, 0.0)


def test_tail_follows_until_interrupted_and_ends_well(world):
    world.post("A", "fine", id="first")
    environment = os.environ | {"FACTD_STATE_DIR": str(world.root)}
    command = [sys.executable, "-m", "daemon", "tail", "--json"]
    options: dict = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "text": True}
    # A shell's background jobs, and so what they start, ignore it.
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, **options) as tail:
        lines = [json.loads(tail.stdout.readline()) for _ in range(2)]
        world.post("B", "good", id="second")
        lines += [json.loads(tail.stdout.readline()) for _ in range(2)]
        tail.send_signal(signal.SIGINT)
        rest, code = tail.stdout.read(), tail.wait(timeout=60)
    assert [(line["id"], line["new"]) for line in lines] == [
        ("first", "received"),
        ("first", "validated"),
        ("second", "received"),
        ("second", "validated"),
    ]
    assert (rest, code) == ("", 0)


def test_tail_begins_where_it_is_told(world, cli, monkeypatch):
    world.now = time.time() - 3600
    world.post("A", "fine", id="old")
    world.now = time.time()
    world.post("B", "good", id="new")

    def interrupted(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("daemon.cli.ask.tail.time.sleep", interrupted)
    assert "correction old" in cli("tail").stdout
    done = cli("tail", "--since", "10m")
    assert done.exit_code == 0
    assert "correction new  B → good  [received → validated]  (submit)" in done.stdout
    assert "correction old" not in done.stdout
    assert cli("tail", "--since", "soon").exit_code == 2


# -- plot -------------------------------------------------------------------------------------------


@pytest.fixture
def measured(make_world):
    """A world with real measurements, served: v1, v2, the base by a rollback, v1 again."""
    world = make_world()
    world.measure_really()
    for subject in ("A", "B"):
        world.post(subject, "fine")
        world.run()
    for version in ("v000000", "v000001"):
        world.ledger.intake.request("rollback", version, actor="operator:ann")
        world.run()
    return world


def test_history_is_what_was_served_with_who_rolled_back(measured):
    served = history(measured.ledger)
    assert [(one.row.id, one.rollback) for one in served] == [
        ("v000001", None),
        ("v000002", None),
        ("v000000", "operator:ann"),
        ("v000001", "operator:ann"),
    ]
    norm, similarity = (
        next(line for line in series(served) if line.measure.name == name)
        for name in ("weight_norm_ratio", "subspace_similarity")
    )
    assert norm.values[:2] == [1.1, 1.2]
    assert similarity.values[1] == 0.9  # of a measure that must stay high the worst is the lowest
    assert math.isnan(norm.values[2])
    assert norm.states[:2] == ["warn", "warn"]


def test_plot_writes_a_picture(measured, cli, tmp_path):
    out = tmp_path / "picture.png"
    done = cli("plot", "--out", str(out), "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["measures"] == ["weight_norm_ratio", "subspace_similarity"]
    assert out.read_bytes().startswith(b"\x89PNG")
    assert cli("plot", "--out", str(tmp_path / "no" / "folder.png")).exit_code == 2


def test_plot_without_measures_or_matplotlib_says_what_to_do(cli, world, monkeypatch):
    done = cli("plot")
    assert (done.exit_code, "post a correction" in done.stderr) == (3, True)
    monkeypatch.setattr("daemon.cli.lazy.find_spec", lambda _name: None)
    done = cli("plot")
    assert done.exit_code == 1
    assert "factd[bench]" in done.stderr
    done = cli("bench", "horizon", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"] == "matplotlib is not installed"


# -- doctor -----------------------------------------------------------------------------------------


def test_clocks_apart_are_found():
    assert check_clock("the broker", 1000.4, 1000.0).ok
    apart = check_clock("the broker", 1060.0, 1000.0)
    assert (apart.ok, apart.found) == (False, "+60.0 s from the broker")
    assert check_ledger_clock(-math.inf, 1000.0).ok
    assert not check_ledger_clock(2000.0, 1000.0).ok


def test_every_check_has_a_mend_or_cannot_fail(tmp_path):
    ledger = [check_ledger("here", "opens"), check_ledger_clock(-math.inf, 1000.0)]
    checks = list(examine("/nowhere", tmp_path, None, {}, ledger))
    names = {check.name for check in checks}
    assert names >= {"packages", "bench extra", "bfloat16", "model", "state directory", "tokens", "clock"}
    assert names >= {"ledger", "broker", "vLLM"}
    dtype = next(check.found for check in checks if check.name == "bfloat16")
    assert dtype.endswith(("FACTD_DTYPE=auto is float32 here", "FACTD_DTYPE=auto is bfloat16 here"))
    assert all(check.mend for check in checks if not check.ok)
    assert [check.name for check in checks if not check.needed] == ["bench extra"]
