"""Values found by other processes: the applier asks on the queue `values`, any number of workers answer.

A value on the unedited model follows from its fact alone (`editing.install`). Whoever finds it, only the
rounding of another processor differs. The applier finds the values that nobody has begun, from the end of the
list: without workers it is as fast as if it had never asked.
"""

import base64
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load, save

from daemon.core.errors import RefusedError
from editing.facts import Fact
from editing.forms import units
from editing.install import Installation
from editing.values.options import ValueOptions
from editing.values.search import Values

log = logging.getLogger("factd")

#: facts in one message: enough to fill a core's matrix products, few enough to share out
FACTS_A_TASK = 4
POLL_SECONDS = 0.05


class Answer(Protocol):
    """What Celery returns for a message sent."""

    @property
    def state(self) -> str: ...
    @property
    def result(self) -> Any: ...
    def revoke(self) -> None: ...
    def forget(self) -> None: ...


@dataclass(frozen=True)
class _Asked:
    facts: list[Fact]
    answer: Answer


class Fleet:
    """The applier's side; an `Installation.elsewhere`.

    Args:
        send: (keyword arguments of the task) → its answer to be.
        deadline_seconds: the applier does not wait longer for a worker that has begun and is silent.
    """

    def __init__(
        self,
        send: Callable[[dict[str, Any]], Answer],
        deadline_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._send, self._deadline = send, deadline_seconds
        self._clock, self._sleep = clock, sleep

    def __call__(
        self, install: Installation, facts: Sequence[Fact], layer: int, options: ValueOptions
    ) -> None:
        """Keeps the values of all facts, found by a worker or by this process."""
        key, base = install.value_key(layer, options), install.loaded.base_hash
        open_ = [
            _Asked(part, self._send({"facts": plain(part), "layer": layer, "key": key, "base": base}))
            for part in parts(facts)
        ]
        until = self._clock() + self._deadline
        while open_:
            left = [asked for asked in open_ if not self._taken(asked, install, layer, options)]
            idle = [asked for asked in left if asked.answer.state == "PENDING"]
            if idle:
                mine = idle[-1]
                mine.answer.revoke()
                install.find(mine.facts, layer, options)
                left.remove(mine)
            elif len(left) < len(open_):
                until = self._clock() + self._deadline
            elif self._clock() > until:
                log.warning("values: %d workers began and did not answer; done here instead", len(left))
                return
            else:
                self._sleep(POLL_SECONDS)
            open_ = left

    def _taken(self, asked: _Asked, install: Installation, layer: int, options: ValueOptions) -> bool:
        """Whether the worker is done: its values were kept, or it will not find any."""
        state = asked.answer.state
        if state not in ("SUCCESS", "FAILURE", "REVOKED"):
            return False
        result = asked.answer.result
        asked.answer.forget()
        try:
            if state != "SUCCESS":
                raise RefusedError(str(result))
            install.keep(asked.facts, layer, options, decoded(result, len(asked.facts)))
        except RefusedError as error:
            log.warning("values: not found by a worker, found here instead: %s", error)
        return True


def parts(facts: Sequence[Fact]) -> list[list[Fact]]:
    """Whole units of facts, some `FACTS_A_TASK` of them together; see `editing.forms.units`."""
    found: list[list[Fact]] = []
    for unit in units(facts):
        if not found or len(found[-1]) + len(unit) > FACTS_A_TASK:
            found.append([])
        found[-1] += [facts[i] for i in unit]
    return found


def answer(
    install: Installation, options: ValueOptions, facts: list[list[Any]], layer: int, key: str, base: str
) -> str:
    """The worker's side: values of the facts, encoded.

    Raises:
        RefusedError: this worker would find other values than the applier.
    """
    if base != install.loaded.base_hash:
        raise RefusedError("the worker has another model; start it with the applier's FACTD_MODEL")
    if key != install.value_key(layer, options):
        raise RefusedError(
            "the worker's method, dtype or contexts differ from the applier's; give both the same "
            "FACTD_METHOD, FACTD_DTYPE and FACTD_STATISTICS_DIR (or a copy of that folder)"
        )
    return encoded(install.values([Fact(*fact) for fact in facts], layer, options))


def encoded(values: Values) -> str:
    content = {name: tensor.cpu().contiguous() for name, tensor in vars(values).items()}
    return base64.b64encode(save(content)).decode()


def decoded(text: str, count: int) -> Values:
    """Raises RefusedError when these are not `count` finite values."""
    try:
        values = Values(**load(base64.b64decode(text, validate=True)))
    except (ValueError, TypeError, SafetensorError) as error:
        raise RefusedError(f"the answer cannot be read: {error}") from error
    if values.delta.shape[1] != count or not all(t.isfinite().all() for t in vars(values).values()):
        raise RefusedError(f"the answer does not hold {count} finite values")
    return values


def plain(facts: Sequence[Fact]) -> list[list[Any]]:
    """Facts as a message holds them: the first fields of `Fact`; an id says nothing of a value."""
    return [[fact.subject, fact.prompt, fact.target, *_wordings(fact)] for fact in facts]


def _wordings(fact: Fact) -> list[Any]:
    some = fact.questions or fact.paraphrases
    return ["", list(fact.questions), list(fact.paraphrases)] if some else []
