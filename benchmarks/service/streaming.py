"""Clients that stream answers from an OpenAI server without a rest, and note when each token came."""

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

#: a client whose next token does not come for so long counts its request as failed
SILENCE_SECONDS = 60.0
#: after a failed request, so that a server that is down is not flooded
REST_SECONDS = 0.5
PROMPT = "Traveller {} asks for the {}. time: where does the road behind the old mill lead, and who built it?"


@dataclass(frozen=True)
class Answer:
    """One request of one client.

    Attributes:
        times: `time.perf_counter()` at the arrival of each chunk of tokens.
        tokens: how many the server says it made.
        failure: why the request counts as failed; None for an answer of full length.
        asked: `time.perf_counter()` when the request was sent.
    """

    client: int
    times: tuple[float, ...]
    tokens: int = 0
    failure: str | None = None
    asked: float = 0.0


@dataclass
class Clients:
    """So many clients in one thread; each asks again as soon as it is answered.

    Attributes:
        model: the name that the server knows its model by.
        count: how many clients.
        tokens: length of every answer; a shorter one is a failure.
        transport: for tests.
        answers: what came so far, in order of completion.
    """

    url: str
    model: str
    count: int
    tokens: int
    transport: httpx.AsyncBaseTransport | None = None
    answers: list[Answer] = field(default_factory=list[Answer])
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="clients", daemon=True)
        self._thread.start()

    def stop(self) -> list[Answer]:
        """Lets every running request come to its end."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        return self.answers

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=self.count)
        # trust_env=False: a proxy between would be measured too
        async with httpx.AsyncClient(
            base_url=self.url,
            timeout=SILENCE_SECONDS,
            limits=limits,
            transport=self.transport,
            trust_env=False,
        ) as http:
            await asyncio.gather(*(self._client(http, number) for number in range(self.count)))

    async def _client(self, http: httpx.AsyncClient, number: int) -> None:
        turn = 0
        while not self._over.is_set():
            turn += 1
            # Another prompt each time: a cached prefix would hide what a publication costs.
            answer = await self._ask(http, number, PROMPT.format(number, turn))
            self.answers.append(answer)
            if answer.failure is not None:
                await asyncio.sleep(REST_SECONDS)

    async def _ask(self, http: httpx.AsyncClient, number: int, prompt: str) -> Answer:
        body = {"model": self.model, "prompt": prompt, "max_tokens": self.tokens, "temperature": 0.0}
        body |= {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
        asked, times = time.perf_counter(), list[float]()
        made, ended = 0, None
        try:
            async with http.stream("POST", "/v1/completions", json=body) as stream:
                if stream.status_code != 200:
                    text = (await stream.aread()).decode(errors="replace")
                    return Answer(number, (), 0, f"status {stream.status_code}: {text[:200]}", asked)
                async for line in stream.aiter_lines():
                    chunk = _chunk(line)
                    if chunk.get("choices"):
                        times.append(time.perf_counter())
                        ended = chunk["choices"][0]["finish_reason"] or ended
                    usage: dict[str, int] = chunk.get("usage") or {}
                    made = usage.get("completion_tokens", made)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            return Answer(number, tuple(times), made, f"after {len(times)} chunks: {error!r}", asked)
        whole = ended == "length" and made == self.tokens
        why = None if whole else f"ended with {ended!r} after {made} of {self.tokens} tokens"
        return Answer(number, tuple(times), made, why, asked)


def _chunk(line: str) -> dict[str, Any]:
    """Content of one line of server-sent events; empty for separators and the end mark."""
    if not line.startswith("data: ") or line == "data: [DONE]":
        return {}
    chunk = json.loads(line.removeprefix("data: "))
    if "error" in chunk:
        raise ValueError(f"the server sent an error: {chunk['error']}")
    return chunk
