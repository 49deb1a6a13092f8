"""What the applier and a replica say to each other about a version; both ends import it, so they agree."""

from typing import Literal

#: the unedited model
BASE_VERSION = "v000000"
#: a replica that restarted says this: it serves the base weights, and nobody told it so
UNPUBLISHED = "default"
#: staging reads and hashes every tensor of a version
PUBLISH_SECONDS = 300.0
#: what becomes of requests that run when a version is flipped, see docs/serving.md
InFlight = Literal["keep", "wait", "abort"]
#: how long "wait" waits by default: most answers end in this time on a GPU, and new requests wait for it
IN_FLIGHT_SECONDS = 10.0
#: New requests wait while running ones end: for longer than this nobody would hold them.
IN_FLIGHT_MOST_SECONDS = 600.0
