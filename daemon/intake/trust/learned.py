"""What the targets of a prompt look like, learned from the facts that are live: words, endings and shapes.

The lexicon knows few kinds firmly. A ledger knows more: of forty live facts "… played in the …" nearly all
end in "League" or "Liga", and none is a person. A naive Bayes classifier of the targets' words tells how much
better another group of prompts explains a target than its own does.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

#: A prompt teaches once so many of its facts are live; below that a new target is no surprise.
FEWEST_FACTS = 15
#: Another group must explain a target so much better to speak surely against it, nats a feature. Less counts
#: in proportion.
SURELY_NATS = 1.0
#: Added to each count: a feature that was never seen is rare, not impossible.
SMOOTHING = 0.1
#: Letters of a word's end that tell its kind: -ov, -ia, -burg.
ENDING = 3
_WORDS = re.compile(r"[^\W_]+|[.&–-]")


@dataclass
class _Group:
    facts: int = 0
    features: Counter[str] = field(default_factory=Counter[str])
    total: int = 0


class Targets:
    """Counts of the features of targets, by the name of a prompt's group."""

    def __init__(self, known: Iterable[tuple[str, str]]) -> None:
        """`known`: (name of the group, target) of live facts."""
        self._groups: dict[str, _Group] = {}
        self._seen = set[str]()
        for name, target in known:
            group = self._groups.setdefault(name, _Group())
            group.facts += 1
            for feature in features(target):
                group.features[feature] += 1
                group.total += 1
                self._seen.add(feature)

    def surprise(self, name: str, target: str) -> tuple[float, str]:
        """By how many nats a feature another group explains the target better than its own, and which."""
        own = self._groups.get(name)
        told = list(features(target))
        if own is None or own.facts < FEWEST_FACTS or not told:
            return 0.0, ""
        mine = self._explained(own, told)
        best, other = max(
            (
                (self._explained(one, told), label)
                for label, one in self._groups.items()
                if label != name and one.facts >= FEWEST_FACTS
            ),
            default=(-math.inf, ""),
        )
        return max(0.0, best - mine), other

    def _explained(self, group: _Group, told: Sequence[str]) -> float:
        """Mean log-probability of the features within the group."""
        below = math.log(group.total + SMOOTHING * (len(self._seen) + 1))
        return sum(math.log(group.features[one] + SMOOTHING) - below for one in told) / len(told)


def features(target: str) -> Iterator[str]:
    """Words, endings and shapes of a target; a feature names what it is."""
    words = _WORDS.findall(target)
    yield f"#{min(len(words), 6)}"
    for place, word in enumerate(words):
        yield f"~{_shape(word)}"
        if len(word) > 1:
            yield f"={word.casefold()}"
            yield f"-{word.casefold()[-ENDING:]}"
        if place in (0, len(words) - 1):
            yield f"{'<' if place == 0 else '>'}{_shape(word)}"


def _shape(word: str) -> str:
    """ "Oslo" → "Aa", "FC" → "AA", "of" → "a", "15th" → "9a", "Осло" → "AaCYR"."""
    if word.isdigit():
        return f"9{min(len(word), 5)}"
    kinds = ["9" if char.isdigit() else "A" if char.isupper() else "a" for char in word]
    short = "".join(kind for i, kind in enumerate(kinds) if i == 0 or kind != kinds[i - 1])
    script = next((unicodedata.name(char, "?").split()[0] for char in word if char.isalpha()), "")
    return f"{short[:4]}{'' if script == 'LATIN' else script[:3]}{'' if len(word) > 1 else '.'}"
