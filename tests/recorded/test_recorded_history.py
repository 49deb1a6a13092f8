"""A history recorded with the code of an older commit is opened, goes on, and is replayed to the same bits.

What is recorded: the inputs, the state directory that they left, and what was said of it then
(`make_e99f132.py`). The same bits come out only of the same sums, so `kernels.ONE_PROCESSOR` pins the
kernels of ATen and of MKL and the number of threads: each of the three by itself changed every hash of this
history on one processor, by at most 5e-6 of an update's length. What is not pinned is the processor and the
release of torch. On one Emerald Rapids all bits were others, 1.4e-6 apart, with code that gave the recorded
bits elsewhere; on which processor they were recorded nobody wrote down. So where bits differ, the replayed
weights are compared within `APART`, and the reason is printed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recorded.kernels import ONE_PROCESSOR

HERE = Path(__file__).parent
HISTORY = "e99f132"
RECORDED = json.loads((HERE / f"{HISTORY}.json").read_text())
#: Of an update's length: some twenty times what other kernels did to it.
APART = 1e-4
#: Of a manifest. What was measured and judged may get new names, and the settings' hash covers new settings;
#: a file's hash differs from run to run, for safetensors writes a header's metadata in any order.
REPLAYED = (
    "version",
    "parent",
    "base_hash",
    "snapshot",
    "facts_added",
    "facts_removed",
    "fence",
    "created",
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    work = tmp_path_factory.mktemp("recorded")
    own = {name: value for name, value in os.environ.items() if not name.startswith("FACTD_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.recorded.today", HISTORY, str(work)],
        cwd=HERE.parents[1],
        env=own | ONE_PROCESSOR,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((work / "found.json").read_text())


def weights(told):
    """(version, weight) → sha256, as the manifests say."""
    manifests = told["manifests"].items()
    return {(id, name): tensor["sha256"] for id, m in manifests for name, tensor in m["tensors"].items()}


def differences(then, now):
    """Which weight of which version has other bits."""
    return [
        f"{version} {weight}: recorded {sha256[:12]}, replayed {str(now.get((version, weight)))[:12]}"
        for (version, weight), sha256 in then.items()
        if now.get((version, weight)) != sha256
    ]


def by_row(transitions):
    """Those of one moment by what they tell of: a rollback leaves its versions in no certain order."""
    return sorted(transitions, key=lambda t: (t[-1], t[0], t[1]))


def of(fields, recorded):
    """The fields that were recorded; today's code may say more."""
    if isinstance(recorded, dict) and isinstance(fields, dict):
        return {name: of(fields.get(name), value) for name, value in recorded.items()}
    if isinstance(recorded, list) and isinstance(fields, list) and len(fields) == len(recorded):
        return [of(one, then) for one, then in zip(fields, recorded, strict=True)]
    return fields


def test_the_command_line_says_of_the_directory_what_it_said_then(found):
    then, now = RECORDED["told"]["asked"], found["opened"]["asked"]
    assert {question: of(now[question], then[question]) for question in then} == then


def test_ledger_and_manifests_are_read_as_they_were_written(found):
    then = {name: RECORDED["told"][name] for name in ("live", "manifests", "states", "transitions")}
    assert {name: found["opened"][name] for name in then} == then


def test_replicas_stage_every_old_version(found):
    staged = {(id, name): sha for id, each in found["opened"]["staged"].items() for name, sha in each.items()}
    assert staged == weights(RECORDED["told"])


def test_the_directory_goes_on(found):
    then, now = RECORDED["told"], found["went_on"]
    # What was written and not yet served is rolled forward as it was; the rollbacks lead to the old bits.
    assert now["manifests"].keys() - then["manifests"].keys() == {"v000010", "v000011", "v000012"}
    assert differences(weights(then), weights(now)) == []
    hashes = weights(now)
    for version, run in zip(
        ["v000010", "v000011", "v000012", "v000006", "v000001"], now["runs"], strict=True
    ):
        assert run == {name: sha for (id, name), sha in hashes.items() if id == version}, version
    assert now["live"] == "v000001"
    assert now["states"]["well"] == now["states"]["yard"] == now["states"]["dock"] == "rolled_back"
    assert now["states"]["mill"] == "live"
    assert now["transitions"][: len(then["transitions"])] == then["transitions"]
    assert now["audit"]["valid"]
    assert now["audit"]["rows"] == len(now["transitions"])


def test_the_inputs_are_replayed_to_the_same_ledger(found):
    then, now = RECORDED["told"], found["replayed"]
    assert now["states"] == then["states"]
    assert by_row(now["transitions"]) == by_row(then["transitions"])
    assert now["live"] == then["live"]
    assert now["audit"]["valid"]


def test_the_inputs_are_replayed_to_the_same_bits(found):
    then, now = RECORDED["told"], found["replayed"]
    if not differences(weights(then), weights(now)):
        assert now["runs"] == then["runs"]
        assert now["unlike"] == {version: [] for version in then["manifests"]}
        for version, manifest in then["manifests"].items():
            replayed = now["manifests"][version]
            assert {name: replayed[name] for name in REPLAYED} == {name: manifest[name] for name in REPLAYED}
    else:
        print(f"recorded on {RECORDED['made_on']}, replayed on {found['made_on']}: compared within {APART}")
        far = [(apart, id, name) for id, each in now["apart"].items() for name, apart in each.items()]
        assert max(far)[0] <= APART, max(far)
