"""Which relation of the lexicon a prompt asks for."""

import re
from functools import lru_cache

from daemon.intake.reading.lexicon import Lexicon, Relation
from daemon.intake.reading.wording import prepare

#: Prompts whose relation is remembered: a feed has few, and finding one takes a millisecond.
REMEMBERED = 10_000
#: Names that no lexicon and no prompt holds; they stand for the subject and the target of a prompt.
_SUBJECT, _TARGET = "Xanbar Quillon", "Yorrik Zeldane"
#: Behind a noun of a relation: "The director of {} is", "{}'s head coach is the", "The office is held by".
_ENDS = re.compile(r".*\b(?:is|are|was|by)(?: the| an?| called| named)?", re.IGNORECASE)
_PROMPT = re.compile(
    r"(?:the )?(?P<noun>.+) (?:of|in|at|for) \{\}|\{\} ?(?:'s|’s) (?P<owned>.+)", re.IGNORECASE
)


class Relations:
    """Looks prompts up in a lexicon, by its own prompts, its nouns and its sentence patterns."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._prompts: dict[str, list[Relation]] = {}
        for one in lexicon.relations.values():
            for prompt in one.prompts:
                self._prompts.setdefault(_folded(prompt), []).append(one)
        self.of = lru_cache(REMEMBERED)(self._of)

    def names(self, prompt: str) -> list[str]:
        """What a policy may call the prompt's relation: films and firms have directors."""
        exact = [one.name for one in self._prompts.get(_folded(prompt), ())]
        found = self.of(prompt)
        return exact or ([found.name] if found else [])

    def _of(self, prompt: str) -> Relation | None:
        """The relation, the first of the lexicon where several fit; None when it does not know one."""
        exact = self._prompts.get(_folded(prompt))
        return exact[0] if exact else self._by_noun(prompt) or self._by_pattern(prompt)

    def _by_noun(self, prompt: str) -> Relation | None:
        if not _ENDS.fullmatch(prompt):
            return None
        found = _PROMPT.match(prompt)
        if found is None:
            return None
        words = re.findall(r"[\w'-]+", (found["noun"] or found["owned"]).lower())
        most = self._lexicon.longest_noun
        spans = (
            (start, start + size) for size in range(most, 0, -1) for start in range(len(words) - size + 1)
        )
        for start, end in spans:
            name = self._lexicon.nouns.get(tuple(words[start:end]))
            # "The office of {} is held by" asks for a person, whatever else an office may be.
            if name and (not prompt.endswith(" by") or self._lexicon.relations[name].object == "person"):
                return self._lexicon.relations[name]
        return None

    def _by_pattern(self, prompt: str) -> Relation | None:
        sentence = prepare(f"{prompt.replace('{}', _SUBJECT)} {_TARGET}.")
        words = frozenset(sentence.lower().split())
        best = (0, "")
        for name, pattern in self._lexicon.says:
            if pattern.weight <= best[0] or not pattern.may_match(words):
                continue
            for match in pattern.matches(sentence):
                slots = match.groupdict()
                if (slots["s"].strip(), slots["t"].strip()) == (_SUBJECT, _TARGET):
                    best = (pattern.weight, name)
        return self._lexicon.relations[best[1]] if best[1] else None


def _folded(prompt: str) -> str:
    return " ".join(prompt.casefold().split())
