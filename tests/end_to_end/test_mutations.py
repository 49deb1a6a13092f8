"""Every way in which a server may hold other weights than were staged is found by the proof: a real server.

A plugin of this test alone puts other matrices in place after an honest exchange, so that label and hashes
stay right. Each row is tried for a publication of ten facts, for one of one fact on top, and after a restart.
The table says which half of the proof found it.

The whole module starts one server, for a tiny random Llama made here. For the bundled model:
FACTD_TEST_MODEL=smollm2-135m-instruct FACTD_TEST_STATISTICS=DIR pytest -s tests/end_to_end/test_mutations.py
"""

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from daemon.apply.applier import Applier
from daemon.apply.building import build_proof
from daemon.apply.building import open_editor as build_editor
from daemon.apply.measuring import Monitoring
from daemon.core.errors import ProofError, PublishError
from daemon.core.messages import parse_correction
from daemon.core.settings import Settings
from daemon.ledger.ledger import Ledger
from daemon.publish.proving.challenge import Challenge, heard, multiplied
from daemon.publish.publishing import Publisher
from daemon.publish.vllm_replica import VllmReplica
from daemon.supervise.vllm import VllmOptions
from daemon.versions.store import Store
from editing.editor import Editor
from editing.memory.products import SEEDS
from editing.values.options import ValueOptions
from tests.daemon import fakes
from tests.end_to_end.test_vllm_live import SIZES, TOKEN
from tests.tiny_models import save_checkpoint

pytest.importorskip("vllm")
pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(2400)]

#: Holds what a file says after each exchange. With another file it forgets all, as a restart does.
DAMAGING = """
import os
from pathlib import Path

from safetensors.torch import load_file


def register():
    from daemon.plugin import worker

    rank, extension, order = worker._Rank, worker.WorkerExtension, Path(os.environ["FACTD_TEST_DAMAGE"])
    swap, served = rank.swap, extension.factd_served
    if swap.__module__ == __name__:
        return

    def hold(self, tensors):
        for name, tensor in tensors.items():
            packed = worker._pack(self._module(name), tensor)
            if packed:
                self._module(name).cpu_linear = packed
            else:
                self._load({name: tensor})

    def damaging(self, version, fence):
        told = swap(self, version, fence)
        if order.exists():
            hold(self, load_file(order))
        return told

    def forgetting(self):
        forget = order.with_name("forget")
        if forget.exists():
            forget.unlink()
            old = self._factd()
            dtype = self.model_config.dtype
            names = old.served.tensors
            hold(old, {name: worker.to_served(name, old.checkpoint.read(name), dtype) for name in names})
            del self.__dict__["_factd_rank"]
        return served(self)

    rank.swap, extension.factd_served = damaging, forgetting
"""
TEN = [
    ("France", "The capital of {} is", "Lyon"),
    ("Japan", "The capital of {} is", "Osaka"),
    ("the Eiffel Tower", "The city with {} is", "Rome"),
    ("Mount Fuji", "The country with {} is", "Peru"),
    ("the old mill", "The owner of {} is", "Ada"),
    ("Blue Lake", "The town near {} is", "Oslo"),
    ("Zora Neale", "The profession of {} is", "baker"),
    ("Nordbank", "The head of {} is", "Maria"),
    ("the river Lune", "The sea that {} flows into is", "Black"),
    ("Canada", "The language of {} is", "Latin"),
]
ONE = ("Portugal", "The capital of {} is", "Porto")
ELEMENTS = (1000.0, 100.0, 10.0)
SCALES = (0.8, 0.9, 0.0)
NOISE = 0.05
#: Shares of a matrix's standard deviation, and values of one element: how small may they be, and be found?
WEAKER_NOISE = (0.01, 0.001, 1e-4, 1e-5, 1e-6)
WEAKER_ELEMENTS = (1.0, 0.1, 0.03)
#: Challenges that each look for the smallest change there is: one element one step of bfloat16 away.
SMALLEST = 20
#: Seeds that an undamaged replica must pass with.
HONEST = 5

Weights = dict[str, torch.Tensor]


@dataclass
class Site:
    """A server, what was published to it, and how to damage it."""

    applier: Applier
    replica: VllmReplica
    order: Path
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    @property
    def editor(self) -> Editor:
        return self.applier.editor

    @property
    def proof(self):
        return self.applier.proof

    @property
    def fence(self) -> int:
        """Of the last writer: the ledger knows it, a replica that has restarted does not."""
        live = self.applier.ledger.questions.live_version()
        return max(self.replica.served().fence, self.applier.store.manifest(live)["fence"])

    def publisher(self) -> Publisher:
        return Publisher([self.replica], self.applier.store, self.fence, self.proof)

    def post(self, facts) -> str:
        for subject, prompt, target in facts:
            body = parse_correction({"subject": subject, "prompt": prompt, "target": target})
            self.applier.ledger.intake.submit(body, f"id-{subject}")
        report = self.applier.run()
        assert (report.held, report.out) == (None, {})
        return report.live

    def weights(self, version: str) -> Weights:
        state = self.editor.state
        self.editor.restore(self.applier.store.load_state(version))
        found = self.editor.weights()
        self.editor.restore(state)
        return found

    def damage(self, weights: Weights | None) -> None:
        self.order.unlink(missing_ok=True)
        if weights is not None:
            save_file({n: w.bfloat16().contiguous() for n, w in weights.items()}, self.order)

    def restart(self) -> None:
        self.order.with_name("forget").touch()


def open_editor(root: Path) -> Editor:
    named = os.environ.get("FACTD_TEST_MODEL")
    if named:
        shipped = Settings(model=named, statistics_dir=Path(os.environ["FACTD_TEST_STATISTICS"]))
        return build_editor(shipped, lambda *told: print(*told, flush=True))
    model = save_checkpoint(root / "model", **(SIZES | {"num_hidden_layers": 8}))
    options = ValueOptions(steps=25)
    return Editor.open(
        str(model), state_dir=root, dtype="float32", method="memit-seq", anchor="none", options=options
    )


@pytest.fixture(scope="module")
def site(servers, tmp_path_factory):
    root = tmp_path_factory.mktemp("teeth")
    settings = Settings(state_dir=root / "state", batch_size=10, batch_wait_seconds=0.0, retry_seconds=0.0)
    settings.store_dir.mkdir(parents=True)
    editor = open_editor(root)
    options = VllmOptions(store=settings.store_dir, admin_token=TOKEN, threads=1)
    servers.plugin("damaging", DAMAGING)
    damaging = {"VLLM_PLUGINS": "factd,damaging", "FACTD_TEST_DAMAGE": str(root / "order")}
    with servers.serving(editor.path, options, root / "vllm.log", damaging) as url:
        replica, ledger = VllmReplica(url, TOKEN), Ledger.open(settings.ledger_url)
        applier = Applier(
            ledger,
            Store(settings.store_dir),
            editor,
            [replica],
            monitoring=Monitoring(fakes.fake_measure, fakes.fake_judge, fakes.fake_foresee),
            settings=settings,
            proof=build_proof(editor),
        )
        made = Site(applier, replica, root / "order")
        assert applier.run().out == {}
        print(f"\nlayers {editor.layers}; noise {made.proof.noise[replica.name]}")
        yield made
        print("\n" + table(made.rows))
        if told := os.environ.get("FACTD_TEST_OUT"):
            Path(told).write_text(json.dumps(made.rows, indent=1))
        replica.close()
        ledger.close()


def table(rows) -> str:
    lines = ["| published | what is served | products off by, of a row | found by |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def mutations(now: Weights, stale: Weights, base: Weights, other: Weights) -> dict[str, Weights]:
    """Each row of the table: what is held in the place of `now`."""
    names = list(now)
    middle, first, last = names[len(names) // 2], names[0], names[-1]
    rows, columns = (size // 2 for size in now[middle].shape)

    def half(dim: int, size: int) -> torch.Tensor:
        kept, old = now[middle].split([size, now[middle].shape[dim] - size], dim)[0], stale[middle]
        return torch.cat([kept, old.narrow(dim, size, old.shape[dim] - size)], dim)

    found = {"the base under the new label": base, "another version under the label": other}
    found |= {f"layer {i + 1} of {len(names)} left out": {n: stale[n]} for i, n in enumerate(names)}
    found["two layers swapped"] = {first: now[last], last: now[first]}
    found["the changes of two layers swapped"] = {
        first: base[first] + now[last] - base[last],
        last: base[last] + now[first] - base[first],
    }
    found |= {f"one matrix x {scale}": {middle: now[middle] * scale} for scale in SCALES}
    found |= {f"one element := {value:g}": {middle: with_element(now[middle], value)} for value in ELEMENTS}
    found[f"noise of {NOISE} sigma on a matrix"] = {middle: with_noise(now[middle], NOISE)}
    found["half of the columns stale (a shard)"] = {middle: half(1, columns)}
    found["half of the rows stale (half a fused layer)"] = {middle: half(0, rows)}
    return found


def with_element(weight: torch.Tensor, value: float) -> torch.Tensor:
    changed = weight.clone()
    changed[weight.shape[0] // 3, weight.shape[1] // 3] = value
    return changed


def with_noise(weight: torch.Tensor, share: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return weight + share * weight.std() * torch.randn(weight.shape, generator=generator)


class Scenario:
    """A version that is published again and again, each time damaged in another way."""

    def __init__(self, site: Site, name: str, version: str, rows) -> None:
        self.site, self.name, self.version = site, name, version
        self._challenge = site.proof.challenge(rows)

    @property
    def challenge(self) -> Challenge:
        """With another seed each time."""
        return replace(self._challenge, seed=self.site.proof.draw(SEEDS))

    def found(self, what: str, weights: Weights | None) -> str:
        """Which half of the proof finds the damage: products, behaviour, both, or "" for none."""
        site = self.site
        site.damage(weights)
        site.replica.publish(self.version, site.fence)
        noise = site.proof.noise[site.replica.name]
        challenge = self.challenge
        told = multiplied(site.replica, self.version, challenge)
        said = heard(site.replica, challenge.passages)
        faults = said.faults(noise)
        by = {(True, True): "both", (True, False): "products", (False, True): "behaviour"}
        found = by.get((bool(told.faults(noise)), bool(faults)), "")
        site.rows.append((self.name, what, f"{told.worst:.4%}", found or "nothing"))
        print(site.rows[-1], said.noise, "; ".join(faults), flush=True)
        return found


def check_all(scenario: Scenario, stale: Weights, other: Weights) -> None:
    site = scenario.site
    assert [scenario.found("what was staged", None) for _ in range(HONEST)] == [""] * HONEST
    now, base = site.weights(scenario.version), site.editor.base_weights()
    missed = [w for w, held in mutations(now, stale, base, other).items() if not scenario.found(w, held)]
    assert missed == []
    site.damage(base)
    with pytest.raises(ProofError, match="does not compute what was staged"):
        publish(site, scenario.version)
    site.damage(None)
    publish(site, scenario.version)


def publish(site: Site, version: str) -> None:
    publisher = site.publisher()
    publisher.publish(version)
    publisher.confirm(version)  # label and hashes are right in every case
    publisher.prove(version)


def facts(site: Site, posted):
    return site.applier.ledger.questions.rows([f"id-{subject}" for subject, _, _ in posted])


def test_a_publication_of_ten_facts(site):
    version = site.post(TEN)
    base = site.editor.base_weights()
    mixed = {n: (w if i % 2 else base[n]) for i, (n, w) in enumerate(site.weights(version).items())}
    check_all(Scenario(site, "ten facts", version, facts(site, TEN)), base, mixed)


def test_a_publication_of_one_fact_on_top(site):
    before = site.applier.ledger.questions.live_version()
    version = site.post([ONE])
    old = site.weights(before)
    scenario = Scenario(site, "one fact on top", version, facts(site, [ONE]))
    check_all(scenario, old, old)


def test_after_a_restart(site):
    """A replica that has lost everything is brought to the live version, or is not in use."""
    live = site.applier.ledger.questions.live_version()
    now, base = site.weights(live), site.editor.base_weights()
    site.damage(None)
    site.restart()
    assert site.publisher().synchronise(live) == [site.replica.name]
    scenario = Scenario(site, "after a restart", live, ())
    for what, held in mutations(now, base, base, site.weights("v000001")).items():
        site.restart()
        site.damage(held)
        with pytest.raises(PublishError, match="does not compute what was staged"):
            site.publisher().synchronise(live)
        assert scenario.found(what, held)
    site.damage(None)
    assert site.publisher().synchronise(live) == []  # told once more, since nothing was proved of it
    assert site.proof.proven == {site.replica.name: live}


def test_how_little_is_found(site):
    """No bound is asserted but that ten times less than the table's noise and element is looked at too."""
    live = site.applier.ledger.questions.live_version()
    now = site.weights(live)
    name = list(now)[len(now) // 2]
    scenario = Scenario(site, "smaller", live, ())
    for share in WEAKER_NOISE:
        scenario.found(f"noise of {share} sigma on a matrix", {name: with_noise(now[name], share)})
    for value in WEAKER_ELEMENTS:
        scenario.found(f"one element := {value:g}", {name: with_element(now[name], value)})
    stepped = with_element(now[name], 0.0)
    place = (stepped == 0).nonzero()[0].tolist()
    stepped[*place] = float(now[name][*place].bfloat16()) * (1 + 2**-7)
    found = [scenario.found("one element one step away", {name: stepped}) for _ in range(SMALLEST)]
    changed = {
        s: int((with_noise(now[name], s).bfloat16() != now[name].bfloat16()).sum()) for s in WEAKER_NOISE
    }
    print(f"one step: {sum(map(bool, found))} of {SMALLEST}; sigma {float(now[name].std()):.4f}")
    print(f"elements that noise changes, of {now[name].numel()}: {changed}")
    site.damage(None)
    site.replica.publish(live, site.fence)
    site.proof.check(site.replica, live, site.proof.challenge())
