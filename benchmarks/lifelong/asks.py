"""What is asked at a checkpoint beside the scores: free answers in each form, and unrelated ones in chat."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

from benchmarks.asking.asked import TOKENS, Asking, same
from benchmarks.asking.ways import Asked
from benchmarks.data import Record
from benchmarks.runs import Row, Stream
from benchmarks.scores import mean
from editing.editor import Editor
from editing.model.loaded import LoadedModel
from editing.said import holds, said

#: Name of a row's field → the way of asking that it tells of.
WAY_OF = {"said_prompt": "prompt", "said_paraphrase": "paraphrase", "said_chat": "chat_question"}
#: Chat is answered in sentences: so many tokens more than the longest target are generated there.
SENTENCE_TOKENS = 12
#: Tokens behind a target, to see that the word or number ends.
BEHIND_TOKENS = 3
#: Ways that not every record can be asked in.
_NEEDS: Mapping[str, Callable[[Record], bool]] = {
    "paraphrase": lambda record: bool(record.paraphrases),
    "old_in_context": lambda record: record.old is not None,
}


class FreeAnswers:
    """Asks for facts in three forms, and other subjects in chat, by free greedy generation.

    `said_prompt` and `said_paraphrase` count answers that are the target, and then end. `said_chat` counts
    those that hold it as words of their own. All are in percent; None where the model has no chat template,
    or a fact no paraphrase.

    Args:
        loaded: with its unedited weights. What it says of `others` now is what it is compared with.
        facts: all that may be asked.
        others: about subjects that are never written.
    """

    def __init__(self, loaded: LoadedModel, facts: Sequence[Asked], others: Sequence[Asked]) -> None:
        self._asking, self._others = Asking(loaded), others
        self._facts = {one.fact.id: one for one in facts}
        self._tokenizer = loaded.tokenizer
        self._before = self._chatted(others)
        questions = repr([one.question for one in others])
        self.key = f"free-{hashlib.sha256(questions.encode()).hexdigest()[:12]}"

    def row(self, stream: Stream, edits: int, editor: Editor | None) -> Row:
        del editor  # free answers need none
        scored = stream.scored(edits)
        row: Row = {name: self._share(way, scored) for name, way in WAY_OF.items()}
        kept = same(self._before, self._chatted(self._others))
        row["chat_neighbour_same"] = 100 * mean(kept) if kept else None
        row["others"] = len(kept)
        for name, part in stream.tenths(edits).items():
            row[f"said_{name}"] = self._share("prompt", part)
            row[f"asked_{name}"] = len(part)
        return row

    def of(self, record: Record) -> Asked:
        """The record with the question that only the benchmark asks."""
        return self._facts[record.fact.id]

    def hits(self, way: str, facts: Sequence[Asked]) -> list[bool | None]:
        """Of each fact whether its answer says the target, or in chat holds it.

        None where it cannot be asked so: it has no paraphrase, or no old answer, or the model no chat.
        """
        known = self._asking.ways.get(way)
        asked = [one for one in facts if _NEEDS.get(way, lambda _record: True)(one.record)]
        if known is None or not asked:
            return [None] * len(facts)
        tokens = self._longest(asked) + (SENTENCE_TOKENS if known.chat else BEHIND_TOKENS)
        told = self._asking.told(way, asked, tokens=max(TOKENS, tokens))
        found = holds if known.chat else said
        hit = {one.fact.id: found(answer, one.fact.target) for answer, one in zip(told, asked, strict=True)}
        return [hit.get(one.fact.id) for one in facts]

    def _share(self, way: str, records: Sequence[Record]) -> float | None:
        """Percent of the records that are said."""
        found = self.hits(way, [self.of(record) for record in records])
        counted = [hit for hit in found if hit is not None]
        return 100 * mean(counted) if counted else None

    def _longest(self, facts: Sequence[Asked]) -> int:
        """Tokens of the longest target."""
        told = self._tokenizer([one.fact.target for one in facts], add_special_tokens=False)["input_ids"]
        return max(map(len, told))

    def _chatted(self, facts: Sequence[Asked]) -> list[str]:
        return self._asking.told("chat_question", facts) if "chat_question" in self._asking.ways else []
