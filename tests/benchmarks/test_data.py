"""Loaders: both schemas, all file forms, the order of records, and what is left out."""

import json

import pytest
import zstandard

from benchmarks.data import (
    HELD_OUT,
    Neighbour,
    corpus_file,
    find,
    held_out,
    load_records,
    load_texts,
    writable,
)
from benchmarks.errors import DataError
from tests.benchmarks.conftest import counterfact, zsre
from tests.tiny_models import byte_tokenizer


@pytest.fixture
def save(tmp_path):
    """Writes records as the file name's ending says."""

    def saved(name, records):
        path = tmp_path / name
        lines = name.removesuffix(".zst").endswith(".jsonl")
        text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records)
        path.write_bytes(zstandard.compress(text.encode()) if name.endswith(".zst") else text.encode())
        return path

    return saved


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.zst", "a.jsonl.zst"])
def test_a_counterfact_record_is_read_from_every_form_of_file(save, name):
    (record,) = load_records(save(name, [counterfact(0)])).records
    assert record.fact.text == "The owner of the old mill is"
    assert (record.fact.target, record.old) == ("Ada0", "Bob")
    assert record.paraphrases == ("We hear the old mill belongs to", "Rain. the old mill is owned by")
    assert record.neighbours[1] == Neighbour("The owner of the well is", "Bob")


def test_the_official_counterfact_schema_has_fewer_fields(save):
    official = {
        "case_id": 0,
        "pararel_idx": 2796,
        "requested_rewrite": {
            "prompt": "The mother tongue of {} is",
            "relation_id": "P103",
            "target_new": {"str": "English", "id": "Q1860"},
            "target_true": {"str": "French", "id": "Q150"},
            "subject": "Danielle Darrieux",
        },
        "paraphrase_prompts": ["Danielle Darrieux, a native"],
        "neighborhood_prompts": ["Léon Blum is a native speaker of"],
        "attribute_prompts": [],
        "generation_prompts": [],
    }
    (record,) = load_records(save("multi_counterfact.json", [official])).records
    assert record.fact.text == "The mother tongue of Danielle Darrieux is"
    assert record.neighbours == (Neighbour("Léon Blum is a native speaker of", "French"),)


def test_a_wikifactdiff_record_competes_with_what_was_true_before(save):
    changed = zsre(0, alt=" Tom", old="Ada ")
    del changed["answers"]
    for item in (changed, {"en": changed}):
        (record,) = load_records(save("wfd.json", [item])).records
        assert (record.fact.prompt, record.fact.target, record.old) == ("Who owns {} now?", "Tom", "Ada")
        assert record.paraphrases == ("Whose is the old mill?",)
        assert record.neighbours == (Neighbour("nq question: who wrote it", "Jane"),)


def test_a_zsre_record_asks_for_the_first_answer(save):
    (record,) = load_records(save("zsre_mend_eval.json", [zsre(0)])).records
    assert record.fact.prompt == "Who owns {} now?"
    assert (record.fact.target, record.old) == ("Ada", None)
    assert record.paraphrases == ("Whose is the old mill?",)
    assert record.neighbours == (Neighbour("nq question: who wrote it?", "Jane"),)


def test_only_the_first_mention_of_a_zsre_subject_is_its_slot(save):
    (record,) = load_records(save("a.json", [zsre(3, src="Does a cat like a cat?")])).records
    assert record.fact.prompt == "Does {} like a cat?"
    assert record.fact.text == "Does a cat like a cat?"


def test_records_with_original_paraphrases_come_first_and_the_rest_keep_their_order(save):
    kinds = [["original", "rebuilt"], ["original", "original"], None, ["rebuilt", "rebuilt"]]
    records = [
        counterfact(i, provenance={"paraphrase": kind} if kind else {}) for i, kind in enumerate(kinds)
    ]
    found = load_records(save("a.jsonl", records)).records
    assert [record.fact.target for record in found] == ["Ada1", "Ada2", "Ada0", "Ada3"]


def test_what_is_left_out_is_counted_by_reason(save):
    records = [
        counterfact(0),
        counterfact(8),  # same subject and prompt as the first
        counterfact(1, unique_subject_relation=False),
        zsre(2, src="Who owns it?"),
        zsre(3, subject="Who", src="Who owns {}?"),
    ]
    found = load_records(save("a.jsonl", records))
    assert [record.fact.target for record in found.records] == ["Ada0"]
    assert found.skipped == {
        "asked for twice": 1,
        "with another fact of the same subject and relation": 1,
        "whose question does not name the subject": 1,
        "with a bad prompt": 1,
    }


def test_records_that_the_editor_refuses_are_replaced_by_the_next(save):
    first = counterfact(0)
    first["requested_rewrite"] |= {"prompt": "{} is owned by", "subject": "x"}  # one token, the first
    found = load_records(save("a.jsonl", [first, counterfact(1), counterfact(2)]))
    kept = writable(found, byte_tokenizer(), [""], 2)
    assert [record.fact.target for record in kept.records] == ["Ada1", "Ada2"]
    assert kept.skipped["refused by the editor"] == 1
    with pytest.raises(DataError, match="the file has 2"):
        writable(found, byte_tokenizer(), [""], 3)


def test_a_missing_file_names_the_option(tmp_path):
    with pytest.raises(DataError, match="--facts FILE"):
        find("counterfact", tmp_path, "--facts")


@pytest.mark.parametrize("content", ['{"a": 1}', '{"subject": "x", "src": "x?"}', "not json"])
def test_files_of_another_kind_are_refused(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=path.name):
        load_records(path)


def test_the_corpus_leaves_the_held_out_documents_out(data_dir, tmp_path):
    path = data_dir / "general_text.jsonl"
    texts = load_texts(path)
    made = corpus_file(path, tmp_path)
    assert held_out(texts) == texts[-HELD_OUT:]
    assert made.read_text() == "\n\n".join(texts[:4])
    assert corpus_file(path, tmp_path) == made
    assert corpus_file(made, tmp_path) == made


def test_a_line_separator_within_a_text_ends_no_record(tmp_path):
    path = tmp_path / "a.jsonl"
    texts = ["one\u2028two", "three\x85four"]
    path.write_text("\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts), "utf-8")
    assert load_texts(path) == texts
