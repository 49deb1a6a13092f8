"""Damaged files: any byte of a version, any end of the ledger's write-ahead log."""

import shutil
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from daemon.core.errors import StoreError
from daemon.core.messages import parse_correction
from daemon.ledger.audit import audit
from daemon.ledger.ledger import Ledger
from daemon.plugin.staging import Checkpoint, Held, StagingError, admit, stage_version

quick = settings(max_examples=25, deadline=None)
bits = st.integers(1, 255)


FILES = ["manifest.json", "factors.safetensors", "facts.safetensors"]


@pytest.mark.parametrize(
    ("version", "name"),
    [*((v, name) for v in ("v000001", "v000002") for name in FILES), ("v000002", "added.safetensors")],
)
def test_a_damaged_byte_is_refused_or_changes_nothing(world, version, name):
    world.post("France", "Lyon")
    world.run()
    world.post("Spain", "Vigo")
    assert world.run().live == "v000002"
    save_file({world.fakes.NAME: world.editor.base}, world.root / "model.safetensors")
    served, store = Checkpoint(world.root), world.settings.store_dir
    parent = Held()
    stage_version(store, admit(store, "v000001", 10**6, None, set()), served, torch.float32, parent)
    facts, columns, hashes = (
        world.editor.state.facts,
        world.editor.state.columns,
        world.editor.weight_hashes(),
    )
    file = world.store.path(version) / name
    sound = file.read_bytes()

    @quick
    @given(st.integers(0, len(sound) - 1), bits)
    def damage(place, flip):
        file.write_bytes(sound[:place] + bytes([sound[place] ^ flip]) + sound[place + 1 :])
        world.close()
        world.open()
        with suppress(StoreError):
            world.run()
            assert world.editor.state.facts == facts
            assert world.editor.weight_hashes() == hashes
            for column, values in columns.items():
                assert torch.equal(world.editor.state.columns[column], values)
        for held in (Held(), replace(parent)):
            with suppress(StagingError):
                manifest = admit(store, "v000002", 10**6, world.editor.base_hash, set())
                assert stage_version(store, manifest, served, torch.float32, held).sha256 == hashes

    damage()
    file.write_bytes(sound)
    world.open()
    assert world.run().versions == []
    world.check_agreement()


def test_of_a_cut_or_damaged_log_what_stands_before_the_fault_stays(tmp_path):
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    with ledger.database.engine.connect().execution_options(factd_write=False) as c:
        c.exec_driver_sql("ROLLBACK")
        c.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    log = tmp_path / "ledger.sqlite3-wal"
    ends = []
    for number in range(5):
        body = {"subject": f"S{number}", "prompt": "The capital of {} is", "target": "t"}
        ledger.intake.submit(
            parse_correction(body | {"paraphrases": ["x" * 900] * 3 * number}), f"id-{number}"
        )
        ends.append(log.stat().st_size)
    base, whole = (tmp_path / "ledger.sqlite3").read_bytes(), log.read_bytes()
    ledger.close()

    @quick
    @given(st.integers(0, len(whole)), bits | st.none())
    def damage(place, flip):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        (copy / "ledger.sqlite3").write_bytes(base)
        rest = b"" if flip is None or place == len(whole) else bytes([whole[place] ^ flip])
        rest += whole[place + 1 :] if rest else b""
        (copy / "ledger.sqlite3-wal").write_bytes(whole[:place] + rest)
        opened = Ledger.open(f"sqlite:///{copy / 'ledger.sqlite3'}")
        ids = [row.id for row in opened.questions.corrections()]
        assert ids == [f"id-{number}" for number in range(len(ids))]
        assert len(ids) >= sum(end <= place for end in ends)
        assert audit(opened.database.engine).valid
        again = parse_correction({"subject": "S0", "prompt": "The capital of {} is", "target": "t"})
        assert opened.intake.submit(again, "id-0") == "id-0"
        opened.close()

    damage()
