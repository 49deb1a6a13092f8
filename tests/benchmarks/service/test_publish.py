"""`factd bench publish` without a server: what counts as failed, and what a pause is."""

import json

import httpx
import pytest

from benchmarks.service.flips import Flip, felt_pauses, growth, longest_wait, percentile
from benchmarks.service.publish import Plan, details, publications, summary
from benchmarks.service.streaming import Answer, Clients
from benchmarks.service.updates import Updates
from daemon.publish.stub import StubServing
from daemon.versions.store import Store
from editing.model.loaded import outlined_model
from tests.tiny_models import save_checkpoint
from tests.waiting import until

FIELDS = {
    "publications", "requests", "failed_requests", "pause_p50_seconds", "pause_p99_seconds",
    "accepted_to_served_p50_seconds", "bytes_per_edit", "rss_growth_bytes",
}  # fmt: skip


def events(*chunks: dict) -> bytes:
    return b"".join(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks) + b"data: [DONE]\n\n"


def token(finish: str | None = None) -> dict:
    return {"choices": [{"index": 0, "text": "x", "finish_reason": finish}]}


def usage(tokens: int) -> dict:
    return {"choices": [], "usage": {"completion_tokens": tokens}}


ANSWERS = {
    "whole": (200, events(token(), token("length"), usage(2)), None),
    "early end": (200, events(token(), token("stop"), usage(2)), "'stop'"),
    "aborted": (200, events(token("abort"), usage(1)), "'abort' after 1 of 2"),
    "cut off": (200, events(token()), "None after 0 of 2"),
    "error": (200, events(token(), {"error": {"message": "engine is dead"}}), "engine is dead"),
    "refused": (503, b"overloaded", "status 503: overloaded"),
    "not JSON": (200, b"data: {\n\n", "after 0 chunks"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_only_a_whole_answer_is_no_failure(kind):
    status, content, failure = ANSWERS[kind]
    asked = []

    def handler(request):
        asked.append(json.loads(request.content))
        clients._over.set()
        return httpx.Response(status, content=content)

    clients = Clients("http://server", "tiny", 1, tokens=2, transport=httpx.MockTransport(handler))
    clients.start()
    until(lambda: asked)
    answers = clients.stop()
    assert len(answers) == len(asked) == 1
    assert (asked[0]["stream"], asked[0]["max_tokens"], asked[0]["ignore_eos"]) == (True, 2, True)
    if failure is None:
        assert answers[0].failure is None
        assert (len(answers[0].times), answers[0].tokens) == (2, 2)
    else:
        assert failure in answers[0].failure


def flip(staged: float, flipped: float, **changes) -> Flip:
    told = {"version": "v000001", "accepted": staged - 0.5, "staged": staged, "flipped": flipped}
    told |= {"confirmed": flipped + 0.1, "pause_seconds": 0.01, "bytes": 320, "rss_bytes": 100}
    return Flip(**(told | changes))


def test_the_pause_is_the_longest_wait_around_the_flip_of_each_client_that_is_answered():
    answers = [
        Answer(0, (0.0, 9.9, 10.05, 10.4, 10.5, 19.0), 6),  # 9.9 → 10.05 and 10.05 → 10.4 overlap
        Answer(1, (9.0, 9.5, 9.99), 3),  # ended before
        Answer(2, (10.3, 10.4), 2),  # began after
        Answer(3, (9.5, 12.5), 2),
        Answer(3, (12.6, 12.7), 2),
    ]
    assert sorted(felt_pauses([flip(10.0, 10.2)], answers)) == pytest.approx([0.35, 3.0])


def test_the_longest_wait_is_also_that_of_a_request_which_waits_for_its_first_token():
    answers = [
        Answer(0, (9.9, 10.4), 2, asked=9.8),
        Answer(1, (14.0, 14.1), 2, asked=10.1),  # came while answers were let end
        Answer(2, (25.0, 26.0), 2, asked=15.0),  # nothing was flipped then
    ]
    assert longest_wait([flip(10.0, 13.0)], answers) == pytest.approx(3.9)
    assert longest_wait([flip(100.0, 101.0)], answers) is None


def test_the_summary_has_the_fields_of_the_contract_and_counts_failures():
    answers = [Answer(0, (9.0, 11.0), 2), Answer(1, (9.5, 10.5), 1, "ended with 'abort' after 1 of 2 tokens")]
    plan = Plan(edits=16)
    found = summary([flip(10.0, 10.2)], answers, plan)
    assert set(found) == FIELDS
    assert (found["publications"], found["requests"], found["failed_requests"]) == (1, 2, 1)
    assert (found["pause_p50_seconds"], found["pause_p99_seconds"]) == (1.0, 2.0)
    assert found["accepted_to_served_p50_seconds"] == pytest.approx(0.7)
    assert found["bytes_per_edit"] == 20
    more = details([flip(10.0, 10.2)], answers, plan, "tiny")
    assert more["accepted_to_confirmed_p50_seconds"] == pytest.approx(0.8)
    assert more["scheduler_pause_p50_seconds"] == 0.01
    assert more["failures"] == ["ended with 'abort' after 1 of 2 tokens"]
    assert more["ordinary_wait_p50_seconds"] is None
    json.dumps([found, more])


def test_percentiles_and_growth():
    assert percentile([], 0.5) is None
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(list(range(1, 101)), 0.99) == 99
    assert growth([100]) == 0
    assert growth([10, 100, 100, 100, 100, 100, 100, 100, 130, 130]) == 30  # the warm-up does not count


def test_publications_take_the_products_path_with_two_versions_in_turn(tmp_path):
    model, store = (
        outlined_model(str(save_checkpoint(tmp_path / "model")), tmp_path),
        Store(tmp_path / "store"),
    )
    replica = StubServing(hashes=store.weight_sha256)
    plan = Plan(every=0.01, publications=3, edits=2)
    flips = publications(replica, store, Updates(model, 2, seed=0), plan, lambda: 7, lambda text: None)
    assert replica.staged == replica.published == ["v000001", "v000002", "v000003"]
    assert store.ids() == ["v000002", "v000003"]
    one, two = (store.weight_sha256(version) for version in store.ids())
    assert set(one) == set(two)
    assert not set(one.values()) & set(two.values())
    assert [f.rss_bytes for f in flips] == [7, 7, 7]
    assert all(f.accepted <= f.staged <= f.flipped <= f.confirmed and f.bytes > 0 for f in flips)
    again = Updates(model, 2, seed=0).entries
    assert again == Updates(model, 2, seed=0).entries != Updates(model, 2, seed=1).entries
