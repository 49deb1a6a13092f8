"""`factd say` and `factd relations`: what they show, ask, post and refuse."""

import json

import pytest
from typer.testing import CliRunner

from daemon.cli.act import say
from daemon.cli.exits import Exit
from daemon.cli.main import app
from tests.daemon.reading_server import FOUND, SHOE, server

SENTENCE = "Amara Singh has succeeded Victor Hale as director of Vale University."
READING = {
    "subject": "Vale University",
    "prompt": "The director of {} is",
    "target": "Amara Singh",
    "was": "Victor Hale",
    "questions": ["Who is the director of {}?"],
    "relation": "director",
}


@pytest.fixture
def posted(monkeypatch, tmp_path):
    """Corrections that would have gone to the queue."""
    monkeypatch.setenv("FACTD_STATE_DIR", str(tmp_path))
    found = []

    def send(_settings, corrections):
        found.extend(corrections)
        return [f"id-{i}" for i in range(len(corrections))]

    monkeypatch.setattr(say, "send", send)
    return found


def run(*arguments, **options):
    return CliRunner().invoke(app, list(arguments), **options)


def test_a_dry_run_has_the_documented_json_and_posts_nothing(posted, tmp_path):
    file = tmp_path / "statements.txt"
    file.write_text(f"{SENTENCE}\n\nWho is the director of Vale University?\n", "utf-8")
    done = run("say", "--file", str(file), "--dry-run", "--json")
    assert (done.exit_code, posted) == (0, [])
    first, second = json.loads(done.stdout)
    (reading,) = first["readings"]
    assert 0 < reading.pop("confidence") < 1
    assert first == {"statement": SENTENCE, "readings": [reading], "refused": None}
    assert reading == READING
    assert second["readings"] == []
    assert second["refused"].keys() == {"kind", "why"}
    assert second["refused"]["kind"] == "question"


def test_yes_posts_what_was_shown(posted):
    done = run("say", SENTENCE, "--yes")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == (
        "I understood: The director of *Vale University* is → *Amara Singh*; was *Victor Hale*; "
        "asked in chat as: Who is the director of Vale University?"
    )
    assert done.stdout.splitlines()[1] == "id-0"
    (correction,) = posted
    assert correction.model_dump(include=READING.keys() - {"relation"}) == {
        name: value for name, value in READING.items() if name != "relation"
    }


def test_two_facts_are_posted_together(posted):
    done = run("say", "The capital of Tarnia is Port Hadley; its currency is the lira.", "--yes", "--json")
    assert json.loads(done.stdout)["ids"] == ["id-0", "id-1"]
    assert [correction.target for correction in posted] == ["Port Hadley", "the lira"]


def test_nobody_is_asked_where_there_is_no_terminal(posted):
    done = run("say", SENTENCE)
    assert (done.exit_code, posted) == (Exit.BAD_INPUT, [])
    assert "--yes" in done.stderr


@pytest.mark.parametrize(("answer", "count"), [("y\n", 1), ("n\n", 0), ("\n", 0)])
def test_on_a_terminal_a_person_decides(posted, monkeypatch, answer, count):
    monkeypatch.setattr(say, "on_terminal", lambda: True)
    done = run("say", SENTENCE, input=answer)
    assert (done.exit_code, len(posted)) == (0, count)


def test_a_refusal_says_kind_and_next_step_and_ends_with_bad_input(posted):
    done = run("say", "Allegedly, Helix Group owns Solace Pharma.", "--yes")
    assert (done.exit_code, posted) == (Exit.BAD_INPUT, [])
    assert "not taken (rumour): It is a rumour" in done.stdout
    assert "say it again" in done.stderr


@pytest.mark.parametrize("arguments", [[], [SENTENCE, "--file", "x"], ["--file", "nowhere.txt"]])
def test_a_sentence_or_a_file_is_needed(posted, arguments):
    done = run("say", *arguments, "--yes")
    assert (done.exit_code, posted) == (Exit.BAD_INPUT, [])
    assert "next: " in done.stderr


@pytest.fixture
def model(monkeypatch):
    """A server that reads the shoe size; the reader is chosen by each test."""
    with server(FOUND) as (url, _):
        monkeypatch.setenv("FACTD_REPLICAS", url)
        yield url


def test_the_served_model_reads_nothing_unless_it_is_asked_for(posted, model):
    done = run("say", SHOE, "--dry-run", "--json")
    (one,) = json.loads(done.stdout)
    assert one["refused"]["kind"] == "unknown_relation"
    assert "reader" not in one


def test_yes_alone_posts_nothing_that_the_served_model_has_read(posted, model, monkeypatch):
    monkeypatch.setenv("FACTD_READER", "served")
    for options in (["--yes"], ["--yes", "--json"], ["--json"]):
        done = run("say", SHOE, *options)
        assert (done.exit_code, posted) == (Exit.BAD_INPUT, [])
        assert "unconfirmed" in done.stdout
        assert "--reader served" in done.stdout


def test_yes_with_the_reader_named_posts_it(posted, model):
    done = run("say", SHOE, "--yes", "--reader", "served")
    assert done.exit_code == 0, done.output
    assert "The served model understood: The shoe size of *Victor Hale* is → *44*" in done.stdout
    (correction,) = posted
    assert (correction.subject, correction.target) == ("Victor Hale", "44")


@pytest.mark.parametrize(("answer", "count"), [("y\n", 1), ("n\n", 0)])
def test_a_person_decides_on_what_the_served_model_has_read(posted, model, monkeypatch, answer, count):
    monkeypatch.setenv("FACTD_READER", "served")
    monkeypatch.setattr(say, "on_terminal", lambda: True)
    done = run("say", SHOE, input=answer)
    assert (done.exit_code, len(posted)) == (0, count)


def test_relations_are_listed(posted):
    done = run("relations", "list", "head coach", "--json")
    (first, *_) = json.loads(done.stdout)
    assert first["name"] == "head_coach"
    assert first["questions"] == ["Who is the head coach of {}?"]
    assert "head_coach" in run("relations", "list", "coach").stdout


def test_a_file_of_relations_is_checked(posted, tmp_path, monkeypatch):
    file = tmp_path / "own.toml"
    good = (
        '[[relation]]\nname = "keeper"\nnouns = ["light keeper"]\nprompts = ["The light keeper of {} is"]\n'
    )
    good += 'questions = ["Who keeps {}?"]\nsubject = "place"\nobject = "person"\n'
    file.write_text(good, "utf-8")
    assert run("relations", "check", str(file)).stdout == "1 relations, nothing wrong\n"
    file.write_text(good.replace("Who keeps {}?", "Who keeps it?"), "utf-8")
    done = run("relations", "check", str(file), "--json")
    assert done.exit_code == Exit.BAD_INPUT
    (problem,) = json.loads(done.stdout)["problems"]
    assert (problem["field"], problem["value"]) == ("keeper.questions", "'Who keeps it?'")
    monkeypatch.setenv("FACTD_RELATIONS", str(file))
    refused = run("say", SENTENCE, "--yes")
    assert refused.exit_code == Exit.BAD_INPUT
    assert "keeper.questions" in refused.stderr
