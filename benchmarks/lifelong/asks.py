"""What is asked at a checkpoint beside the scores: free answers in each form, and unrelated ones in chat."""

import hashlib
from collections.abc import Mapping, Sequence

from benchmarks.asking.asked import TOKENS, Asking, same
from benchmarks.asking.ways import Asked
from benchmarks.data import Record
from benchmarks.runs import Row
from benchmarks.scores import mean
from editing.model.loaded import LoadedModel
from editing.said import holds, said

#: Name of a row's field → the way of asking that it tells of.
WAY_OF = {"said_prompt": "prompt", "said_paraphrase": "paraphrase", "said_chat": "chat_question"}
#: Chat is answered in sentences: so many tokens more than the longest target are generated there.
SENTENCE_TOKENS = 12
#: Tokens behind a target, to see that the word or number ends.
BEHIND_TOKENS = 3


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

    def row(self, scored: Sequence[Record], tenths: Mapping[str, Sequence[Record]]) -> Row:
        row: Row = {name: self._share(way, scored) for name, way in WAY_OF.items()}
        kept = same(self._before, self._chatted(self._others))
        row["chat_neighbour_same"] = 100 * mean(kept) if kept else None
        row["others"] = len(kept)
        for name, part in tenths.items():
            row[f"said_{name}"] = self._share("prompt", part)
            row[f"asked_{name}"] = len(part)
        return row

    def _share(self, way: str, records: Sequence[Record]) -> float | None:
        """Percent of the records whose answer says the target, or in chat holds it."""
        if way not in self._asking.ways:
            return None
        facts = [self._facts[one.fact.id] for one in records if way != "paraphrase" or one.paraphrases]
        if not facts:
            return None
        chat = self._asking.ways[way].chat
        tokens = self._longest(facts) + (SENTENCE_TOKENS if chat else BEHIND_TOKENS)
        told = self._asking.told(way, facts, tokens=max(TOKENS, tokens))
        found = holds if chat else said
        return 100 * mean(found(answer, one.fact.target) for answer, one in zip(told, facts, strict=True))

    def _longest(self, facts: Sequence[Asked]) -> int:
        """Tokens of the longest target."""
        told = self._tokenizer([one.fact.target for one in facts], add_special_tokens=False)["input_ids"]
        return max(map(len, told))

    def _chatted(self, facts: Sequence[Asked]) -> list[str]:
        return self._asking.told("chat_question", facts) if "chat_question" in self._asking.ways else []
