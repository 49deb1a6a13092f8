"""The command line lists its commands without loading them, and says of each what the command itself says."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from daemon.cli.bench import group
from daemon.cli.lazy import Entry, group_of
from daemon.cli.main import COMMANDS, app

ROOT = Path(__file__).parents[3]
ENTRIES = COMMANDS | {f"bench {name}": entry for name, entry in group.COMMANDS.items()}


@pytest.mark.parametrize("name", ENTRIES)
def test_the_list_says_what_the_command_says_first(name):
    command = ENTRIES[name].load(name)
    first, dot, _ = " ".join((command.help or "").split()).partition(". ")
    assert ENTRIES[name].help == first + dot.strip()


def test_a_command_is_loaded_only_when_it_is_called():
    empty = group_of({"away": Entry("nowhere.at.all:away", "Is not there.")}, name="x", help="x")
    assert "Is not there." in CliRunner().invoke(empty, ["--help"]).stdout
    assert isinstance(CliRunner().invoke(empty, ["away"]).exception, ModuleNotFoundError)


def test_completion_lists_commands_and_the_options_of_one():
    root = typer.main.get_command(app)
    with root.make_context("factd", [], resilient_parsing=True) as context:
        found = [item.value for item in root.shell_complete(context, "ver")]
        _, command, _ = root.resolve_command(context, ["versions", "--js"])
    assert found == ["versions"]
    with command.make_context("versions", [], resilient_parsing=True) as context:
        assert [item.value for item in command.shell_complete(context, "--js")] == ["--json"]


@pytest.mark.parametrize("module", ["daemon", "daemon.cli"])
def test_both_modules_are_the_command_line(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert not done.stderr
