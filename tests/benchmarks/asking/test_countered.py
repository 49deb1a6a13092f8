"""A fact that is consolidated and retracted, on a tiny model under the shipped daemon."""

import itertools

from benchmarks.asking.countered import Asked, measured
from benchmarks.service.waiting import corrections
from benchmarks.shipped.applying import ShippedDaemon
from daemon.apply.building import build_monitoring
from editing.editor import Editor
from editing.memory.state import CONSOLIDATED, EditState
from tests.benchmarks.shipped.conftest import of_the_model

FEW = {"epochs": 1, "batch": 4, "text_rows": 1, "chat_rows": 0, "other_rows": 0}


def test_each_step_is_ruled_and_asked(model, state_dir, tmp_path, monkeypatch):
    # As if the unedited model said the first of them: a retraction of it would show nothing.
    monkeypatch.setattr(
        Asked, "said", lambda _self, step, ids: {"prompt": int(step == "unedited" and "w1" in ids), "chat": 0}
    )

    def monitoring(settings, editor):
        shipped = build_monitoring(settings, editor)
        return shipped._replace(judge=of_the_model(shipped.judge))

    editor = Editor(model.loaded, model.install, anchor="none", consolidation=FEW)
    daemon = ShippedDaemon(tmp_path, state_dir, editor, batch=3, guard=True, monitoring=monitoring)
    try:
        found = measured(daemon, dict(itertools.islice(corrections(), 3)))
        assert CONSOLIDATED in editor.state.columns
        assert set(editor.state.ids) == {"w1", "w3"}
    finally:
        daemon.close()
        editor.restore(EditState())
    assert (found["facts"], found["live"]) == (3, 3)
    assert [found[step]["state"] for step in ("consolidated", "retracted")] == ["done", "done"]
    assert [found[step]["outcome"] for step in ("consolidated", "retracted")] == ["accepted", "accepted"]
    assert [found[step]["version"] for step in ("consolidated", "retracted")] == ["v000002", "v000003"]
    assert found["retracted"]["id"] == "w2"
    steps = ["unedited", "live", "consolidated", "retracted"]
    assert all(list(told["prompt"]) == steps for told in found["answers"].values())
    assert list(found["said_others"]) == steps
    assert found["said_retracted"]["unedited"] == {"prompt": 0, "chat": 0}
