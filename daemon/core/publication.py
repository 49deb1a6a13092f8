"""Constants that the applier and a replica must agree on; both import them from here."""

from typing import Literal

#: the unedited model
BASE_VERSION = "v000000"
#: A replica says this after a restart: it serves the base weights, and nobody has told it a version yet.
UNPUBLISHED = "default"
#: A replica that takes longer to publish a version counts as hung. It reads and hashes every tensor first.
PUBLISH_SECONDS = 300.0
#: A replica that takes longer to answer a question of the applier counts as slow.
ANSWER_SECONDS = 60.0
#: What a server does with requests between its start and the first publication, see docs/serving.md.
BeforeLive = Literal["wait", "refuse", "serve"]
#: "wait" waits so long by default: an apply worker that prepares a model anew takes minutes.
BEFORE_LIVE_SECONDS = 600.0
#: What happens to running requests when a version is flipped, see docs/serving.md.
InFlight = Literal["carry", "keep", "wait", "abort"]
IN_FLIGHT: InFlight = "carry"
#: "wait" waits so long by default: on a GPU most answers end in this time. New requests wait meanwhile.
IN_FLIGHT_SECONDS = 10.0
#: The most that can be set: new requests wait meanwhile, and no client waits longer than this.
IN_FLIGHT_MOST_SECONDS = 600.0
