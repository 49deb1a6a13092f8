"""Server-sent events: bytes of a response into events.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

#: An event with more data than this is given without its data, bytes: the rest of the stream can still be
#: read.
MOST_BYTES = 2**20


@dataclass(frozen=True)
class Event:
    """One event.

    Attributes:
        id: the last id that the server has given, with this event or before; "" when it gives none.
        place: how many events came since then; 0 for the one with the id.
        data: None when it was longer than MOST_BYTES.
    """

    id: str
    kind: str
    data: str | None
    place: int = 0


@dataclass
class Parser:
    """Takes bytes as they come and gives the events that are whole.

    Attributes:
        last_id: what is sent as Last-Event-ID when the connection is made anew.
        retry_seconds: how long the server wants a client to wait before that; None when it says nothing.
    """

    last_id: str = ""
    retry_seconds: float | None = None
    _rest: bytes = b""
    _kind: str = ""
    _data: list[str] | None = field(default_factory=list[str])
    _size: int = 0
    _begun: bool = False
    _place: int = -1

    def feed(self, chunk: bytes) -> Iterator[Event]:
        self._rest += chunk
        if not self._begun and len(self._rest) >= 3:
            self._rest, self._begun = self._rest.removeprefix(b"\xef\xbb\xbf"), True
        *whole, self._rest = self._split(self._rest)
        if len(self._rest) > MOST_BYTES:  # a line without an end: its event loses its data
            self._rest, self._data = self._rest[:1], None
        for line in whole:
            event = self._line(line.decode("utf-8", "replace"))
            if event is not None:
                yield event

    @staticmethod
    def _split(text: bytes) -> list[bytes]:
        """Lines end with CRLF, LF or CR; a CR at the end may be half of a CRLF, and waits."""
        held = b"\r" if text.endswith(b"\r") else b""
        body = text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = body.split(b"\n")
        lines[-1] += held
        return lines

    def _line(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data" and self._data is not None:
            self._size += len(value) + 1
            if self._size > MOST_BYTES:
                self._data = None
            else:
                self._data.append(value)
        elif name == "event":
            self._kind = value
        elif name == "id" and "\0" not in value:
            self.last_id, self._place = value, -1
        elif name == "retry" and value.isascii() and value.isdecimal():
            self.retry_seconds = int(value) / 1000
        return None

    def _dispatch(self) -> Event | None:
        data, kind = self._data, self._kind
        self._data, self._kind, self._size = [], "", 0
        if data == []:
            return None  # a comment, or an id alone
        self._place += 1
        text = None if data is None else "\n".join(data)
        return Event(self.last_id, kind or "message", text, self._place)
