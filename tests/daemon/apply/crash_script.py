"""Runs of the applier that kill themselves, each in a fork of this process: it has imported everything.

An order is a line of JSON: {"root", "stage", "after", "world"}. The run begins `after` seconds later, in a
world that is made with `world` besides. It is answered with the fork's exit status.
"""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import conftest


def run(order):
    world = conftest.World(Path(order["root"]), batch_size=4, **order["world"])
    world.now += order["after"]

    def die(stage):
        if stage == order["stage"]:
            os.kill(os.getpid(), signal.SIGKILL)

    world.applier.reached = die
    world.run()


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            run(json.loads(line))
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
