"""Tiny models on real servers: each way in which families differ, two ranks, and a quantised copy.

A second plugin, for one server only, breaks one rank when a file says so.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.families.measured import (
    ADMIN_TOKEN,
    CORRECTIONS,
    SIZES,
    VECTORS,
    Watched,
    edited,
    one,
    server_options,
)
from benchmarks.families.tiny import save_checkpoint
from benchmarks.shipped.applying import ShippedDaemon
from daemon.core.lifecycle import OperationKind, State
from daemon.core.publication import BASE_VERSION
from daemon.publish.serving import ServingError
from daemon.publish.vllm_replica import VllmReplica
from daemon.versions.export import export
from daemon.versions.store import Store
from editing.model.loaded import outlined_model
from tests.waiting import until

pytest.importorskip("vllm")
pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

#: A family of each kind; `factd bench families` runs all.
KINDS = {
    "gpt2": "stored transposed, and turned by vLLM's loader",
    "gpt_neox": "served by transformers' code, under other names",
    "phi3": "other matrices are stored fused",
    "granite": "the MLP's output is multiplied before it is added",
    "qwen3": "plain",
}
#: Two ranks; the order is what and which rank.
ORDER = "FACTD_TEST_ORDER"
FAULTY = f"""
import os
import signal
from pathlib import Path


def register():
    from daemon.plugin import worker as plugin

    order, stage, swap = Path(os.environ["{ORDER}"]), plugin._Rank._stage, plugin._Rank.swap
    if stage.__module__ == __name__:
        return

    def told(rank, what):
        return order.exists() and order.read_text() == f"{{what}} {{rank.worker.rank}}"

    def faulty_stage(self, *arguments):
        sound = self.checkpoint
        if told(self, "stage"):
            self.checkpoint = plugin.Checkpoint(Path("/nowhere"))
        try:
            return stage(self, *arguments)
        finally:
            self.checkpoint = sound

    def faulty_swap(self, *arguments):
        if told(self, "swap"):
            os.kill(os.getpid(), signal.SIGKILL)
        return swap(self, *arguments)

    plugin._Rank._stage, plugin._Rank.swap = faulty_stage, faulty_swap
"""


@pytest.fixture(scope="module")
def order(servers) -> Path:
    servers.plugin("faulty_rank", FAULTY)
    return servers.root / "order"


def faulty(order: Path) -> dict[str, str]:
    return {"VLLM_PLUGINS": "factd,faulty_rank", ORDER: str(order)}


@pytest.mark.parametrize("family", KINDS)
def test_a_family_is_served_as_it_was_edited_and_comes_back_bit_for_bit(servers, tmp_path, family):
    row = one(family, tmp_path / "root", servers, tmp_path / "vllm.log")
    print(f"\n{row}")
    assert row["reason"] is None
    assert all(row[name] for name in ("edited", "served", "published", "proof", "rollback_bit_equal"))


def test_an_unknown_family_is_a_row_with_its_reason(servers, tmp_path):
    row = one("mamba", tmp_path / "root", servers, tmp_path / "vllm.log")
    assert not row["served"]
    assert "'mamba' is not known" in row["reason"]


def test_two_ranks_publish_together_or_not_at_all(servers, order, tmp_path):
    root = tmp_path / "root"
    model = save_checkpoint(root / "model", "llama", vectors=VECTORS, **SIZES)
    editor = edited(model, root / "state", "llama")
    options = server_options(root, editor.base_hash, ("--tensor-parallel-size", "2"))
    with servers.serving(model, options, tmp_path / "vllm.log", faulty(order)) as url:
        replica = VllmReplica(url, ADMIN_TOKEN)
        state = root / "state"
        daemon = ShippedDaemon(state, state, editor, batch=len(CORRECTIONS), guard=False, replica=replica)
        watched, row = Watched(editor, daemon, replica), {}
        watched.run(row)
        assert row["proof"]
        assert row["rollback_bit_equal"]
        base, fence = replica.log_probs(watched.passages), replica.served().fence
        order.write_text("stage 1")
        with pytest.raises(ServingError, match="has no tensor"):
            replica.publish("v000001", fence)
        assert replica.served().version == BASE_VERSION
        assert replica.log_probs(watched.passages) == base
        order.write_text("swap 1")
        with pytest.raises(ServingError):
            replica.publish("v000001", fence)
        until(lambda: not replica.healthy())  # nobody is answered from one new and one old half
        order.unlink()
        daemon.close()
        replica.close()


def test_a_quantised_copy_is_edited_live_and_comes_back_bit_for_bit(servers, tmp_path):
    root = tmp_path / "root"
    model = save_checkpoint(root / "model", "llama", vectors=VECTORS, **SIZES)
    editor = edited(model, root / "state", "llama")
    outline, copy = outlined_model(str(model), root / "state"), root / "copy"
    export(outline, Store(root / "empty"), BASE_VERSION, copy, floating=editor.tensor_names)
    # On a processor with AMX this vLLM ends at the first token of an 8-bit model served in float32.
    options = replace(server_options(root, editor.base_hash), dtype="bfloat16")
    with servers.serving(copy, options, tmp_path / "vllm.log") as url:
        replica = VllmReplica(url, ADMIN_TOKEN)
        state = root / "state"
        daemon = ShippedDaemon(state, state, editor, batch=len(CORRECTIONS), guard=False, replica=replica)
        daemon.step([])
        watched = Watched(editor, daemon, replica)
        base = replica.log_probs(watched.passages)
        daemon.step([(f"c{i}", correction) for i, correction in enumerate(CORRECTIONS)])
        assert len(daemon.ids(State.LIVE)) == len(CORRECTIONS), watched.why()
        assert replica.log_probs(watched.passages) != base
        daemon.ledger.intake.request(OperationKind.ROLLBACK, BASE_VERSION, actor="operator", why="test")
        daemon.step([])
        assert replica.log_probs(watched.passages) == base
        daemon.close()
        replica.close()
