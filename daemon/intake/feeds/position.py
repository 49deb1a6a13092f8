"""How far a stream was followed: a small file in the state directory."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from daemon.core.errors import SettingsError
from daemon.core.shapes import is_object
from daemon.intake.feeds.records import digest
from daemon.versions.durable import sync_directory, write_synced


@dataclass(frozen=True)
class Position:
    """The last event of one address that the ledger has."""

    file: Path
    url: str

    @classmethod
    def of(cls, state_dir: Path, url: str) -> "Position":
        return cls(state_dir / "feeds" / f"{digest(url)}.json", url)

    def load(self) -> str:
        """The id of the event; "" before the first.

        Raises:
            SettingsError: the file was damaged by somebody else: we write it as a whole.
        """
        try:
            found = json.loads(self.file.read_text("utf-8"))
        except FileNotFoundError:
            return ""
        except ValueError:
            found = None
        if not is_object(found) or not isinstance(found.get("last_event_id"), str):
            raise SettingsError(
                f"{self.file} does not hold a position; remove it to follow {self.url} from now on"
            )
        return found["last_event_id"]

    def save(self, last_event_id: str) -> None:
        """Durable when it returns. A crash leaves the old position or the new one."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.file.with_suffix(".new")
        body = {"url": self.url, "last_event_id": last_event_id}
        write_synced(fresh, json.dumps(body).encode())
        os.replace(fresh, self.file)
        sync_directory(self.file.parent)
