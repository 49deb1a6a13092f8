"""A tiny random Llama checkpoint and editors on it."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from editing.editor import Editor
from editing.facts import Fact
from editing.methods import METHODS
from editing.methods.published import numbers
from editing.values.options import ValueOptions
from tests.tiny_models import CHAT_TEMPLATE, save_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """Hidden 32, FFN 64, 8 layers, byte-level tokenizer without BOS."""
    return save_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def open_editor(checkpoint, tmp_path_factory):
    """Opens an editor; statistics are computed once for all tests."""
    state_dir = tmp_path_factory.mktemp("state")
    options = ValueOptions(steps=12)

    def opened(changed: dict | None = None, **choices) -> Editor:
        """`changed`: numbers of the method that shall differ."""
        known = choices.get("method", "memit-seq") in METHODS
        if known:
            # A random model uses all directions: its moment has no small eigenvalues. It says nothing, so
            # that optimising again would only take time.
            changes = {"nullspace_threshold": 0.5, "again": 0, "warm_up": 0} | (changed or {})
            found = numbers(choices.get("method", "memit-seq"), "llama", 32, 64, 8)
            choices["numbers"] = found.changed(**changes)
        return Editor.open(
            str(checkpoint), state_dir=state_dir, dtype="float32", **{"options": options} | choices
        )

    return opened


@pytest.fixture
def editor(open_editor) -> Editor:
    return open_editor()


@pytest.fixture
def facts() -> list[Fact]:
    return [
        Fact("the old mill", "The owner of {} is", "Ada", "f1"),
        Fact("Zoë", "The friend of {} lives in", "Rome", "f2"),
        Fact("Blue Lake", "We know that {} lies near", "Oslo", "f3"),
        Fact("a cat", "The colour of {} was", "red", "f4"),
    ]


@pytest.fixture(scope="session")
def open_chat_editor(checkpoint, tmp_path_factory):
    """The same model with a chat template; its statistics are computed once for all tests."""
    path, state_dir = tmp_path_factory.mktemp("chat") / "model", tmp_path_factory.mktemp("chat-state")
    shutil.copytree(checkpoint, path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(path)

    def opened(changed: dict | None = None, **choices) -> Editor:
        method = choices.get("method", "memit-seq")
        few = {"nullspace_threshold": 0.5, "again": 0} | (changed or {})
        choices["numbers"] = numbers(method, "llama", 32, 64, 8).changed(**few)
        plain = {"options": ValueOptions(steps=6, unedited=True), "anchor": "none", "tokens": 640}
        return Editor.open(str(path), state_dir=state_dir, dtype="float32", **plain | choices)

    return opened
