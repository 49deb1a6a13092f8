"""What a question costs does not grow with the history; how long a few take is printed, never asserted."""

import time
from contextlib import contextmanager

import pytest
from sqlalchemy import event

from daemon.apply.applier import WINDOW
from daemon.apply.planning import plan_batch
from daemon.http.status_page import page_view, snapshot
from daemon.ledger.audit import audit
from daemon.ledger.ledger import Ledger
from tests.daemon.ledger.filling import LIVE, fill

#: how often each question is asked; the median is printed
TIMES = 11
#: of the run that is reported: corrections, versions
LARGE = (100_000, 10_000)


@contextmanager
def opened(url):
    ledger = Ledger.open(url, lambda: 1e6)
    yield ledger
    ledger.close()


def plan(ledger, window=WINDOW):
    pending, facts = ledger.questions.to_plan(window)
    return plan_batch(pending, facts, 16, 1e6)


QUESTIONS = {
    "/metrics": lambda ledger: snapshot(ledger, []),
    "/v1/status": lambda ledger: page_view(ledger, []),
    "plan a batch": plan,
    "plan a batch from 100": lambda ledger: plan(ledger, 100),
    "ancestry": lambda ledger: ledger.questions.ancestry(ledger.questions.live_version()),
    "fact_ids": lambda ledger: ledger.questions.fact_ids(ledger.questions.live_version()),
    "healthy_versions": lambda ledger: ledger.questions.healthy_versions(),
    "history": lambda ledger: ledger.questions.history(),
}


def statements(ledger, ask):
    seen = []

    def note(_connection, _cursor, statement, *_):
        seen.append(statement)

    engine = ledger.database.engine
    event.listen(engine, "before_cursor_execute", note)
    ask(ledger)
    event.remove(engine, "before_cursor_execute", note)
    return seen


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_takes_as_many_statements_after_a_long_history(tmp_path, question):
    asked = []
    for versions in (2, 60):
        url = f"sqlite:///{tmp_path / f'{versions}.sqlite3'}"
        fill(url, 20 * versions, versions)
        with opened(url) as ledger:
            asked.append(len(statements(ledger, QUESTIONS[question])))
    assert asked[0] == asked[1]


def test_a_filled_ledger_is_counted_as_its_rows_say(either_database):
    fill(either_database, 600, 30)
    with opened(either_database) as ledger:
        assert audit(ledger.database.engine).valid
        status = ledger.questions.status()
        rows = ledger.questions.corrections()
        for state, count in status.counts.items():
            assert count == sum(row.state == state for row in rows)
        assert (status.nas_skipped, status.ended["live"]) == (12, LIVE * 600)
        assert status.oldest_pending_seconds == 1e6 - min(
            r.received_at for r in rows if r.state == "validated"
        )
        assert {row.code for row in rows} == {None, "skipped_outlier"}
        told = [seconds for _, stage, seconds in ledger.questions.stage_seconds() if stage == "edit"]
        edit = ledger.questions.stage_durations()["edit"]
        assert edit.seconds == pytest.approx(sum(told))
        assert dict(edit.cumulative()) == {
            label: sum(seconds <= float(label) for seconds in told) for label, _ in edit.cumulative()
        }
        assert ledger.questions.fact_ids("v000030") == [f"id-{n}" for n in range(540)]
        assert [row.id for row in ledger.questions.ancestry("v000003")] == ["v000001", "v000002", "v000003"]


@pytest.mark.slow
def test_questions_to_a_large_ledger(either_database):
    """`pytest -m slow -rP tests/daemon/ledger/test_costs.py` prints the medians."""
    started = time.perf_counter()
    fill(either_database, *LARGE)
    print(f"filled in {time.perf_counter() - started:.1f} s")
    started = time.perf_counter()
    with opened(either_database) as ledger:
        print(f"migrated in {time.perf_counter() - started:.1f} s")
        for name, ask in QUESTIONS.items():
            took = []
            for _ in range(TIMES):
                started = time.perf_counter()
                ask(ledger)
                took.append(time.perf_counter() - started)
            least, median, most = (1000 * sorted(took)[place] for place in (0, TIMES // 2, -1))
            print(f"{name}: {median:.1f} ms ({least:.1f} to {most:.1f})")
        assert ledger.questions.status().counts["live"] == LIVE * LARGE[0]
