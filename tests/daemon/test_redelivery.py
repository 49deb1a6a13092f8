"""Messages in hand of a worker that was killed, on a real Valkey."""

import pytest
from kombu import Connection

from daemon.embedded import EmbeddedValkey
from daemon.posting import post, producer, ring
from daemon.redelivery import give_back

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
