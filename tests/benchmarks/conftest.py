"""A tiny checkpoint, facts and documents in files, and a model opened for benchmarks."""

import json
from pathlib import Path

import pytest

from benchmarks.configuration import Model
from benchmarks.data import load_records, writable
from tests.tiny_models import save_checkpoint

NAMES = ("the old mill", "Zoë", "Blue Lake", "a cat", "the tall ship", "Anna", "the red barn", "Mount Ada")


def counterfact(number: int, **changes) -> dict:
    """A record in ROME's schema."""
    name = NAMES[number % len(NAMES)]
    asked = {
        "prompt": "The owner of {} is",
        "subject": name,
        "target_new": {"str": f"Ada{number}"},
        "target_true": {"str": "Bob"},
        "relation_id": "P127",
    }
    record = {
        "case_id": number,
        "requested_rewrite": asked,
        "paraphrase_prompts": [f"We hear {name} belongs to", f"Rain. {name} is owned by"],
        "neighborhood_prompts": [f"The owner of shop {number} is", "The owner of the well is"],
    }
    return record | changes


def zsre(number: int, **changes) -> dict:
    """A record in the schema of zsre_dev."""
    name = NAMES[number % len(NAMES)]
    record = {
        "subject": name,
        "src": f"Who owns {name} now?",
        "rephrase": f"Whose is {name}?",
        "answers": ["Ada", "Eve"],
        "alt": "Tom",
        "loc": "nq question: who wrote it",
        "loc_ans": "Jane",
    }
    return record | changes


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def state_dir(tmp_path_factory) -> Path:
    """Statistics are computed once for all tests."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def model(checkpoint, state_dir) -> Model:
    return Model.open(str(checkpoint), state_dir, lambda _stage, _fraction: None, dtype="float32")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """Eight facts and fifty-two documents, named as the known data sets."""
    import zstandard

    folder = tmp_path_factory.mktemp("data")
    lines = "\n".join(json.dumps(counterfact(i)) for i in range(len(NAMES)))
    (folder / "counterfact_dev.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    documents = [{"text": f"Document {i} says that rivers carry sand to the sea."} for i in range(52)]
    (folder / "general_text.jsonl").write_text("\n".join(map(json.dumps, documents)))
    return folder


@pytest.fixture
def records(model, data_dir):
    found = load_records(data_dir / "counterfact_dev.jsonl.zst")
    return writable(found, model.loaded.tokenizer, model.install.contexts(), 6).records
