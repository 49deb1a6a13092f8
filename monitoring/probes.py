"""Text that no correction is about: what the model must go on saying as before."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

from monitoring.errors import ProbeError


@dataclass(frozen=True)
class ProbeSet:
    """Held text and next-token probes.

    Attributes:
        texts: paragraphs whose perplexity is watched.
        prompts: unfinished sentences whose next-token distribution is watched.

    Raises:
        ProbeError: there is no text or no prompt.
    """

    texts: tuple[str, ...]
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not any(text.strip() for text in self.texts) or not self.prompts:
            raise ProbeError("a probe set needs at least one text and one prompt; give both")

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
    folder = files("monitoring").joinpath("probes")
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
