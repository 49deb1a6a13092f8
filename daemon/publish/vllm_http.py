"""HTTP to a vLLM server: completions, models, health; every failure as a ServingError."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx

from daemon.core.publication import ANSWER_SECONDS
from daemon.core.shapes import is_object
from daemon.publish.serving import SLOW, ServingError

CONNECT_SECONDS = 5.0
#: chat messages sent at the same time; vLLM runs them as one batch
CHATS_AT_ONCE = 16

T = TypeVar("T")


class VllmHttp:
    """The routes that every vLLM server has, with the factd plugin or without.

    Args:
        base_url: e.g. ``http://127.0.0.1:8000``.
        api_key: its ``--api-key``, if it has one.
        transport: for tests.
        answer_seconds: after so long without an answer it counts as slow.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.address, self.answer_seconds = base_url.rstrip("/"), answer_seconds
        timeout = httpx.Timeout(answer_seconds, connect=CONNECT_SECONDS)
        # trust_env=False: a proxy variable must not carry a token elsewhere
        self._http = httpx.Client(
            base_url=self.address, timeout=timeout, transport=transport, trust_env=False
        )
        self._api = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        timeout: httpx.Timeout | float | None = None,
    ) -> httpx.Response:
        """The answer, whatever its status.

        Args:
            headers: in the place of those with the API key.
            timeout: None: `answer_seconds`.

        Raises:
            ServingError: there was no answer.
        """
        limit = httpx.USE_CLIENT_DEFAULT if timeout is None else timeout
        try:
            return self._http.request(method, path, headers=headers or self._api, json=json, timeout=limit)
        except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
            what = (
                f"{self.address} took more than {self.answer_seconds:g} s for {path}: it is busy or slow; "
                "raise FACTD_ANSWER_SECONDS, or give the server more cores"
            )
            raise ServingError(what, retryable=True, code=SLOW) from error
        except httpx.HTTPError as error:
            what = f"{self.address} does not answer ({error!r}); is vLLM running?"
            raise ServingError(what, retryable=True, code="unreachable") from error

    def call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        timeout: httpx.Timeout | float | None = None,
    ) -> dict[str, Any]:
        """The JSON object of an answer of status 200; arguments as of `send`.

        Raises:
            ServingError: another status, no answer, or no JSON object.
        """
        answer = self.send(method, path, headers=headers, json=json, timeout=timeout)
        if answer.status_code != 200:
            raise self.refusal(answer)
        content = self.read(answer.json)
        if not is_object(content):
            raise self._unexpected("the answer is not a JSON object")
        return content

    def read(self, told: Callable[[], T]) -> T:
        """What `told` takes out of an answer; a ServingError where the answer does not have it."""
        try:
            return told()
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise self._unexpected(error) from error

    def models(self) -> dict[str, str]:
        """Name → where it was loaded from, of the model and of adapters, in the order of loading."""
        answer = self.call("GET", "/v1/models")
        return self.read(lambda: {str(model["id"]): str(model.get("root")) for model in answer["data"]})

    def complete(self, model: str, prompts: Sequence[str], max_tokens: int) -> list[str]:
        """Greedy continuations of raw prompts; one request, which vLLM runs as one batch."""
        if not prompts:
            return []
        choices = self._completions(model, list(prompts), max_tokens=max_tokens)

        def texts() -> list[str]:
            found = {int(choice["index"]): str(choice["text"]) for choice in choices}
            return [found[i] for i in range(len(prompts))]

        return self.read(texts)

    def chat(self, model: str, messages: Sequence[str], max_tokens: int) -> list[str]:
        """Greedy answers to messages of a user; a request each, as people send them."""

        def ask(message: str) -> str:
            asked = [{"role": "user", "content": message}]
            body = {"model": model, "temperature": 0.0, "max_tokens": max_tokens, "messages": asked}
            answer = self.call("POST", "/v1/chat/completions", json=body)
            return self.read(lambda: str(answer["choices"][0]["message"]["content"] or ""))

        with ThreadPoolExecutor(CHATS_AT_ONCE) as pool:
            return list(pool.map(ask, messages))

    def log_probs(self, model: str, passages: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `daemon.publish.serving.Scores`; one request."""
        if not passages:
            return []
        ids = [list(passage) for passage in passages]
        choices = self._completions(model, ids, max_tokens=1, prompt_logprobs=0)

        def numbers() -> list[list[float]]:
            told = {int(choice["index"]): choice["prompt_logprobs"] for choice in choices}
            return [
                [0.0, *(float(told[i][j][str(tokens[j])]["logprob"]) for j in range(1, len(tokens)))]
                for i, tokens in enumerate(passages)
            ]

        return self.read(numbers)

    def _completions(self, model: str, prompts: Sequence[object], **options: int) -> list[dict[str, Any]]:
        body = {"model": model, "temperature": 0.0, **options, "prompt": prompts}
        answer = self.call("POST", "/v1/completions", json=body)
        return self.read(lambda: list(answer["choices"]))

    def healthy(self) -> bool:
        """Whether the server and its engine answer; never raises."""
        try:
            return self._http.get("/health", timeout=CONNECT_SECONDS).status_code == 200
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        self._http.close()

    def refusal(self, answer: httpx.Response) -> ServingError:
        """What another status than 200 means, with its mend."""
        status = answer.status_code
        try:
            error: Mapping[str, Any] = answer.json()["error"]
            code, message, retryable = str(error["code"]), str(error["message"]), bool(error["retryable"])
        except (ValueError, KeyError, TypeError):
            code, message = "protocol", answer.text[:200]
            retryable = status >= 500 or status in (408, 425, 429)
            if status in (401, 403):
                code, message = "unauthorised", "the token is wrong; compare FACTD_ADMIN_TOKEN on both sides"
            elif status == 404 and "/plugins/" in str(answer.request.url):
                message = "the factd plugin is not loaded, or older; set VLLM_PLUGINS=factd, or update it"
        return ServingError(f"{self.address}: {message}", retryable=retryable, code=code, status=status)

    def _unexpected(self, error: object) -> ServingError:
        what = f"{self.address} sent an unexpected answer: {error!r}"
        return ServingError(what, retryable=False, code="protocol")
