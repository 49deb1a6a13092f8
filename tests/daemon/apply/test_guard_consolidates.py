"""The guard that makes room by consolidating: when it asks, what it says, and what follows a refusal."""

import logging
from types import SimpleNamespace

import pytest

from daemon import app
from daemon.apply.ladder import EPOCH_SECONDS, WRITTEN_SECONDS
from daemon.core.ruling import guard_rewrites, why_compacts
from daemon.core.settings import Settings
from daemon.http.status_page import page_view, snapshot
from daemon.http.views import status_view
from daemon.supervise.doctor import check_guard
from monitoring.measurements import Measurements

#: Of each fact, by the estimate: seconds until the first consolidation was done.
ESTIMATED = WRITTEN_SECONDS + EPOCH_SECONDS * 2


@pytest.fixture
def consolidating(make_world):
    """A world whose guard consolidates, of two epochs."""

    def make(**settings):
        own = {"guard_rewrites": "consolidate", "consolidation_epochs": 2}
        return make_world(**(own | settings))

    return make


def bring(world, *targets, seconds=1.0):
    """Each live in a version of its own, so long after one another."""
    for target in targets:
        world.post(f"S{len(world.ledger.questions.corrections())}", target)
        world.now += seconds
        world.run()


def asked(world):
    return [(str(each.kind), each.actor, str(each.state)) for each in world.ledger.questions.operations()]


def room(world, edits):
    """Of each version the forecast says so many edits."""
    one = {"measure": "drift", "edits": float(edits)}
    told = {"known": True, "nearest": "drift", "forecasts": [one]}
    world.applier.monitoring = world.applier.monitoring._replace(foresee=lambda _history: told)


def test_little_room_is_answered_by_a_consolidation_that_every_place_names(consolidating, monkeypatch):
    world = consolidating()
    bring(world, "fine", "greedy")
    assert asked(world) == [("consolidate", "guard", "done")]
    assert world.steps() == [("consolidate", "v000002")]
    assert world.ledger.questions.live_version() == "v000003"
    # The fake editor's consolidation turns the order around, and its compaction does not.
    assert world.store.load_state("v000003").ids == ("id-S1-greedy", "id-S0-fine")
    status = world.ledger.questions.status()
    assert status_view(status)["last_step"]["step"] == "consolidate"
    assert "consolidate" in [step["step"] for step in page_view(world.ledger, [])["last_steps"]]
    monkeypatch.setattr(Measurements, "from_json", lambda _stored: Measurements())
    assert snapshot(world.ledger, []).steps == {"consolidate": 1}
    world.check_agreement()


def test_a_consolidation_counts_among_the_versions_between_two(consolidating):
    world = consolidating(guard_compact_versions=3)
    bring(world, "greedy", "greedy", "greedy")
    assert asked(world) == [("consolidate", "guard", "done")]
    bring(world, "greedy")
    assert len(asked(world)) == 2


def test_it_begins_so_early_that_what_comes_meanwhile_has_room(consolidating):
    world = consolidating(guard_compact_edits=5)
    room(world, 7)
    bring(world, "a", "b", seconds=60.0)
    # Two facts take seconds, and one edit came in as long a time: 7 are left, and 6 are wanted.
    assert world.ledger.questions.forecast()["meanwhile"] == {"seconds": 2 * ESTIMATED, "edits": 1}
    assert asked(world) == []
    bring(world, "c", "d", seconds=1.0)
    # Three facts take longer, and two more came in as long; of the fourth it was said too late.
    assert asked(world)[0] == ("consolidate", "guard", "done")
    assert world.ledger.questions.operations()[0].why == (
        "little room is left: drift is at its limit in 7 edits; a consolidation takes some 10 s, "
        "and 3 went live in as long"
    )


def test_the_seconds_of_the_last_one_take_the_place_of_the_estimate(consolidating):
    world = consolidating(guard_compact_edits=0)
    bring(world, "a", "b")
    world.ledger.intake.request("consolidate", actor="operator")
    world.now += 50
    world.run()
    bring(world, "c", seconds=10.0)
    # 25 seconds of each of two facts, so 75 of three; in as long a time all three went live.
    assert world.ledger.questions.forecast()["meanwhile"] == {"seconds": 75.0, "edits": 3}


def test_no_edits_for_a_reason_means_never_for_that_reason(consolidating):
    world = consolidating(guard_compact_edits=0)
    room(world, 0)
    bring(world, "a", "b")
    assert asked(world) == []


def test_a_guard_that_compacts_adds_nothing(make_world):
    world = make_world(guard_compact_edits=5)
    room(world, 6)
    bring(world, *"abcdefgh", seconds=0.1)
    assert "meanwhile" not in world.ledger.questions.forecast()
    assert asked(world) == []


def test_a_refused_consolidation_is_followed_by_a_compaction_and_that_by_the_pause(consolidating):
    world = consolidating()
    bring(world, "stiff", "greedy")
    assert [step for step, _ in world.steps()] == ["consolidate", "refuse", "compact", "refuse", "pause"]
    assert asked(world) == [("consolidate", "guard", "failed"), ("compact", "guard", "failed")]
    first, second = world.ledger.questions.operations()
    assert second.why == f"consolidate failed: {first.reason}" == "consolidate failed: compaction forgets"
    assert world.ledger.questions.paused()["why"] == "compact failed: compaction forgets"
    assert world.ledger.questions.live_version() == "v000002"
    world.check_agreement()


def test_a_consolidation_of_an_operator_that_is_refused_asks_for_nothing(consolidating):
    world = consolidating()
    bring(world, "stiff")
    world.ledger.intake.request("consolidate", actor="operator")
    world.run()
    assert asked(world) == [("consolidate", "operator", "failed")]
    assert world.ledger.questions.paused() is None


def test_a_compaction_after_a_consolidation_that_failed_is_enough(consolidating, monkeypatch):
    world = consolidating()
    fails = world.fakes.EditError("fact S0: cannot be written anew")

    def consolidate(*_args):
        raise fails

    monkeypatch.setattr(world.editor, "consolidate", consolidate)
    bring(world, "fine", "greedy")
    assert [step for step, _ in world.steps()] == ["consolidate", "compact"]
    assert [state for _, _, state in asked(world)] == ["failed", "done"]
    assert world.ledger.questions.paused() is None
    world.check_agreement()


def test_a_dry_run_says_which_it_would_have_asked_for(consolidating):
    world = consolidating(guard_dry_run=True)
    bring(world, "greedy")
    assert world.steps() == [("would_consolidate", "v000001")]
    assert asked(world) == []


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({}, None),
        ({"protect": "revive"}, None),
        ({"method": "memit"}, "FACTD_METHOD = 'memit'"),
        ({"protect": "revive-after"}, "FACTD_PROTECT = 'revive-after'"),
        ({"background": False}, "FACTD_BACKGROUND"),
    ],
)
def test_where_it_cannot_it_compacts_and_every_start_says_why(more, why, caplog, monkeypatch):
    settings = Settings(guard_rewrites="consolidate", **more)
    check = check_guard(settings)
    assert not check.needed
    if why is None:
        assert (why_compacts(settings), str(guard_rewrites(settings))) == (None, "consolidate")
        assert (check.ok, check.found) == (True, "where room is short it asks to consolidate")
        return
    assert why in why_compacts(settings)
    assert str(guard_rewrites(settings)) == "compact"
    assert not check.ok
    assert why in check.found
    monkeypatch.setattr(app, "_building", lambda: SimpleNamespace(build_applier=lambda *_: "made"))
    with caplog.at_level(logging.WARNING, logger="factd"):
        app.build_applier(settings, None)
    assert why in caplog.text


def test_who_asks_for_compactions_is_told_nothing(consolidating):
    settings = Settings(method="memit", background=False)
    assert (why_compacts(settings), str(guard_rewrites(settings))) == (None, "compact")
    assert check_guard(settings).ok
