"""Clients of the live vLLM server: questions, and a stream of requests."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

#: Free generation: as many tokens as a short answer needs.
ANSWER_TOKENS = 12
REQUEST_SECONDS = 60.0
#: A traffic client's pause between two requests, and tokens of an answer: editing needs most of two cores.
TRAFFIC_PAUSE_SECONDS = 0.5
TRAFFIC_TOKENS = 4


class LiveServer:
    """Asks the served model, greedily.

    Args:
        key: FACTD_SERVING_API_KEY, where the server asks for one.
    """

    def __init__(self, url: str, model: str, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # trust_env=False: the server is on this host, and a proxy would see the admin token
        self._client = httpx.Client(base_url=url, timeout=REQUEST_SECONDS, headers=headers, trust_env=False)
        self._model, self.key = model, key

    def ask_all(self, prompts: Sequence[str], tokens: int = ANSWER_TOKENS) -> list[str]:
        """The first line of each greedy continuation, without surrounding space."""
        body = {"model": self._model, "prompt": list(prompts), "max_tokens": tokens, "temperature": 0.0}
        answer = self._client.post("/v1/completions", json=body)
        answer.raise_for_status()
        choices = sorted(answer.json()["choices"], key=lambda choice: choice["index"])
        return [first_line(choice["text"]) for choice in choices]

    def chat_all(self, messages: Sequence[str], tokens: int = ANSWER_TOKENS) -> list[str]:
        """The first line of the answer to each chat message, from the route that chat programs use."""

        def ask(message: str) -> str:
            asked = [{"role": "user", "content": message}]
            body = {"model": self._model, "messages": asked, "max_tokens": tokens, "temperature": 0.0}
            answer = self._client.post("/v1/chat/completions", json=body)
            answer.raise_for_status()
            return first_line(answer.json()["choices"][0]["message"]["content"] or "")

        with ThreadPoolExecutor(len(messages)) as pool:
            return list(pool.map(ask, messages))

    def served(self, admin_token: str) -> dict[str, Any]:
        """What the plugin says is served: version, fence, sha256 of each edited tensor."""
        headers = {"Authorization": f"Bearer {admin_token}"}
        answer = self._client.get("/plugins/factd/version", headers=headers)
        answer.raise_for_status()
        return answer.json()

    def close(self) -> None:
        self._client.close()


def first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0].strip()


class Traffic:
    """Clients that never stop asking; counts answers and failures. Use as a context manager."""

    def __init__(
        self, url: str, model: str, prompts: Sequence[str], clients: int = 2, key: str | None = None
    ) -> None:
        self.requests = 0
        self.failed: list[str] = []
        self.slowest_seconds = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(LiveServer(url, model, key), prompts, turn), daemon=True)
            for turn in range(clients)
        ]

    def _run(self, server: LiveServer, prompts: Sequence[str], turn: int) -> None:
        while not self._stop.wait(TRAFFIC_PAUSE_SECONDS):
            turn += 1
            started = time.monotonic()
            try:
                server.ask_all([prompts[turn % len(prompts)]], TRAFFIC_TOKENS)
                failure = None
            except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
                failure = repr(error)
            with self._lock:
                self.requests += 1
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - started)
                if failure:
                    self.failed.append(failure)
        server.close()

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(REQUEST_SECONDS)
