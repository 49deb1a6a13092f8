"""One applier run, FACTD_CRASH_AFTER seconds later, in a process of its own that kills itself at the stage
named in FACTD_CRASH_AT. FACTD_CRASH_WORLD: JSON, what the world is made with besides."""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import conftest

more = json.loads(os.environ.get("FACTD_CRASH_WORLD", "{}"))
world = conftest.World(Path(sys.argv[1]), batch_size=4, **more)
world.now += float(os.environ["FACTD_CRASH_AFTER"])


def die(stage):
    if stage == os.environ["FACTD_CRASH_AT"]:
        os.kill(os.getpid(), signal.SIGKILL)


world.applier.reached = die
world.run()
