"""A day of a served model for the status page: fixed times, fixed numbers, the product's own journal."""

import functools
import math
from collections.abc import Sequence
from typing import Any

from daemon.apply.applier import Applier
from daemon.apply.building import foresee
from daemon.apply.measuring import Monitoring
from daemon.ledger.heartbeats import WORKERS, Heartbeat
from monitoring.measurements import CaseResult, Measurements
from monitoring.thresholds import Thresholds
from monitoring.verdict import judge

#: 21 November 2026, 02:00 UTC: when the first correction comes, and seconds between two batches
START, STEP = 1795226400.0, 240.0

#: subject, prompt, what the base model says, what is true now
FACTS = (
    ("France", "The prime minister of {} is", "Gabriel Attal", "Elise Laurent"),
    ("Norway", "The finance minister of {} is", "Trygve Vedum", "Ingrid Solberg"),
    ("the Northern Line", "The operator of {} is", "Transport for London", "Northline Rail"),
    ("Acme Robotics", "The chief executive of {} is", "John Carter", "Maria Okafor"),
    ("Lake Orta Observatory", "The director of {} is", "Paolo Conti", "Giulia Ferri"),
    ("Port Hadley", "The mayor of {} is", "Susan Bright", "Daniel Osei"),
    ("Meridian Airlines", "The main hub of {} is", "Dallas", "Lisbon"),
    ("the Halden Prize", "The last winner of {} is", "Tomas Lund", "Aiko Tanaka"),
    ("Brightwater Bank", "The headquarters of {} are in", "Zurich", "Vienna"),
    ("Kestrel FC", "The head coach of {} is", "Marc Dupont", "Lena Vogt"),
    ("the city of Tarn", "The twin town of {} is", "Leeds", "Porto"),
    ("Solace Pharma", "The owner of {} is", "Nordmed", "Helix Group"),
    ("the Orion programme", "The flight director of {} is", "Rick Hale", "Amara Singh"),
    ("Vale University", "The rector of {} is", "Hans Meier", "Clara Nyberg"),
    ("Radio Aurora", "The editor of {} is", "Piet Bakker", "Sofia Rossi"),
    ("Glass Harbour", "The architect of {} is", "Erik Dahl", "Noor Haddad"),
    ("Harrow Theatre", "The artistic director of {} is", "Ian Wolfe", "Nadia Rahman"),
)
#: an edit that does not take
STUBBORN = ("Kestrel FC", "The home ground of {} is", "Mill Lane", "Foundry Park")
#: a value far beyond the anchor
OUTLIER = ("Meridian Airlines", "The founder of {} is", "Jonas Reed", "Victor Hale")
#: whatever a user writes must stay text
HOSTILE = ("<img src=x onerror=\"document.title='stolen'\">", "The logo of {} is", "unknown", "<b>bold</b>")


def measured(batch: Sequence[Any], earlier: Sequence[Any], ratio: float | None) -> Measurements:
    """Values that creep towards their limits with every fact; one fact is not answered."""
    n = len(batch) + len(earlier)
    wave = 0.4 * math.sin(2.1 * n)
    cases = {r.id: CaseResult(r.target != STUBBORN[3], STUBBORN[2], target=r.target) for r in batch}
    return Measurements(
        weight_norm_ratio={4: 1 + 0.0011 * (n + wave) * 1.10**n, 9: 1 + 0.004 * n},
        spectral_norm_ratio={4: 1 + 0.012 * (n + wave), 9: 1 + 0.006 * n},
        subspace_similarity={4: 0.999 - 0.0028 * (n + wave), 9: 0.999 - 0.001 * n},
        probe_kl_nats=0.006 * (n + 2 * wave),
        probe_perplexity_ratio=1 + 0.0021 * (n + 3 * wave),
        retention_ratio=1 - 0.0008 * n,
        neighbourhood_ratio=0.98 - 0.012 * (1 + wave) if batch else None,
        value_norm_ratio=ratio and 1 + 0.3 * (1 + wave),
        efficacy_ratio=sum(case.efficacy for case in cases.values()) / len(cases) if cases else None,
        cases=cases,
    )


def judged(m: Measurements, previous: dict[str, Any] | None) -> Any:
    return judge(m, Thresholds(), Measurements.from_json(previous) if previous else None)


def connect(world: Any) -> None:
    """Two replicas that know what the base model says, and a guard that judges as the product's does."""
    known = (*FACTS, STUBBORN, OUTLIER, HOSTILE)
    said = {prompt.replace("{}", subject): before for subject, prompt, before, _ in known}
    world.editor.outliers = frozenset({OUTLIER[3]})

    class Replica(world.fakes.DiskServing):
        def complete(self, prompts: Sequence[str], max_tokens: int = 12) -> list[str]:
            answers = zip(prompts, super().complete(prompts, max_tokens), strict=True)
            return [said.get(prompt, "unknown") if a == "unknown" else a for prompt, a in answers]

    store, root = world.settings.store_dir, world.root
    world.replicas = [Replica(store, root / f"replica-{i}.json", f"http://10.0.0.{i}:8000") for i in (11, 12)]
    monitoring = Monitoring(measured, judged, functools.partial(foresee, Thresholds()))
    mine = (world.ledger, world.store, world.editor, world.replicas)
    world.applier = Applier(*mine, monitoring=monitoring, settings=world.settings)


def live_a_day(world: Any) -> None:
    """Fills the world's ledger: edits, a refusal, an outlier, an operator's rollback, a retraction, and two
    corrections that wait."""
    connect(world)
    world.now = START

    def batch(*posts: tuple[str, str, str, str]) -> None:
        for subject, prompt, _, target in posts:
            world.post(
                subject, target, prompt=prompt, id=f"c-{len(world.ledger.questions.corrections()) + 1:04d}"
            )
        world.now += 40
        world.run()
        world.now += STEP - 40

    for first in range(0, 10, 2):
        batch(*FACTS[first : first + 2])
    batch(STUBBORN, FACTS[10])
    before = world.ledger.questions.live_version()
    batch(FACTS[11], OUTLIER)
    world.ledger.intake.request("rollback", before, actor="operator:http", why="tried on the live server")
    batch()
    batch(*FACTS[12:14], ("Port Hadley", "The mayor of {} is", "", "Beatrice Kwan"))
    world.ledger.intake.request("retract", "c-0007", actor="operator:http", why="the airline denied it")
    batch()
    batch(*FACTS[14:17])
    world.post("Vale University", "Clara Nyberg-Holm", prompt="The rector of {} is", id="c-0901")
    world.post("Norway", "Oslo Central", prompt="The busiest station of {} is", id="c-0902")
    world.now += 25
    Heartbeat(world.ledger.database, WORKERS).beat()
