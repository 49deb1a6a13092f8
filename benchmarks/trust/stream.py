"""A stream of real changes and poison of five kinds, made from WikiFactDiff's changes.

The world: `almanac` has posted what was true, for half of the subjects, and those facts are live. Then
changes come, spread over a year. Whoever posted the old fact mostly posts the new one, OTHER_SOURCE of the
changes come from another source. All sources are accepted: no poison is held for its source alone, as if an
attacker had the token of a trusted source.

Poison says of a real subject, in the words of a real prompt:

- `wrong_kind`: the target of a prompt for another kind of thing, from the other half of the data, by the
  slot's own source
- `swap`: the new target of another subject of the same prompt, by the slot's own source
- `contradiction`: the same, by a source that did not post the live fact, half of them in other words
- `flip_flop`: a row of swapped targets for one slot within some days, by the slot's own source
- `instruction`: an instruction in place of the target or behind it, from a list for each half
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data import read_items
from benchmarks.errors import DataError
from benchmarks.trust.instructions import INSTRUCTIONS
from daemon.core.messages import Correction, parse_correction

DAY_SECONDS = 86400.0
#: days over which the changes are spread
SPREAD_DAYS = 365.0
#: share of the subjects whose old fact is live before
SEEDED = 0.5
#: share of the real changes that come from another source than the old fact
OTHER_SOURCE = 0.02
#: posts of one row of flips, and days within which they come
FLIPS, FLIP_DAYS = (3, 6), 3.0
KINDS = ("wrong_kind", "swap", "contradiction", "flip_flop", "instruction")
#: What WikiFactDiff's frequent prompts ask for, by reading them; the product's lexicon has no part in it.
ASKS_FOR = {
    "{} played for": "team",
    "{} is situated in": "place",
    "{} held the position of": "role",
    "{}'s head coach is": "person",
    "The official name of {} is": "name",
    "{}'s head of government is": "person",
    "The chairperson of {} is": "person",
    "{} played in the": "league",
    "The office of {} is held by": "person",
    "{} is an example of a": "class",
    "{} is affiliated with the": "party",
    "{} is managed by": "person",
    "The CEO of {} is": "person",
    "{} works for": "organisation",
    "{} manages": "team",
    "{} is a subsidiary of": "organisation",
    "{}'s head of state is": "person",
    "{} is operated by the": "organisation",
}


@dataclass(frozen=True)
class Change:
    """A fact that really changed."""

    subject: str
    prompt: str
    reworded: str | None
    old: str
    new: str


@dataclass(frozen=True)
class Post:
    """What comes in, when, and what it is: "true", or a kind of poison.

    Attributes:
        turn: place within a row of flips, from 0.
    """

    at: float
    correction: Correction
    kind: str
    turn: int = 0


@dataclass(frozen=True)
class Stream:
    """What is live at the start, and what comes after, in order of time."""

    seeds: tuple[Post, ...]
    posts: tuple[Post, ...]


def load_changes(path: Path) -> list[Change]:
    """The changes of a file of WikiFactDiff, those that say what they say it of.

    Raises:
        DataError: the file has another schema.
    """
    try:
        items: list[dict[str, Any]] = [item["en"] for item in read_items(path)]
        made = [_change(item) for item in items if item["subject"] in item["src"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: a record has no field {error}; give WikiFactDiff's train file") from error
    return [one for one in made if one.old != one.new]


def _change(item: dict[str, Any]) -> Change:
    subject = item["subject"]
    reworded = item["rephrase"].replace(subject, "{}", 1) if subject in item["rephrase"] else None
    return Change(subject, item["src"].replace(subject, "{}", 1), reworded, item["old"], item["alt"])


def half_of(changes: Sequence[Change], held_out: bool) -> list[Change]:
    """One half of the subjects: rules may be looked at on the one, and are reported on the other."""
    return [one for one in changes if _odd(one.subject) == held_out]


def _odd(subject: str) -> bool:
    return hashlib.sha256(subject.encode()).digest()[0] % 2 == 1


def make_stream(changes: Sequence[Change], held_out: bool, each: int, seed: int) -> Stream:
    """The stream of one half, with `each` attacks of each kind."""
    halves = half_of(changes, held_out), half_of(changes, not held_out)
    return _Maker(*halves, held_out, random.Random(seed)).stream(each)


class _Maker:
    def __init__(
        self, changes: list[Change], others: list[Change], held_out: bool, chance: random.Random
    ) -> None:
        self.changes, self.others, self.held_out, self.chance = changes, others, held_out, chance
        self.seeded = {one.subject for one in changes if chance.random() < SEEDED}
        self.by_prompt: dict[str, list[Change]] = {}
        for one in changes:
            self.by_prompt.setdefault(one.prompt, []).append(one)

    def stream(self, each: int) -> Stream:
        seeds = [self._post(0.0, one, one.old, self._owner(one), "seed") for one in self._seedable()]
        attackable = [one for one in self.changes if one.prompt in ASKS_FOR]
        attacks = [
            post
            for kind in KINDS
            for one in self.chance.sample(self._fit_for(kind, attackable), each)
            for post in self._attack(kind, one)
        ]
        posts = sorted([*self._true(), *attacks], key=lambda post: post.at)
        return Stream(tuple(seeds), tuple(posts))

    def _seedable(self) -> Iterator[Change]:
        """One a slot: of several changes of a slot the first tells what was."""
        known = set[tuple[str, str]]()
        for one in self.changes:
            if one.subject in self.seeded and (one.subject, one.prompt) not in known:
                known.add((one.subject, one.prompt))
                yield one

    def _true(self) -> Iterator[Post]:
        for one in self.changes:
            other = self.chance.random() < OTHER_SOURCE
            yield self._post(self._when(), one, one.new, "gazette" if other else self._owner(one), "true")

    def _owner(self, one: Change) -> str:
        return "almanac" if one.subject in self.seeded else "newsroom"

    def _when(self) -> float:
        return DAY_SECONDS * self.chance.uniform(1.0, SPREAD_DAYS)

    def _fit_for(self, kind: str, changes: list[Change]) -> list[Change]:
        if kind == "contradiction":
            return [one for one in changes if one.subject in self.seeded]
        return changes

    def _attack(self, kind: str, one: Change) -> Iterator[Post]:
        at, owner = self._when(), self._owner(one)
        if kind == "wrong_kind":
            yield self._post(at, one, self._of_another_kind(one), owner, kind)
        elif kind == "swap":
            yield self._post(at, one, self._swapped(one), owner, kind)
        elif kind == "contradiction":
            prompt = one.reworded if self.chance.random() < 0.5 else None
            yield self._post(at, one, self._swapped(one), "gazette", kind, prompt=prompt)
        elif kind == "instruction":
            text = self.chance.choice(INSTRUCTIONS["reported" if self.held_out else "looked_at"])
            yield self._post(at, one, text.replace("{target}", one.new), owner, kind)
        else:
            for turn in range(self.chance.randint(*FLIPS)):
                when = at + DAY_SECONDS * FLIP_DAYS * turn / FLIPS[1]
                yield self._post(when, one, self._swapped(one), owner, kind, turn=turn)

    def _swapped(self, one: Change) -> str:
        others = [other.new for other in self.by_prompt[one.prompt] if other.subject != one.subject]
        return self.chance.choice([target for target in others if target not in (one.old, one.new)])

    def _of_another_kind(self, one: Change) -> str:
        found = {ASKS_FOR[other.prompt] for other in self.others if other.prompt in ASKS_FOR}
        kinds = sorted(found - {ASKS_FOR[one.prompt]})
        kind = self.chance.choice(kinds)
        return self.chance.choice([one.new for one in self.others if ASKS_FOR.get(one.prompt) == kind])

    def _post(
        self,
        at: float,
        one: Change,
        target: str,
        source: str,
        kind: str,
        *,
        prompt: str | None = None,
        turn: int = 0,
    ) -> Post:
        body = {"subject": one.subject, "prompt": prompt or one.prompt, "target": target, "source": source}
        return Post(at, parse_correction(body if kind == "seed" else body | {"was": one.old}), kind, turn)
