"""What the command line and the API show of facts with a beginning and an end."""

import json
import os

import pytest
from typer.testing import CliRunner

from daemon.cli.act.post import wait_for
from daemon.cli.main import app
from daemon.core.times import shown
from daemon.http.status_page import numbers_only, page_view

START, END = 1_900_000_000.0, 1_900_003_600.0


@pytest.fixture
def cli(world, monkeypatch):
    for name in [name for name in os.environ if name.startswith("FACTD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FACTD_STATE_DIR", str(world.root))
    monkeypatch.setenv("FACTD_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_status_lists_what_is_coming_for_people_and_programs(world, cli):
    world.post("France", "Lyon", valid_from=shown(START), valid_until=shown(END))
    view = json.loads(cli("status", "--json").stdout)
    assert (view["pending"], view["scheduled"]) == (0, 1)
    assert view["coming"] == [
        {"id": "id-France-Lyon", "subject": "France", "target": "Lyon", "change": "live", "at": shown(START)}
    ]
    text = cli("status").stdout
    assert "The next 1 changes by the clock" in text
    assert "France" in text
    one = json.loads(cli("status", "id-France-Lyon", "--json").stdout)
    assert (one["valid_from"], one["valid_until"]) == (shown(START), shown(END))
    assert one["reason"] == f"waits until {shown(START)}"


def test_without_a_token_the_page_tells_times_and_no_names(world):
    world.post("France", "Lyon", valid_from=shown(START))
    view = page_view(world.ledger, [])
    assert view["coming"][0]["subject"] == "France"
    assert numbers_only(view)["coming"] == [{"change": "live", "at": shown(START)}]


def test_nobody_waits_for_what_waits_for_its_time(world):
    world.post("France", "Lyon", valid_from=shown(START))
    assert [row["state"] for row in wait_for(world.ledger, ["id-France-Lyon"], 60.0)] == ["received"]


def test_a_time_without_a_zone_is_refused_with_its_field(cli):
    fields = ("--subject", "France", "--prompt", "The capital of {} is", "--target", "Lyon")
    done = cli("post", *fields, "--valid-until", "2030-01-01", "--json")
    assert done.exit_code == 2
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem["field"] == "valid_until"
    assert "no zone" in problem["mend"]
