"""Second moments of one unedited model, estimated once and kept in files.

What follows a chat template has keys of its own, which running text does not show. Without them a solve would
take the directions of all chats for free ones. So a model whose facts are asked in chat is protected on both:
C = (1 − s) · C of text + s · C of chats. These chats begin as questions do, since an edit must leave alone
what is worded like it and asks about other subjects.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from editing.model.chat import MESSAGE
from editing.model.loaded import LoadedModel
from editing.solve.crisp import output_moments
from editing.solve.second_moment import (
    CHAT_TOKENS,
    DOCUMENT_TOKENS,
    Progress,
    Sums,
    block_rows,
    corpus_text,
    sample_text,
    second_moments,
    separator,
)
from editing.solve.shipped import shipped
from editing.typed import entries, load_tensors, save_tensors

SEED = 0
#: Seconds of work on moments that an interruption may cost.
SAVE_SECONDS = 30.0
#: What moments are estimated on, and the names of their files and of their samples.
Source = Literal["text", "chat"]
FILES: dict[Source, tuple[str, str]] = {
    "text": ("second-moment", "sampled-text"),
    "chat": ("question-moment", "sampled-questions"),
}
#: s, the chats' share of C; measured in docs/log/asked.md.
CHAT_SHARE = 5 / 6
#: What the messages of sampled chats begin with; the model writes the rest, and an answer.
BEGINNINGS = (
    *("What is the", "Who is the", "Where is", "Which", "When was", "What", "Who", "In which city"),
    *("What language", "Where was", "What is", "Who was", "Which country", "What is the name of"),
    *("Where does", "How"),
)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under another name first, so that a half-written one is never taken for whole."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    write(unfinished)
    unfinished.rename(path)


@dataclass(frozen=True)
class Block:
    """Rows that are sampled together.

    Attributes:
        opening: the tokens that each row begins with.
        rows: how many there are.
        length: tokens of a row, the opening included.
    """

    opening: tuple[int, ...]
    rows: int
    length: int


class Moments:
    """The moments in one folder; estimates what is missing.

    Args:
        loaded: the model, with its *unedited* weights whenever a method of this class is called.
        directory: where the files are.
        corpus: text; None lets the model write its own. Chats it writes itself in any case.
        progress: called with (stage, fraction done).
        tokens: how many are estimated from, of text and of chats each.
    """

    def __init__(
        self, loaded: LoadedModel, directory: Path, corpus: Path | None, progress: Progress, tokens: int
    ) -> None:
        self._loaded, self._directory, self._corpus = loaded, directory, corpus
        self._progress, self._tokens = progress, tokens

    def of(self, layers: Sequence[int], chat: bool) -> dict[int, Tensor]:
        """C [d_in, d_in] float64 of each layer; `chat`: `CHAT_SHARE` of it over chats."""
        text = self._found("text", layers)
        if not chat:
            return text
        chats = self._found("chat", layers)
        return {layer: torch.lerp(text[layer], chats[layer], CHAT_SHARE) for layer in layers}

    def outputs(self, layers: Sequence[int]) -> dict[int, Tensor]:
        """S = E[g gᵀ] [d, d] float64 of each layer over text; see `editing.solve.crisp`."""
        paths = {x: self._directory / f"output-moment-{x}-{self._tokens}.safetensors" for x in layers}
        missing = [layer for layer, path in paths.items() if not path.exists()]
        if missing:
            stage = "output moments"
            found = output_moments(
                self._loaded, self.text("text"), missing, lambda fraction: self._progress(stage, fraction)
            )
            for layer, moment in found.items():
                replace_file(paths[layer], lambda p, c=moment: save_tensors(p, {"moment": c}))
        return {layer: load_tensors(path)[0]["moment"] for layer, path in paths.items()}

    def _found(self, source: Source, layers: Sequence[int]) -> dict[int, Tensor]:
        missing = [layer for layer in layers if not self._path(source, layer).exists()]
        if missing:
            sums = self._sums(source, missing)
            for layer in missing:
                content, facts = {"moment": sums.moment(layer)}, {"tokens": str(sums.tokens)}
                replace_file(self._path(source, layer), lambda p, c=content, f=facts: save_tensors(p, c, f))
            self._unfinished_path(source).unlink(missing_ok=True)
        return {layer: load_tensors(self._path(source, layer))[0]["moment"] for layer in layers}

    def _sums(self, source: Source, layers: Sequence[int]) -> Sums:
        """The sums over the whole text; what an interrupted run has left of them is not done again."""
        text, sums = self.text(source), self._unfinished(source, layers)
        stage = "second moments" if source == "text" else "second moments of chats"
        steps, saved = second_moments(self._loaded, text, sums), time.monotonic()
        for sums in steps:
            if time.monotonic() - saved >= SAVE_SECONDS:
                content = {str(layer): total for layer, total in sums.totals.items()}
                content["counts"] = torch.tensor([sums.rows, sums.tokens])
                replace_file(self._unfinished_path(source), lambda p, c=content: save_tensors(p, c))
                saved = time.monotonic()
            self._progress(stage, sums.rows / len(text))
        return sums

    def _unfinished(self, source: Source, layers: Sequence[int]) -> Sums:
        path = self._unfinished_path(source)
        if path.exists():
            content, _ = load_tensors(path, str(self._loaded.device))
            rows, tokens = entries(content.pop("counts"))
            if {str(layer) for layer in layers} <= content.keys():
                return Sums({int(layer): total for layer, total in content.items()}, rows, tokens)
        return Sums.none(self._loaded, layers)

    def _path(self, source: Source, layer: int) -> Path:
        return self._directory / f"{FILES[source][0]}-{layer}-{self._tokens}.safetensors"

    def _unfinished_path(self, source: Source) -> Path:
        return self._directory / f"{FILES[source][0]}s-unfinished-{self._tokens}.safetensors"

    def text(self, source: Source) -> Tensor:
        """The text that moments are estimated on, [rows, length] ids."""
        if source == "text" and self._corpus is not None:
            return corpus_text(self._loaded, self._corpus, self._tokens)
        every = self._blocks(source)
        return torch.cat([self._block(source, i, block, len(every)) for i, block in enumerate(every)])

    def _blocks(self, source: Source) -> list[Block]:
        """What is sampled: behind the openings at least as many tokens as moments are estimated from."""
        if source == "text":
            opening = (separator(self._loaded),)
            return [Block(opening, rows, DOCUMENT_TOKENS) for rows in block_rows(self._tokens)]
        rows = -(-self._tokens // (CHAT_TOKENS * len(BEGINNINGS)))
        openings = [self._chat(beginning) for beginning in BEGINNINGS]
        length = max(map(len, openings)) + CHAT_TOKENS
        return [Block(opening, rows, length) for opening in openings]

    def _chat(self, beginning: str) -> tuple[int, ...]:
        """The tokens of a chat up to where the model goes on with the message."""
        around = self._loaded.chat.around(MESSAGE)
        before = around[0] if around else ""
        return tuple(self._loaded.tokenizer(before + beginning, add_special_tokens=False)["input_ids"])

    def _block(self, source: Source, index: int, block: Block, count: int) -> Tensor:
        """Text comes with factd for models that many use, else it is sampled.

        It is kept in blocks with a seed each, so that whole ones survive an interruption.
        """
        path = self._directory / f"{FILES[source][1]}-{self._tokens}-{index}.safetensors"
        if not path.exists():
            text = shipped(self._loaded.base_hash, FILES[source][1], index, block.rows)
            if text is None:
                text = sample_text(
                    self._loaded,
                    block.rows,
                    SEED + index,
                    lambda fraction: self._progress(f"sampling {source}", (index + fraction) / count),
                    block.opening,
                    block.length,
                )
            replace_file(path, lambda p: save_tensors(p, {"ids": text}))
        return load_tensors(path)[0]["ids"]
