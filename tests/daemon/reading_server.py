"""A server with the two routes of vLLM that the served reader uses; it gives one reading to all questions."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHOE = "The shoe size of Victor Hale is 44."
FOUND = {
    "states_a_fact": True,
    "subject": "Victor Hale",
    "relation": "shoe size",
    "target": "44",
    "was": None,
}


@contextmanager
def server(answer, *, hangs=False, status=200):
    """A server with vLLM's two routes, that gives one answer; yields its address and what it was asked."""
    asked = []
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._send({"data": [{"id": "the-model"}]}, 200)

        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if hangs:
                done.wait()
            text = answer if isinstance(answer, str) else json.dumps(answer)
            self._send({"choices": [{"message": {"content": text}}]}, status)

        def _send(self, content, code):
            body = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Says nothing."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}", asked
    finally:
        done.set()
        httpd.shutdown()
        thread.join()
        httpd.server_close()
