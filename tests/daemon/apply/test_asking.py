"""Forms in the daemon: what is written, asked and judged of a correction, and what the ledger keeps."""

from types import SimpleNamespace

import pytest

from daemon.apply.asking import Asking
from daemon.core.asks import Ask
from daemon.core.errors import SettingsError
from daemon.core.lifecycle import State
from daemon.core.settings import load_settings
from daemon.http.views import correction_view, standing
from daemon.ledger.rows import CorrectionRow
from monitoring.measurements import CaseForm

KINDS = ("prompt", "chat", "questions")
ROW = CorrectionRow(
    "c1",
    1,
    "the mill",
    "The owner of {} is",
    "Ada",
    State.LIVE,
    questions=("Who owns {}?",),
    paraphrases=("{} is owned by", "The mill belongs to"),
)
MILL, QUESTION = "The owner of the mill is", "Who owns the mill?"


def test_a_correction_is_written_for_its_kinds_and_asked_in_chat():
    asking = Asking(KINDS, ("prompt", "chat"), chats=True)
    assert asking.fact(ROW).questions == ROW.questions
    assert asking.fact(ROW).paraphrases == ()
    assert asking.asks([ROW]) == [
        Ask("c1", "prompt", MILL, False),
        Ask("c1", "chat", MILL, True),
        Ask("c1", "question 1", QUESTION, True),
    ]
    assert asking.case(ROW).forms == (
        CaseForm("prompt", MILL),
        CaseForm("chat", MILL, chat=True),
        CaseForm("question 1", QUESTION, chat=True, required=False),
    )
    # A paraphrase without a slot is checked, and no form.
    assert Asking((*KINDS, "paraphrases"), KINDS, True).fact(ROW).paraphrases == ("{} is owned by",)


def test_without_a_chat_template_nothing_is_asked_in_chat():
    asking = Asking(KINDS, ("prompt", "chat"), chats=False)
    assert asking.asks([ROW]) == [Ask("c1", "prompt", MILL, False)]
    assert [form.name for form in asking.case(ROW).forms] == ["prompt", "question 1 as text"]


def test_a_live_fact_is_asked_again_where_it_was_said():
    asking = Asking(KINDS, ("prompt", "chat"), chats=True)
    assert [form.name for form in asking.earlier(ROW).asked] == ["prompt"]
    assert asking.earlier(ROW).subject == asking.case(ROW).subject == ROW.subject != ""
    said = CorrectionRow(**vars(ROW) | {"answers": {"chat": {"asked": MILL, "after": "Ada."}}})
    assert [form.name for form in asking.earlier(said).asked] == ["prompt", "chat"]
    missed = CorrectionRow(**vars(ROW) | {"answers": {"chat": {"asked": MILL, "after": "Adam"}}})
    assert [form.name for form in asking.earlier(missed).asked] == ["prompt"]


def test_what_was_asked_before_is_not_asked_again():
    asking = Asking(KINDS, ("prompt",), chats=True)
    assert [ask.form for ask in asking.unasked([ROW])] == ["prompt", "chat", "question 1"]
    known = {"before": "Bo", "answers": {"chat": {"asked": MILL, "before": "Bo"}}}
    row = CorrectionRow(**vars(ROW) | known)
    assert [ask.form for ask in asking.unasked([row])] == ["question 1"]


def test_settings_of_forms():
    assert load_settings(forms="prompt, chat").forms == ("prompt", "chat")
    for wrong in ("chat", "prompt,chats"):
        with pytest.raises(SettingsError, match="FACTD_FORMS"):
            load_settings(forms=wrong)


@pytest.fixture
def chatting(world):
    """A world whose model has a chat template, and whose replica answers chat messages."""
    world.editor.forms, world.editor.chats = KINDS, True
    world.replica.chat = lambda messages, max_tokens=12: [
        f"{text}: {world.replica.served().version}" for text in messages
    ]
    return world


def test_the_ledger_keeps_what_is_answered_in_chat_before_and_after(chatting):
    id = chatting.post("X", "t", questions=["What is {}?"])
    chatting.run()
    row = chatting.ledger.questions.get(id)
    assert (row.before, row.after) == ("unknown", "t")
    asked = "The capital of X is"
    assert row.answers == {
        "chat": {"asked": asked, "before": f"{asked}: v000000", "after": f"{asked}: v000001"},
        "question 1": {
            "asked": "What is X?",
            "before": "What is X?: v000000",
            "after": "What is X?: v000001",
        },
    }
    view = correction_view(row)
    assert view["lost"] == {"chat": f"{asked}: v000001"}
    assert view["questions"] == ["What is {}?"]
    assert view["answers"]["chat"]["said"] is False
    assert chatting.editor.state.facts[0].questions == ("What is {}?",)


def test_a_fact_is_shown_as_lost_while_the_replica_does_not_say_it(chatting):
    heard, fake = "t", chatting.applier.monitoring
    chatting.replica.chat = lambda messages, max_tokens=12: [heard for _ in messages]
    id = chatting.post("X", "t")
    chatting.run()
    again: dict[str, dict[str, str]] = {}

    def measure(batch, earlier, ratio):
        found = {**fake.measure(batch, earlier, ratio).to_json(), "again": again}
        return SimpleNamespace(to_json=lambda: found, targets=found["targets"], earlier=0, live=())

    def lost():
        return correction_view(chatting.ledger.questions.get(id))["lost"]

    assert lost() == {}
    chatting.applier.monitoring = fake._replace(measure=measure)
    # (the model in memory, the replica, what is shown)
    for number, (memory, replica, shown) in enumerate(
        (
            ({id: {"chat": "u"}}, "v", {"chat": "v"}),
            ({id: {}}, "v", {"chat": "v"}),
            ({id: {}}, "t", {}),
            ({id: {"chat": "u"}}, "t", {}),
        )
    ):
        again, heard = memory, replica
        chatting.post(f"Y{number}", "t")
        chatting.run()
        assert lost() == shown, number
    again, heard = {}, "v"
    other = chatting.post("Z", "t")
    chatting.run()
    assert standing(correction_view(chatting.ledger.questions.get(other))) == "live, lost"
    assert lost() == {}


def test_a_rollback_asks_the_replica_whether_what_was_lost_is_back(chatting):
    heard = {"v000001": "t", "v000002": "v"}
    chatting.replica.chat = lambda messages, max_tokens=12: [
        heard[chatting.replica.served().version] for _ in messages
    ]
    heard["v000000"] = "u"
    id = chatting.post("X", "t")
    chatting.run()
    fake = chatting.applier.monitoring

    def measure(batch, earlier, ratio):
        found = {**fake.measure(batch, earlier, ratio).to_json(), "again": {id: {"chat": "v"}}}
        return SimpleNamespace(to_json=lambda: found, targets=found["targets"], earlier=0, live=())

    chatting.applier.monitoring = fake._replace(measure=measure)
    chatting.post("Y", "t")
    chatting.run()
    assert chatting.ledger.questions.get(id).lost == {"chat": "v"}
    chatting.ledger.intake.request("rollback", "v000001", actor="operator")
    chatting.run()
    assert chatting.ledger.questions.status().live == "v000001"
    assert chatting.ledger.questions.get(id).lost == {}


def test_a_look_at_the_live_version_finds_what_is_lost_and_takes_nothing_back(chatting):
    chatting.replica.chat = lambda messages, max_tokens=12: ["v" for _ in messages]
    id = chatting.post("X", "t")
    chatting.run()
    fake, told = chatting.applier.monitoring, {}

    def measure(batch, earlier, ratio):
        found = {**fake.measure(batch, earlier, ratio).to_json(), "again": told}
        return SimpleNamespace(to_json=lambda: found, targets=found["targets"], earlier=0, live=())

    chatting.applier.monitoring = fake._replace(measure=measure)
    # (the model in memory, what is shown): it says what the replica does not, then it does not either.
    for memory, shown in (({id: {}}, {"chat": "v"}), ({id: {"prompt": "w"}}, {"prompt": "w"})):
        told = memory
        chatting.now += 601.0
        chatting.run()
        assert chatting.ledger.questions.status().watched_at == chatting.now
        assert chatting.ledger.questions.get(id).lost == shown
