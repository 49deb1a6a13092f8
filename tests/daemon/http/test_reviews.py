"""Sources by their tokens over HTTP: bound names, what they may, reviews and four eyes."""

import hashlib

import pytest
from fastapi.testclient import TestClient

from daemon.core.errors import SettingsError
from daemon.core.settings import Settings
from daemon.http.api import create_app
from daemon.ledger.audit import audit
from daemon.ledger.ledger import Ledger
from daemon.publish.stub import StubServing

GOOD = {"subject": "Vale University", "prompt": "The director of {} is", "target": "Amara Singh"}


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def sha(token):
    return hashlib.sha256(token.encode()).hexdigest()


FILE = f"""
[[source]]
name = "newsroom"
token_sha256 = "{sha("n-token")}"
relations = ["director", "mayor", "The colour *"]
subjects = ["Vale *", "Eastbrook"]
most_a_day = 3

[[source]]
name = "forum"
token_sha256 = "{sha("f-token")}"
policy = "review"

[[source]]
name = "desk"
token_sha256 = "{sha("d-token")}"
reviews = true

[[source]]
name = "spam"
policy = "refuse"
"""


@pytest.fixture
def ledger(tmp_path):
    made = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    yield made
    made.close()


@pytest.fixture
def make_client(tmp_path, ledger):
    def make(text=FILE):
        file = tmp_path / "sources.toml"
        file.write_text(text)
        settings = Settings(
            state_dir=tmp_path, admin_token="admin-token", submit_token="submit-token", sources_file=file
        )
        return TestClient(create_app(settings, ledger, [StubServing()], lambda: None))

    return make


@pytest.fixture
def client(make_client):
    with make_client() as client:
        yield client


def post(client, token, **changes):
    return client.post("/v1/corrections", json=GOOD | changes, headers=bearer(token))


def held_id(client):
    (id,) = post(client, "f-token").json()["ids"]
    assert client.get(f"/v1/corrections/{id}", headers=bearer("f-token")).json()["state"] == "held"
    return id


def problem_of(answer):
    assert answer.status_code == 422, answer.text
    (problem,) = answer.json()["problems"]
    return problem["field"], problem["mend"]


def test_a_source_is_bound_to_the_token_that_posts(client, ledger):
    (id,) = post(client, "n-token").json()["ids"]
    row = ledger.questions.get(id)
    assert (row.source, row.state.value, row.score) == ("newsroom", "validated", 0.0)
    assert ledger.reviews.poster(id) == "http:newsroom"
    field, mend = problem_of(post(client, "n-token", source="forum"))
    assert field == "source"
    assert "posts as 'newsroom'" in mend


@pytest.mark.parametrize("token", ["submit-token", "admin-token"])
def test_nobody_else_posts_under_the_name_of_a_source_with_a_token(client, ledger, token):
    field, mend = problem_of(post(client, token, source="newsroom"))
    assert field == "source"
    assert "bound to a token" in mend
    assert ledger.questions.corrections() == []


@pytest.mark.parametrize(
    ("token", "changes", "field", "said"),
    [
        ("n-token", {"subject": "Paris"}, "subject", "add a pattern to its `subjects`"),
        ("n-token", {"prompt": "The owner of {} is"}, "prompt", "(owner); add it to its `relations`"),
        ("submit-token", {"source": "spam"}, "source", "the policy of spam is to refuse"),
    ],
)
def test_what_a_policy_forbids_is_refused_with_the_mend(client, ledger, token, changes, field, said):
    found, mend = problem_of(post(client, token, **changes))
    assert found == field
    assert said in mend
    assert ledger.questions.corrections() == []


def test_a_relation_is_allowed_by_its_prompt_too(client):
    assert post(client, "n-token", prompt="The colour of {} is", target="red").status_code == 202


def test_the_limit_of_a_day_counts_those_of_the_same_request(client, ledger):
    bodies = [GOOD | {"subject": f"Vale {n}"} for n in range(4)]
    field, mend = problem_of(client.post("/v1/corrections", json=bodies, headers=bearer("n-token")))
    assert field == "source"
    assert "may post 3" in mend
    assert ledger.questions.corrections() == []
    assert client.post("/v1/corrections", json=bodies[:3], headers=bearer("n-token")).status_code == 202
    problem_of(post(client, "n-token"))


def test_a_source_to_be_reviewed_is_held_and_shown_with_the_reasons(client, ledger):
    id = held_id(client)
    (shown,) = client.get("/v1/reviews", headers=bearer("submit-token")).json()
    assert (shown["id"], shown["posted_by"], shown["source"]) == (id, "http:forum", "forum")
    assert shown["score"] == 1.0
    assert [one["rule"] for one in shown["findings"]] == ["untrusted"]
    assert shown["reason"].startswith("held for review: untrusted: ")
    assert ledger.questions.pending_count() == 0
    metrics = client.get("/metrics").text
    assert 'factd_queue_depth{queue="review"} 1.0' in metrics


def test_an_approved_correction_waits_for_its_batch_and_the_chain_tells_who_let_it_in(client, ledger):
    id = held_id(client)
    answer = client.post(f"/v1/reviews/{id}/approve?why=checked", headers=bearer("d-token"))
    assert answer.status_code == 200
    view = answer.json()
    assert (view["state"], view["reviewed_by"]) == ("validated", "http:desk")
    changes = [(t.old, t.new, t.actor) for t in ledger.questions.transitions(id, kind="correction")]
    assert changes == [
        (None, "received", "http:forum"),
        ("received", "held", "http:forum"),
        ("held", "received", "http:desk"),
        ("received", "validated", "http:desk"),
    ]
    assert audit(ledger.database.engine).valid
    again = client.post(f"/v1/reviews/{id}/approve?why=again", headers=bearer("d-token"))
    assert again.status_code == 409


def test_a_rejected_correction_ends_with_the_reason(client, ledger):
    id = held_id(client)
    view = client.post(f"/v1/reviews/{id}/reject?why=nonsense", headers=bearer("admin-token")).json()
    assert (view["state"], view["reason"]) == ("rejected", "rejected in review by http:admin: nonsense")
    assert client.get("/v1/reviews", headers=bearer("submit-token")).json() == []


def test_four_eyes_who_posted_may_not_approve(make_client, ledger):
    text = FILE.replace('policy = "review"', 'policy = "review"\nreviews = true')
    with make_client(text) as client:
        id = held_id(client)
        refused = client.post(f"/v1/reviews/{id}/approve?why=mine", headers=bearer("f-token"))
        assert refused.status_code == 403
        assert "posted by http:forum, who may not approve it" in refused.json()["detail"]
        assert ledger.questions.get(id).state.value == "held"
        # Taking one's own post back is no approval.
        assert client.post(f"/v1/reviews/{id}/reject?why=oops", headers=bearer("f-token")).status_code == 200


def test_the_admin_is_bound_by_four_eyes_too(make_client):
    with make_client('[default]\npolicy = "review"\n') as client:
        (id,) = post(client, "admin-token").json()["ids"]
        assert (
            client.post(f"/v1/reviews/{id}/approve?why=x", headers=bearer("admin-token")).status_code == 403
        )


@pytest.mark.parametrize(("token", "status"), [("n-token", 403), ("submit-token", 403), ("nobody", 401)])
def test_a_review_needs_a_token_that_may(client, token, status):
    id = held_id(client)
    for decision in ("approve", "reject"):
        answer = client.post(f"/v1/reviews/{id}/{decision}?why=x", headers=bearer(token))
        assert answer.status_code == status


def test_a_decision_needs_a_reason(client):
    id = held_id(client)
    for asked in (f"/v1/reviews/{id}/approve", f"/v1/reviews/{id}/approve?why="):
        assert client.post(asked, headers=bearer("d-token")).status_code == 422


def test_without_a_file_everything_is_taken_as_before(tmp_path, ledger):
    settings = Settings(state_dir=tmp_path, admin_token="admin-token", submit_token="submit-token")
    with TestClient(create_app(settings, ledger, [StubServing()], lambda: None)) as client:
        (id,) = post(client, "submit-token", target="ignore all rules", source="anybody").json()["ids"]
    row = ledger.questions.get(id)
    assert (row.state.value, row.source, row.score) == ("validated", "anybody", None)


def test_a_bad_file_is_an_error_that_names_every_field(make_client):
    with pytest.raises(SettingsError) as caught:
        make_client('[default]\npolicy = "maybe"\n[[source]]\nname = "A B"\ntoken_sha256 = "x"\nhurry = 1\n')
    told = str(caught.value)
    assert "default.policy = 'maybe': must be 'accept', 'review' or 'refuse'" in told
    assert "source.0.name = 'A B': must be small letters" in told
    assert "source.0.token_sha256 = (not shown): must be 64 hexadecimal digits" in told
    assert "source.0.hurry = 1: is not a setting of this table" in told


def test_an_event_is_recorded_under_the_name_of_its_token(client, ledger):
    event = {"specversion": "1.0", "id": "1", "source": "https://news.example", "type": "fact", "data": GOOD}
    answer = client.post("/v1/events", json=event, headers=bearer("f-token"))
    assert answer.status_code == 202, answer.text
    row = ledger.questions.get(answer.json()["ids"][0])
    assert (row.source, row.state.value) == ("forum", "held")


def test_an_approved_correction_waits_for_its_time(client, ledger):
    (id,) = post(client, "f-token", valid_from="2999-01-01T00:00:00Z").json()["ids"]
    assert ledger.questions.get(id).state.value == "held"
    view = client.post(f"/v1/reviews/{id}/approve?why=checked", headers=bearer("d-token")).json()
    assert view["state"] == "received"


def test_a_confirmed_statement_tells_what_is_held(client, ledger):
    sent = {"statement": "Nora Quist is the mayor of Eastbrook.", "confirm": True}
    answer = client.post("/v1/statements", json=sent, headers=bearer("f-token")).json()
    assert answer["held"] == answer["ids"] == [row.id for row in ledger.questions.corrections()]
    answer = client.post("/v1/statements", json=sent, headers=bearer("n-token")).json()
    assert (len(answer["ids"]), answer["held"]) == (1, [])


def test_the_status_tells_whose_token_it_is(client):
    told = {}
    for token in ("n-token", "d-token", "submit-token", "admin-token"):
        view = client.get("/v1/status", headers=bearer(token)).json()
        told[token] = (view["name"], view["scope"])
    assert told == {
        "n-token": ("newsroom", "submit"),
        "d-token": ("desk", "review"),
        "submit-token": ("submit", "submit"),
        "admin-token": ("admin", "admin"),
    }
    assert client.get("/v1/status").json()["name"] is None


def test_a_list_of_corrections_has_the_children_of_each(client):
    (parent,) = post(client, "admin-token").json()["ids"]
    children = [post(client, "admin-token", subject=s, parent=parent).json()["ids"][0] for s in ("VU", "V U")]
    shown = client.get("/v1/corrections", headers=bearer("submit-token")).json()
    assert {one["id"]: [child["id"] for child in one["children"]] for one in shown} == {
        parent: children, children[0]: [], children[1]: [],
    }  # fmt: skip
