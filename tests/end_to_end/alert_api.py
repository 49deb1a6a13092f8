"""The HTTP API with uvicorn on a ledger whose one replica is the file of a `DiskServing`.

Usage: alert_api.py STATE_DIR PORT; FACTD_ADMIN_TOKEN is set. What /v1/alerts is sent and answers is
appended to STATE_DIR/alerts.jsonl, with the time.
"""

import json
import sys
import time
from pathlib import Path

import uvicorn

from daemon.core.settings import Settings
from daemon.http.api import create_app
from daemon.ledger.ledger import Ledger
from daemon.publish.serving import Reports, Served


class FileReplica(Reports):
    """The half of a `DiskServing` that the API asks; that one needs torch, which takes seconds to load."""

    name = "disk"

    def __init__(self, file: Path) -> None:
        self.file = file

    def served(self) -> Served:
        if not self.file.exists():
            return Served("default", 0)
        memory = json.loads(self.file.read_text())
        return Served(memory["version"], memory["fence"])

    def healthy(self) -> bool:
        return True


class Transcript:
    """Wraps an ASGI application and writes the alerts down."""

    def __init__(self, app, file: Path) -> None:
        self.app, self.file = app, file

    async def __call__(self, scope, receive, send) -> None:
        if scope.get("path") != "/v1/alerts":
            await self.app(scope, receive, send)
            return
        asked, answered = bytearray(), bytearray()

        async def heard():
            message = await receive()
            asked.extend(message.get("body", b""))
            return message

        async def said(message):
            answered.extend(message.get("body", b""))
            await send(message)

        await self.app(scope, heard, said)
        entry = {"at": time.time(), "alerts": json.loads(asked)["alerts"], "answers": json.loads(answered)}
        with self.file.open("a") as out:
            out.write(json.dumps(entry) + "\n")


def main(state: Path, port: int) -> None:
    settings = Settings(state_dir=state, guard_cooldown_seconds=1)
    replicas = [FileReplica(state / "replica.json")]
    app = create_app(settings, Ledger.open(settings.ledger_url), replicas, ring=lambda: None)
    uvicorn.run(Transcript(app, state / "alerts.jsonl"), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
