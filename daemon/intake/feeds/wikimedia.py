"""Wikimedia's stream of recent changes: edits of Wikidata as corrections.

    factd follow https://stream.wikimedia.org/v2/stream/recentchange --mapping wikimedia --labels labels.tsv

An event tells which statement of an item was set or removed, by numbers: item, property, value. A file of
labels gives the words. What it does not name, and everything that is no edit of such a statement, is skipped.

Source: https://wikitech.wikimedia.org/wiki/Event_Platform/EventStreams; schema mediawiki/recentchange/1.0.0.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.core.errors import CorrectionError, SettingsError
from daemon.core.messages import parse_json
from daemon.core.shapes import is_object
from daemon.intake.feeds.records import Change, Entry, Told, told
from daemon.intake.feeds.server_sent import Event
from daemon.intake.reading.lexicon import Lexicon

#: Property of Wikidata → relation of the lexicon; those that hold one value at a time.
PROPERTIES = {
    "P26": "spouse",
    "P35": "head_of_state",
    "P36": "capital",
    "P38": "currency",
    "P54": "team",
    "P98": "editor",
    "P102": "political_party",
    "P108": "employer",
    "P115": "home_ground",
    "P123": "publisher",
    "P127": "owner",
    "P137": "operator",
    "P159": "headquarters",
    "P169": "chief_executive",
    "P176": "manufacturer",
    "P178": "developer",
    "P286": "head_coach",
    "P348": "latest_version",
    "P449": "broadcaster",
    "P488": "chairperson",
    "P551": "residence",
    "P634": "captain",
    "P749": "parent_organisation",
    "P1037": "director",
    "P1075": "rector",
    "P1082": "population",
    "P3975": "secretary_general",
}
#: Events that only show that a stream is alive.
CANARY = "canary"
#: The comment that Wikidata writes for an edit: what was done, the property, the value.
_COMMENT = re.compile(
    r"/\* (?P<action>wb[a-z]+)(?:-[a-z]+)?:[^*]*\*/ \[\[Property:(?P<property>P\d+)\]\]: (?P<value>.+)"
)
_ITEM = re.compile(r"\[\[(?::?d:)?(?P<item>Q\d+)(?:\|[^\]]*)?\]\]")
SET = frozenset({"wbsetclaim", "wbcreateclaim", "wbsetclaimvalue"})
REMOVED = frozenset({"wbremoveclaims"})


@dataclass(frozen=True)
class RecentChanges:
    """A mapping of events; see `daemon.intake.feeds.following`.

    Attributes:
        labels: item → its words.
    """

    lexicon: Lexicon
    labels: Mapping[str, str]

    def __call__(self, event: Event) -> Entry | None:
        try:
            change = parse_json(event.data or "null")
        except CorrectionError as error:
            return error
        if not is_object(change) or change.get("wiki") != "wikidatawiki" or change.get("type") != "edit":
            return None
        meta = change.get("meta")
        if not is_object(meta) or meta.get("domain") == CANARY or not isinstance(meta.get("id"), str):
            return None
        fields = self._fields(change)
        if fields is None:
            return None
        found = told(fields, None)
        # Not the stream's own id, which is a position and may be another one for the same edit.
        return found.keyed(f"wikimedia:{meta['id']}"[:200]) if isinstance(found, Told) else found

    def _fields(self, change: Mapping[str, Any]) -> dict[str, Any] | None:
        said = _COMMENT.fullmatch(str(change.get("comment", "")).strip())
        subject = self.labels.get(str(change.get("title")))
        relation = self.lexicon.relations.get(PROPERTIES.get(said["property"], "")) if said else None
        if said is None or subject is None or relation is None or said["action"] not in SET | REMOVED:
            return None
        item = _ITEM.fullmatch(said["value"])
        target = self.labels.get(item["item"]) if item else said["value"]
        if target is None:
            return None
        fields: dict[str, Any] = {"subject": subject, "prompt": relation.prompts[0], "target": target}
        removed = said["action"] in REMOVED
        more = {"change": Change.OBSOLETE} if removed else {"questions": relation.questions[:1]}
        return fields | more | {"source": "wikidata"}


def read_labels(file: Path) -> dict[str, str]:
    """Item → words, from lines such as `Q142<TAB>France`.

    Raises:
        SettingsError: the file cannot be read, or a line is of another form.
    """
    found: dict[str, str] = {}
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--labels {file} cannot be read ({error}); give a readable UTF-8 file") from None
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        item, tab, words = line.strip().partition("\t")
        if not line.strip():
            continue
        if not tab or not re.fullmatch(r"Q\d+", item) or not words.strip():
            raise SettingsError(
                f"--labels {file}, line {number}: write an item, a tab and its words: Q142\tFrance"
            )
        found[item] = words.strip()
    return found
