"""A tiny model under the shipped daemon, with a judge of the test's choice."""

from contextlib import ExitStack
from dataclasses import replace

import pytest

from benchmarks.configuration import Configuration
from benchmarks.data import load_texts
from benchmarks.shipped.faults import FaultyEditor
from benchmarks.shipped.trial import Plan, Trial
from daemon.apply.building import build_monitoring
from editing.memory.state import EditState

PLAIN = "memit:spread:none:none:steps=3"


@pytest.fixture
def plan(records, data_dir):
    texts = load_texts(data_dir / "general_text.jsonl")[:2]
    return Plan(records, texts, "counterfact", batch=6, score_every=100)


@pytest.fixture
def open_editor(model):
    """Editors of a configuration; the model is unedited afterwards."""
    opened = []

    def made(configuration=PLAIN):
        choices = Configuration.parse(configuration).choices(model.loaded)
        opened.append(FaultyEditor(model.loaded, model.install, **choices))
        return opened[-1]

    yield made
    for editor in opened:
        editor.restore(EditState())


@pytest.fixture
def open_trial(open_editor, plan, state_dir, tmp_path):
    """(judge, guard, configuration) → a trial and its editor; the measures are the shipped ones."""
    with ExitStack() as stack:

        def made(judge, guard=True, configuration=PLAIN):
            def monitoring(settings, editor):
                shipped = build_monitoring(settings, editor)
                return shipped._replace(judge=judge(shipped.judge))

            editor = open_editor(configuration)
            root = tmp_path / "state"
            root.mkdir()
            trial = Trial(editor, root, state_dir, plan, guard, lambda _text: None, monitoring)
            stack.callback(trial.close)
            return trial, editor

        yield made


#: What says nothing of a tiny model: it never answers with a correction, nor with anything that it knew.
ANSWERS = ("efficacy", "paraphrase", "neighbourhood", "retention", "retention_oldest")


def of_the_model(shipped):
    """The shipped judge, told nothing of answers: weights, perplexity and probes decide."""
    unknown = {f"{name}_ratio": None for name in ANSWERS}
    return lambda measured, previous: shipped(replace(measured, cases={}, **unknown), previous)
