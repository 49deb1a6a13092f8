"""What the targets of a prompt look like, learned from the facts that are live: words, their parts, shapes.

The lexicon knows few kinds firmly. A ledger knows more: of forty live facts "… played in the …" nearly all
end in "League" or "Liga", and none is a person. A naive Bayes classifier of the targets' features tells how
much better another group of prompts explains a target than its own does. How much is usual differs from pair
to pair: officers of one prompt are often explained as well by another prompt of people, and never by one of
leagues. So the difference is compared with those of the group's own live targets, each left out of the counts
in its turn.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import repeat
from statistics import fmean, pstdev

from daemon.intake.reading.kinds import fit

#: A group's targets are judged once so many of its facts are live; below that a new target is no surprise.
FEWEST_FACTS = 15
#: A group speaks against others' targets once so many of its facts are live.
FEWEST_OF_A_RIVAL = 15
#: At most so many groups are compared with, those with the most facts: each costs a pass over a sample.
MOST_RIVALS = 40
#: So many of a group's own targets tell what is usual: 120 put a mean within a tenth of a spread.
SAMPLE = 120
#: Another group must explain a target better than usual by so many spreads to speak surely against it, and by
#: more than the first number to speak at all. Measured on true changes: docs/log/trust.md.
USUAL_SPREADS, SURELY_SPREADS = 1.0, 2.4
#: Another group must explain a target better than its own by so much, nats over the root of the number of
#: features: below that, neither explains it, and the fewer facts of the one decide.
BETTER_BY = 0.5
#: Spreads below this are taken for it, nats over the root of the number of features: sixteen targets that are
#: alike do not make another impossible.
LEAST_SPREAD = 1.0
#: Added to each count: a feature that was never seen is rare, not impossible.
SMOOTHING = 0.1
_UNSEEN = math.log(SMOOTHING)
#: Letters of a word's end that tell its kind: -ov, -ia, -burg; and of parts of a word, its two ends marked.
ENDING, PARTS = 3, (3, 4)
#: Targets whose features are remembered: live ones are asked for again and again.
REMEMBERED = 20_000
#: Kinds of the lexicon that a target may fit more or less well.
_FITTED = ("person", "place", "organisation", "club", "event", "role", "language")
_WORDS = re.compile(r"[^\W_]+|[.&–-]")


@dataclass
class _Group:
    targets: list[str] = field(default_factory=list[str])
    features: Counter[str] = field(default_factory=Counter[str])
    total: int = 0
    #: of each feature that was seen, the logarithm of its count
    logs: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class _Usual:
    """By how much a rival explains a group's own targets better: mean and spread, nats."""

    rival: str
    mean: float
    spread: float


class Targets:
    """Counts of the features of targets, by the name of a prompt's group."""

    def __init__(self, known: Iterable[tuple[str, str]]) -> None:
        """`known`: (name of the group, target) of live facts."""
        self._groups: dict[str, _Group] = {}
        self._usual: dict[str, list[_Usual]] = {}
        for name, target in known:
            group = self._groups.setdefault(name, _Group())
            told = features(target)
            group.targets.append(target)
            group.features.update(told)
            group.total += len(told)
        for group in self._groups.values():
            group.logs = {one: math.log(count + SMOOTHING) for one, count in group.features.items()}
        self._different = len({feature for group in self._groups.values() for feature in group.features})
        rivals = [name for name, one in self._groups.items() if len(one.targets) >= FEWEST_OF_A_RIVAL]
        self._rivals = sorted(rivals, key=lambda name: -len(self._groups[name].targets))[: MOST_RIVALS + 1]

    def surprise(self, name: str, target: str) -> tuple[float, str]:
        """By how many spreads more than usual another group explains the target better, and which group.

        d_r = (log P(features | r) − log P(features | own)) / √(number of features)
        surprise = max over rivals r with d_r > BETTER_BY of (d_r − mean_r) / spread_r
        """
        own, told = self._groups.get(name), features(target)
        if own is None or len(own.targets) < FEWEST_FACTS or not told:
            return 0.0, ""
        mine = self._explained(own, told)
        best, other = 0.0, ""
        for usual in self._usual_of(name, own):
            better = (self._explained(self._groups[usual.rival], told) - mine) / math.sqrt(len(told))
            if better > BETTER_BY:
                best, other = max((best, other), ((better - usual.mean) / usual.spread, usual.rival))
        return best, other

    def _usual_of(self, name: str, own: _Group) -> list[_Usual]:
        if name not in self._usual:
            step = -(-len(own.targets) // SAMPLE)
            rivals = [rival for rival in self._rivals if rival != name][:MOST_RIVALS]
            found = [
                self._left_out(own, target, rivals) for target in own.targets[::step] if features(target)
            ]
            columns = zip(*found, strict=True)
            self._usual[name] = [
                _Usual(rival, fmean(column), max(LEAST_SPREAD, pstdev(column)))
                for rival, column in zip(rivals, columns, strict=False)
            ]
        return self._usual[name]

    def _left_out(self, own: _Group, target: str, rivals: Sequence[str]) -> list[float]:
        """By how much each rival explains the target better, as if it were not among the group's own."""
        told = features(target)
        mine = self._explained(own, told, Counter(told))
        root = math.sqrt(len(told))
        return [(self._explained(self._groups[rival], told) - mine) / root for rival in rivals]

    def _explained(self, group: _Group, told: Sequence[str], less: Counter[str] | None = None) -> float:
        """Log-probability of the features within the group, without the counts of `less`."""
        total = group.total - (len(told) if less else 0)
        below = len(told) * math.log(total + SMOOTHING * (self._different + 1))
        if less is None:
            return sum(map(group.logs.get, told, repeat(_UNSEEN))) - below
        counts = group.features
        return sum(math.log(counts[one] - less[one] + SMOOTHING) for one in told) - below


@lru_cache(REMEMBERED)
def features(target: str) -> tuple[str, ...]:
    """Words, parts of words, endings and shapes of a target, and the kinds that it fits."""
    return tuple(_features(target))


def _features(target: str) -> Iterator[str]:
    """A feature's first character names what it is."""
    words = _WORDS.findall(target)
    yield f"#{min(len(words), 6)}"
    for kind in _FITTED:
        yield f"k{kind}{fit(kind, target)}"
    for place, word in enumerate(words):
        shape, plain = _shape(word), word.casefold()
        yield f"~{shape}"
        if len(word) > 1:
            yield f"={plain}"
            yield f"-{plain[-ENDING:]}"
        if place in (0, len(words) - 1):
            yield f"{'<' if place == 0 else '>'}{shape}"
        marked = f"^{plain}$"
        for size in PARTS:
            yield from (f"+{marked[i : i + size]}" for i in range(len(marked) - size + 1))


def _shape(word: str) -> str:
    """ "Oslo" → "Aa", "FC" → "AA", "of" → "a", "15th" → "9a", "Осло" → "AaCYR"."""
    if word.isdigit():
        return f"9{min(len(word), 5)}"
    kinds = ["9" if char.isdigit() else "A" if char.isupper() else "a" for char in word]
    short = "".join(kind for i, kind in enumerate(kinds) if i == 0 or kind != kinds[i - 1])
    script = next((unicodedata.name(char, "?").split()[0] for char in word if char.isalpha()), "")
    return f"{short[:4]}{'' if script == 'LATIN' else script[:3]}{'' if len(word) > 1 else '.'}"
