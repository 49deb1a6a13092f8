"""Facts and texts that the benchmarks read: CounterFact, zsRE and WikiFactDiff, and documents.

CounterFact is in ROME's schema (also the official `multi_counterfact.json`), zsRE in the schema of
`zsre_dev.jsonl` or the official `zsre_mend_eval.json`. WikiFactDiff has zsRE's fields, `old` instead of
`answers`, and an object for each language. They are told apart by their fields. Files are JSON lines or one
JSON list, either compressed with zstd.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import DataError
from editing.errors import FactError
from editing.facts import SLOT, Fact
from editing.model.tokens import Tokenizer, encode

#: Where data sets lie beside a checkout.
DEFAULT_FOLDER = Path("..") / "shared" / "data"
#: Names that may stand for a file of facts.
KNOWN = {
    "counterfact": "counterfact_dev.jsonl.zst",
    "zsre": "zsre_dev.jsonl.zst",
    "wikifactdiff": "wfd-train.json.zst",
}
TEXT = "general_text.jsonl.zst"

#: Documents at the end of the text that perplexity is measured on; second moments never see them.
HELD_OUT = 48


@dataclass(frozen=True)
class Neighbour:
    """A prompt that an edit must leave alone, and its answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Record:
    """A fact with what it is scored on.

    Attributes:
        fact: what is written.
        old: the answer that the target competes with; None where a data set has none (zsRE), and
            tokens are counted instead.
        paraphrases: other prompts that must lead to the target.
        neighbours: prompts that must keep their answer.
    """

    fact: Fact
    old: str | None
    paraphrases: tuple[str, ...]
    neighbours: tuple[Neighbour, ...]

    @property
    def slot(self) -> tuple[str, str]:
        """What is asked of whom: two records with the same slot contradict or repeat each other."""
        return self.fact.subject, self.fact.prompt


@dataclass(frozen=True)
class Records:
    """Records in the order they are streamed, and how many were left out, by reason."""

    records: tuple[Record, ...]
    skipped: Mapping[str, int]

    def __str__(self) -> str:
        told = [f"{count} {reason}" for reason, count in self.skipped.items() if count]
        return f"{len(self.records)} facts" + (f"; left out: {', '.join(told)}" if told else "")


def find(name: str, folder: Path | None, option: str) -> Path:
    """The file called `name`: a path, or a known name inside the data folder.

    Args:
        folder: of the data sets; `DEFAULT_FOLDER` when None.
        option: of the command line, named when there is no such file.

    Raises:
        DataError: there is none.
    """
    given = Path(name)
    if given.is_file():
        return given
    found = (folder or DEFAULT_FOLDER) / KNOWN.get(name, name)
    if not found.is_file():
        raise DataError(f"there is no file {given} nor {found}; give {option} FILE, or --data FOLDER")
    return found


def read_items(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON list or of JSON lines.

    Raises:
        DataError: the file cannot be read or holds something else.
    """
    text = _text(path)
    try:
        if text.lstrip().startswith("["):
            return json.loads(text)
        # Not splitlines(): that also breaks at U+2028, which is legal inside a JSON string.
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON at line {error.lineno}: {error.msg}") from error


def _text(path: Path) -> str:
    import zstandard

    try:
        if path.suffix != ".zst":
            return path.read_text(encoding="utf-8")
        with open(path, "rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            return io.TextIOWrapper(stream, encoding="utf-8").read()
    except (OSError, UnicodeDecodeError, zstandard.ZstdError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def load_records(path: Path) -> Records:
    """Records of a file in the order that streams take them.

    CounterFact: only one fact a (subject, relation) where the file says so, and records whose paraphrases
    are all original first. Of records with the same slot the first is kept.

    Raises:
        DataError: unknown schema.
    """
    skipped: Counter[str] = Counter()
    found: list[Record] = []
    for number, item in enumerate(_ordered(read_items(path)), 1):
        try:
            made = _record(item, skipped)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise DataError(
                f"{path}: record {number} has no field {error}: neither CounterFact, zsRE nor WikiFactDiff"
            ) from error
        except FactError as error:
            skipped[f"with a bad {error.field}"] += 1
            continue
        if made is not None:
            found.append(made)
    first = {record.slot: record for record in reversed(found)}
    kept = tuple(record for record in found if first[record.slot] is record)
    skipped["asked for twice"] = len(found) - len(kept)
    return Records(kept, dict(skipped))


def _ordered(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    def rebuilt(item: dict[str, Any]) -> bool:
        provenance = item.get("provenance") or {}
        return any(kind != "original" for kind in provenance.get("paraphrase", ()))

    return sorted(items, key=rebuilt)


def _record(item: dict[str, Any], skipped: Counter[str]) -> Record | None:
    if "requested_rewrite" in item:
        if not item.get("unique_subject_relation", True):
            skipped["with another fact of the same subject and relation"] += 1
            return None
        return _counterfact(item)
    item = item.get("en", item)
    subject, question = item["subject"], item["src"]
    if subject not in question:
        skipped["whose question does not name the subject"] += 1
        return None
    return _changed(item, subject, question) if "old" in item else _zsre(item, subject, question)


def _counterfact(item: dict[str, Any]) -> Record:
    asked = item["requested_rewrite"]
    new, old = asked["target_new"]["str"].strip(), asked["target_true"]["str"].strip()
    return Record(
        Fact(asked["subject"], asked["prompt"], new),
        old,
        tuple(item["paraphrase_prompts"]),
        tuple(Neighbour(prompt, old) for prompt in item["neighborhood_prompts"]),
    )


def _zsre(item: dict[str, Any], subject: str, question: str) -> Record:
    """The first mention of the subject is its slot; what is written is the first answer."""
    about = item["loc"] if item["loc"].endswith("?") else f"{item['loc']}?"
    return Record(
        Fact(subject, question.replace(subject, SLOT, 1), item["answers"][0].strip()),
        None,
        (item["rephrase"],),
        (Neighbour(about, item["loc_ans"].strip()),),
    )


def _changed(item: dict[str, Any], subject: str, question: str) -> Record:
    """A fact of WikiFactDiff: what it was competes with what it is now."""
    return Record(
        Fact(subject, question.replace(subject, SLOT, 1), item["alt"].strip()),
        item["old"].strip(),
        (item["rephrase"],),
        (Neighbour(item["loc"], item["loc_ans"].strip()),),
    )


def writable(
    records: Records, tokenizer: Tokenizer, contexts: Sequence[str], count: int | None = None
) -> Records:
    """The first `count` records that the editor takes: those it can tokenise after every context.

    Raises:
        DataError: there are fewer.
    """
    kept: list[Record] = []
    refused = 0
    for record in records.records:
        if len(kept) == count:
            break
        try:
            for context in contexts:
                encode(tokenizer, record.fact, context)
            kept.append(record)
        except FactError:
            refused += 1
    if count is not None and len(kept) < count:
        raise DataError(
            f"{count} facts were asked for, the file has {len(kept)} that can be written; ask for fewer"
        )
    return Records(tuple(kept), {**records.skipped, "refused by the editor": refused})


def load_texts(path: Path) -> list[str]:
    """The documents' texts in the order of the file."""
    try:
        return [item["text"] for item in read_items(path)]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: a document has no field 'text'") from error


def held_out(texts: Sequence[str]) -> list[str]:
    """The documents that perplexity is measured on: the last ones."""
    return list(texts[-HELD_OUT:])


def corpus_file(path: Path, folder: Path) -> Path:
    """A plain text file for second moments: `path` itself, or the documents in it but the held-out ones.

    Made from documents it lies in `folder` under a name that follows from its content.
    """
    if not {".json", ".jsonl"} & set(path.suffixes):
        return path
    text = "\n\n".join(load_texts(path)[:-HELD_OUT])
    made = folder / f"corpus-{hashlib.sha256(text.encode()).hexdigest()[:12]}.txt"
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = made.with_suffix(".unfinished")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.rename(made)
    return made
