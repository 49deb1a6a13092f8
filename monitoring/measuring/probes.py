"""Text that no correction is about: what the model must go on saying as before."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

from monitoring.errors import ProbeError

#: Prompts asked after every update. The others are answered freely, as a deep measure. The mean KL of 16
#: prompts that are compared with themselves tells an unchanged model from a damaged one.
WATCHED_PROMPTS = 16


@dataclass(frozen=True)
class ProbeSet:
    """Held text and next-token probes.

    Attributes:
        texts: paragraphs whose perplexity is watched.
        prompts: unfinished sentences. The next-token distribution of the first `WATCHED_PROMPTS` is watched;
            the others are answered freely.

    Raises:
        ProbeError: there is no text or no prompt.
    """

    texts: tuple[str, ...]
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not any(text.strip() for text in self.texts) or not self.prompts:
            raise ProbeError("a probe set needs at least one text and one prompt; give both")

    @property
    def watched(self) -> tuple[str, ...]:
        return self.prompts[:WATCHED_PROMPTS]

    @property
    def free(self) -> tuple[str, ...]:
        """The prompts that are answered freely: those not watched, or all where there are no others."""
        return self.prompts[WATCHED_PROMPTS:] or self.prompts

    @cached_property
    def sha256(self) -> str:
        """Hash over all texts and prompts in their order."""
        content = json.dumps([self.texts, self.prompts], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()


def default_probes() -> ProbeSet:
    """The probes shipped in `monitoring/probes`: paragraphs of `texts.txt`, lines of `prompts.txt`.

    Raises:
        ProbeError: the files are not installed.
    """
    folder = files("monitoring.measuring").joinpath("probes")
    try:
        texts = folder.joinpath("texts.txt").read_text("utf-8")
        prompts = folder.joinpath("prompts.txt").read_text("utf-8")
    except OSError as error:
        raise ProbeError(
            f"probe files are missing from the installation: {error}; reinstall factd"
        ) from error
    return ProbeSet(
        texts=tuple(" ".join(block.split()) for block in texts.split("\n\n") if block.strip()),
        prompts=tuple(line.strip() for line in prompts.splitlines() if line.strip()),
    )
