"""What is asked on this host is asked of it, and of no proxy."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from daemon.cli.demo.client import LiveServer
from daemon.supervise.doctor import check_url
from daemon.supervise.processes import answers


class Server(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"version": "v000001"}')

    def log_message(self, *_):
        pass


@pytest.fixture
def url(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_proxy_in_the_environment_is_not_asked_and_gets_no_token(url):
    assert answers(url)
    assert check_url("API", url, "").ok
    server = LiveServer(url, "m")
    assert server.served("admin-token") == {"version": "v000001"}
    server.close()
