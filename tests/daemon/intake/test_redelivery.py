"""Messages in hand of a worker that was killed, on a real Valkey."""

import pytest
from kombu import Connection

from daemon.intake.posting import post, producer, ring
from daemon.intake.redelivery import give_back
from daemon.supervise.embedded import EmbeddedValkey, free_port

GOOD = {"subject": "France", "prompt": "The capital of {} is", "target": "Lyon"}


@pytest.fixture
def broker(tmp_path):
    with EmbeddedValkey(tmp_path / "valkey") as valkey:
        yield valkey.url


def test_what_a_killed_worker_had_in_hand_is_taken_first_and_in_its_order(broker):
    app = producer(broker)
    ids = post(app, [GOOD] * 4)
    ring(app)
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
    from daemon.tasks import ring as ring_from_a_worker

    app = producer(f"redis://127.0.0.1:{free_port()}/0")
    ring_from_a_worker(app)
    assert "could not be rung" in caplog.text
    app.close()
