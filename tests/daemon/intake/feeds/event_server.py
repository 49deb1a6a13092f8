"""A real HTTP server of server-sent events on this host that cuts its connections."""

import json
import random
import socket
import struct
import threading
from contextlib import contextmanager


class EventServer:
    """Serves a list of events from behind Last-Event-ID, a few bytes at a time.

    Attributes:
        cuts: how many connections are still to be cut, at a place drawn by chance; the next one is served to
            its end, and after that the answer is 204: no more.
        asked: Last-Event-ID of each request.
    """

    def __init__(self, bodies, cuts, seed=7, refuse=()):
        self.events = [f"id: {n}\ndata: {json.dumps(body)}\n\n".encode() for n, body in enumerate(bodies)]
        self.cuts, self.asked, self.refuse = cuts, [], list(refuse)
        self._chance = random.Random(seed)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/events"
        self._done = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self):
        self._done = True
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self):
        while not self._done:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self._answer(connection)

    def _answer(self, connection):
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(4096)
        lines = request.decode().lower().split("\r\n")
        last = next((line.partition(": ")[2] for line in lines if line.startswith("last-event-id")), "")
        self.asked.append(last)
        if self.refuse:
            connection.sendall(f"HTTP/1.1 {self.refuse.pop(0)} No\r\nContent-Length: 0\r\n\r\n".encode())
            return
        left = self.events[int(last) + 1 if last else 0 :]
        if not left:
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        chunked = self._chance.random() < 0.5
        kind = b"Transfer-Encoding: chunked" if chunked else b"Connection: close"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + kind + b"\r\n\r\n"
        connection.sendall(head if chunked else head + b": hello\n\n")
        self._send(connection, b"".join(left), chunked)

    def _send(self, connection, body, chunked):
        end = len(body)
        if self.cuts:
            self.cuts -= 1
            end = self._chance.randrange(min(len(body), 900))
        place = 0
        while place < end:
            piece = body[place : min(end, place + self._chance.randrange(1, 400))]
            place += len(piece)
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        if end == len(body):
            if chunked:
                connection.sendall(b"0\r\n\r\n")
        elif self._chance.random() < 0.5:
            # A reset in place of an end: what is on the way may be lost.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def serving(bodies, cuts=0, **more):
    server = EventServer(bodies, cuts, **more)
    try:
        yield server
    finally:
        server.close()
