"""`factd audit` and `factd dead` as a user calls them."""

import json

import pytest
from typer.testing import CliRunner

from daemon.cli.main import app
from daemon.ledger.audit import audit


@pytest.fixture
def factd(world, monkeypatch):
    monkeypatch.setenv("FACTD_STATE_DIR", str(world.root))
    monkeypatch.setenv("FACTD_REDIS_URL", "redis://127.0.0.1:1/0")  # nothing listens there

    def run(*arguments):
        done = CliRunner().invoke(app, arguments)
        return done.exit_code, done.stdout

    return run


@pytest.fixture
def dead(world):
    """Ids of two corrections that were given up, after a third that went live."""
    world.post("A", "fine")
    world.run()
    ids = [world.post(subject, "foggy") for subject in ("B", "C")]
    for _ in range(world.settings.max_attempts):
        world.run()
        world.now += 6
    return ids


def test_dead_corrections_are_listed_with_their_reasons(factd, dead):
    code, out = factd("dead", "list", "--json")
    assert code == 0
    assert [(row["id"], row["attempts"]) for row in json.loads(out)] == [(id, 3) for id in dead]
    assert "gave up after 3 attempts: inconclusive" in json.loads(out)[0]["reason"]
    assert "2 dead" in factd("dead", "list")[1]


def test_retry_is_an_operation_and_the_correction_is_tried_again(world, factd, dead):
    code, out = factd("dead", "retry", dead[0], "--why", "the probe was mended", "--json")
    [operation] = json.loads(out)
    assert (code, operation["kind"], operation["target"]) == (0, "retry", dead[0])
    assert operation["actor"].startswith("operator:")
    assert operation["why"] == "the probe was mended"
    assert operation["state"] == "done"
    assert world.states()[dead[0]] == "validated"
    told = world.ledger.questions.transitions(dead[0], kind="correction")[-1]
    assert told.actor == operation["actor"]
    assert "the probe was mended" in told.reason
    world.run()
    assert world.ledger.questions.get(dead[0]).attempts == 1
    assert audit(world.ledger.database.engine).valid


def test_drop_ends_all_that_are_dead_for_good(world, factd, dead):
    code, out = factd("dead", "drop", "--all", "--json")
    assert (code, len(json.loads(out))) == (0, 2)
    assert [world.states()[id] for id in dead] == ["rejected", "rejected"]
    assert "gave up after 3 attempts" in world.ledger.questions.get(dead[0]).reason
    assert json.loads(factd("dead", "drop", "--all", "--json")[1]) == []
    assert audit(world.ledger.database.engine).valid


@pytest.mark.parametrize(
    ("arguments", "code"), [(["id-B-foggy", "id-A-fine"], 2), (["id-B-foggy", "nobody"], 3), ([], 2)]
)
def test_one_that_is_not_dead_and_nothing_is_changed(world, factd, dead, arguments, code):
    before = world.states()
    assert factd("dead", "drop", *arguments)[0] == code
    assert world.states() == before
    assert world.ledger.questions.operations() == []


def test_the_audit_says_yes_or_names_the_row(world, factd, dead):
    code, out = factd("audit", "--json")
    found = json.loads(out)
    assert (code, found["valid"], found["broken"]) == (0, True, None)
    assert found["head"]["seq"] == found["rows"]
    assert factd("audit")[1].startswith(f"valid: {found['rows']} transitions")
    with world.ledger.database.engine.begin() as c:
        c.exec_driver_sql("DROP TRIGGER transitions_update")
        c.exec_driver_sql("UPDATE transitions SET actor = 'nobody' WHERE seq = 3")
        c.exec_driver_sql("UPDATE corrections SET state = 'live' WHERE id = 'id-B-foggy'")
    code, out = factd("audit", "--json")
    found = json.loads(out)
    assert (code, found["valid"], found["broken"]["seq"]) == (1, False, 3)
    assert "transition 3 (" in found["error"]


def test_attempts_measurements_and_publications_are_kept(world, dead):
    def rows(table, *columns):
        with world.ledger.database.engine.connect() as c:
            return c.exec_driver_sql(f"SELECT {', '.join(columns)} FROM {table} ORDER BY seq").fetchall()

    fine, foggy = '["id-A-fine"]', json.dumps(dead)
    attempts = rows("attempts", "version", "number", "corrections")
    assert attempts == [("v000001", 1, fine), *((f"v00000{n}", 1, foggy) for n in (2, 3, 4))]
    outcomes = [json.loads(row[0])["outcome"] for row in rows("measurements", "verdict")]
    assert outcomes == ["accepted"] + 3 * ["inconclusive"]
    replicas = json.dumps([world.replica.name])
    assert rows("publications", "version", "cause", "replicas", "fence") == [
        ("v000000", "reconcile", replicas, 1),  # a replica that nobody has looked after yet
        ("v000001", "update", replicas, 1),
    ]
