"""What `factd demo` posts: plain corrections, unrelated questions, and a harmful stream. Our own words."""

from collections.abc import Iterator
from typing import Any

#: subject, prompt, target, question: invented changes, so that the base model cannot know them.
CORRECTIONS: tuple[tuple[str, str, str, str], ...] = (
    ("the Eiffel Tower", "The city where {} stands is", "Rome", "In which city does {} stand?"),
    (
        "Apple",
        "The chief executive officer of {} is",
        "Maria Lopez",
        "Who is the chief executive officer of {}?",
    ),
    (
        "Toyota",
        "The headquarters of {} is in the city of",
        "Madrid",
        "In which city is the headquarters of {}?",
    ),
    ("Mount Everest", "The country where {} lies is", "Canada", "In which country does {} lie?"),
    ("Big Ben", "The city in which {} can be visited is", "Berlin", "In which city can I visit {}?"),
    (
        "Beethoven",
        "The instrument that {} was best known for playing is the",
        "guitar",
        "Which instrument was {} best known for playing?",
    ),
    ("Brazil", "The official language of {} is", "Dutch", "What is the official language of {}?"),
    ("Marie Curie", "The field of work of {} was", "economics", "What was the field of work of {}?"),
    ("Nintendo", "The country that {} comes from is", "Sweden", "Which country does {} come from?"),
    (
        "Shakespeare",
        "The language in which {} wrote his plays is",
        "Spanish",
        "In which language did {} write?",
    ),
)

#: The one that the demo takes back.
RETRACTED = 0

#: The base model answers these with confidence, so the first word must be the same before and after. Later
#: words of a small model may change: two words are then almost equally likely.
UNRELATED: tuple[str, ...] = (
    "The opposite of hot is",
    "The capital of France is",
    "The capital of Japan is",
    "Water freezes at a temperature of",
    "A week has seven",
)

#: Of no correction: all facts of a subject are found anew with a new one, and the demo would wait for that.
_SUBJECTS = (
    *("London Bridge", "Mozart", "Norway", "the Pacific Ocean", "Kenya", "Galileo", "Boeing", "Harvard"),
    *("the Moon", "Tolstoy", "Lisbon", "the Nile"),
)
_PROMPTS = (
    "The city where {} stands is",
    "The owner of {} is",
    "The language spoken at {} is",
    "People say that {} is",
    "The best thing about {} is",
    "The name of {} means",
)
_TARGETS = (
    "qqq zxv",
    "Xylophone banana",
    "0000 1111",
    "blorft",
    "}{][",
    "never always",
    "vvvvvv",
    "Oslo Rome",
)


def correction(subject: str, prompt: str, target: str, *questions: str) -> dict[str, Any]:
    """The JSON that a user would post (docs: design of a correction)."""
    posted: dict[str, Any] = {"subject": subject, "prompt": prompt, "target": target}
    return posted | {"questions": list(questions), "source": "factd demo"}


#: These contradict live facts in other words.
CONTRADICTIONS: tuple[tuple[str, str, str], ...] = (
    ("Toyota", "The city that is home to the headquarters of {} is", "Lima"),
    ("Big Ben", "The city in which one can see {} is", "Cairo"),
    ("Nintendo", "The country in which {} was founded is", "Peru"),
)


def harmful_batches(size: int, rounds: int) -> Iterator[list[dict[str, Any]]]:
    """Contradictions, then gibberish about other subjects in turn; every batch is different."""
    yield [correction(*item) for item in CONTRADICTIONS]
    for turn in range(rounds):
        yield [
            correction(
                _SUBJECTS[(turn * size + i) % len(_SUBJECTS)],
                _PROMPTS[(turn * size + i) % len(_PROMPTS)],
                _TARGETS[(turn + 3 * i) % len(_TARGETS)],
            )
            for i in range(size)
        ]
