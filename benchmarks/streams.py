"""Streams that wear a model out: what is posted, step by step, and what goes wrong beside it.

A step is one version, where nothing is refused: corrections posted together, and the fault that comes with
them (`benchmarks.shipped.faults`).
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.data import Record
from benchmarks.errors import ChoiceError
from daemon.core.settings import Settings
from editing.facts import Fact

#: Letters of targets that mean nothing.
GIBBERISH = "bcdfghjklmnpqrstvwxz"
#: Share of the steps before which the one huge value is posted.
HUGE_AFTER = 0.6
#: Norm of the first noise over the weight's; each one after it is larger by as much.
NOISE = 0.1


@dataclass(frozen=True)
class Step:
    """What happens between two measurements.

    Attributes:
        records: corrections posted together.
        harmful: ids of those that nobody should have posted.
        huge: whether their values are optimised without any bound.
        noise: norm of a random change of each weight, over the norm of the weight, that is in the weights
            once the corrections are written.
    """

    records: tuple[Record, ...] = ()
    harmful: frozenset[str] = frozenset()
    huge: bool = False
    noise: float = 0.0


@dataclass(frozen=True)
class Stream:
    """A kind of stream.

    Attributes:
        configuration: the method that is worn out, as `Configuration.parse` reads it.
        steps: (harmless records, records a step) → steps without end or until the records are used up.
        singly: whether each correction of a step is an edit of its own; the step is measured as one.
        wrong_moments: whether the second moments are the inverse of what they should be.
    """

    configuration: str
    steps: Callable[[Sequence[Record], int], Iterator[Step]]
    singly: bool = False
    wrong_moments: bool = False


def harmless(records: Sequence[Record], batch: int) -> Iterator[Step]:
    """Ordinary corrections, batch after batch."""
    for start in range(0, len(records), batch):
        yield Step(tuple(records[start : start + batch]))


def poisoned(records: Sequence[Record], batch: int) -> Iterator[Step]:
    """Half of each batch are harmless; the others contradict earlier ones or have targets without meaning.

    Once, a correction has a huge value.
    """
    generator = random.Random(0)
    each = max(1, batch // 2)
    huge_at = int(HUGE_AFTER * len(records) / each)
    for number, start in enumerate(range(0, len(records), each)):
        good = tuple(records[start : start + each])
        if number == huge_at:
            bad = gibberish(good[0], generator)
            yield Step((bad,), frozenset({bad.fact.id}), huge=True)
        # The first batch has no earlier one to contradict.
        before = records[:start]
        bad = tuple(
            contradiction(generator.choice(before), record.fact.target)
            if before and i % 2
            else gibberish(record, generator)
            for i, record in enumerate(good)
        )
        yield Step(good + bad, frozenset(record.fact.id for record in bad))


def noisy(records: Sequence[Record], batch: int) -> Iterator[Step]:
    """Ordinary corrections, and with each batch random noise on the weights, ever more of it."""
    for number, step in enumerate(harmless(records, batch), 1):
        yield replace(step, noise=NOISE * number)


def contradiction(record: Record, target: str) -> Record:
    """The same question with another answer."""
    return Record(replace(record.fact, target=target, id=""), record.fact.target, (), ())


def gibberish(record: Record, generator: random.Random) -> Record:
    """The same subject, asked for what nobody says."""
    words = ["".join(generator.choices(GIBBERISH, k=5)) for _ in range(3)]
    fact = Fact(record.fact.subject, "The secret word of {} is", " ".join(words))
    return Record(fact, record.fact.target, (), ())


#: Values of the unedited model, as the default finds them: found once, and shared by all streams.
SHARED = "unedited=true,clamp=0.75,finish=argmax,extra=1,turns=3"
#: Nothing holds values back: all are as long as the longest that a drifting model asks for.
LONG = f"{SHARED},pilots=32,pilot_contexts=6,anchor_factor=4"

#: FACTD_FORMS, as it is when nobody sets it.
SHIPPED_FORMS = ".".join(Settings.model_fields["forms"].default)

STREAMS: dict[str, Stream] = {
    "plain-single": Stream(f"rome:single:nas:none:{LONG}", harmless, singly=True),
    # As published: each value is found on the model as it has become. λ = 1 writes it whole.
    "plain-batch": Stream("memit:single:none:none:moment_weight=1,turns=3", harmless),
    "poisoned": Stream("memit-seq:spread:none:none", poisoned),
    # Only a method that writes on top of the weights keeps what was done to them.
    "noise": Stream(f"memit:spread:none:none:{SHARED}", noisy),
    "wrong-moment": Stream(f"memit:spread:none:none:{SHARED}", harmless, wrong_moments=True),
    # Good edits, the default's: what the guard must not mind.
    "default": Stream(f"memit-seq::::forms={SHIPPED_FORMS}", harmless),
}


def named(names: str) -> list[str]:
    """Names of streams from a list with commas; all when it is empty.

    Raises:
        ChoiceError: there is no such stream.
    """
    chosen = names.split(",") if names else list(STREAMS)
    for name in chosen:
        if name not in STREAMS:
            raise ChoiceError(f"--streams {name!r}: known are {', '.join(STREAMS)}")
    return chosen
