"""Messages in hand of a worker that was killed, on a real Valkey."""

import pytest
from kombu import Connection

from daemon.core.names import MAIN
from daemon.intake.doorbell import Doorbell
from daemon.intake.posting import post, producer
from daemon.intake.redelivery import give_back
from daemon.supervise.embedded import EmbeddedValkey
from daemon.supervise.processes import free_port

GOOD = {"subject": "France", "prompt": "The capital of {} is", "target": "Lyon"}


@pytest.fixture
def broker(tmp_path):
    with EmbeddedValkey(tmp_path / "valkey") as valkey:
        yield valkey.url


def test_what_a_killed_worker_had_in_hand_is_taken_first_and_in_its_order(broker):
    app = producer(broker)
    ids = post(app, [GOOD] * 4)
    Doorbell(app).ring()
    with Connection(broker) as killed, Connection(broker) as next_worker:
        hand, channel = killed.channel(), next_worker.channel()
        for queue in ("corrections", "corrections", "apply"):
            assert hand.basic_get(queue) is not None
        assert give_back(channel, "corrections") == 2
        taken = [channel.basic_get("corrections") for _ in ids]
        assert [message.headers["id"] for message in taken] == ids
        assert channel.basic_get("corrections") is None
        for message in taken:
            message.ack()
        assert give_back(channel, "corrections") == 0
        assert give_back(channel, "apply") == 1
    app.close()


def test_a_bell_that_cannot_be_rung_is_told_and_is_no_fault_of_the_correction(caplog):
    doorbell = Doorbell.of(f"redis://127.0.0.1:{free_port()}/0", MAIN)
    doorbell.ring()
    doorbell.close()
    assert "could not be rung" in caplog.text
    told = []
    doorbell = Doorbell.of(f"redis://127.0.0.1:{free_port()}/0", MAIN, told.append)
    doorbell.ring()
    doorbell.close()
    assert "the apply worker looks by itself" in told[0]
