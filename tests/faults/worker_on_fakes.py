"""A real Celery worker whose model and replica are stand-ins: FACTD_STATE_DIR holds a World.

With FACTD_TEST_LINGER it leaves a file `lingering` at that stage and goes on two seconds later."""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from daemon.app import celery, services
from tests.daemon.conftest import World

world = World(Path(os.environ["FACTD_STATE_DIR"]))
world.now = time.time()


def linger(stage):
    if stage == os.environ.get("FACTD_TEST_LINGER"):
        (world.root / "lingering").touch()
        time.sleep(2)


world.applier.reached = linger
vars(services)["applier"] = world.applier
celery.worker_main(["worker", "-Q", "corrections,apply", "-P", "solo", *sys.argv[1:]])
