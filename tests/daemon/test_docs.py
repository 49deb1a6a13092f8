"""The documentation says what the program does: generated pages, commands, JSON, links.

Blocks are marked by the words after the fence: ``console run`` is carried out on a ledger with fakes, in the
page's order; ``console`` is only parsed by the real commands; ``json KIND`` is checked as that kind.
"""

import argparse
import functools
import json
import os
import re
import shlex
import time
from pathlib import Path

import pytest
import typer
from fastapi.testclient import TestClient
from starlette.routing import Match
from typer.testing import CliRunner

from daemon import docs
from daemon.alerts import Webhook
from daemon.api import create_app
from daemon.cli import app
from daemon.messages import parse_correction
from daemon.posting import SUBMIT
from daemon.settings import load_settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
API, VLLM = "http://127.0.0.1:8321", "http://127.0.0.1:8320"


def blocks(kind: str, page: Path) -> list[str]:
    return [body for info, body in FENCE.findall(page.read_text()) if info.strip() == kind]


def commands(body: str) -> list[tuple[list[str], str]]:
    """(words of the command, what stands below it) for each line that begins with $."""
    found: list[tuple[list[str], list[str]]] = []
    for line in body.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            found.append((shlex.split(line[2:]), []))
        else:
            found[-1][1].append(line)
    return [(words, "\n".join(below)) for words, below in found]


def with_blocks(kind: str) -> list[Path]:
    return [page for page in PAGES if blocks(kind, page)]


def every_command():
    return [
        (page, words)
        for page in PAGES
        for kind in ("console", "console run")
        for body in blocks(kind, page)
        for words, _ in commands(body)
    ]


# -- generated pages --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cli.md", "settings.md", "metrics.md", "api.md"])
def test_generated_pages_are_those_of_the_code(name):
    assert (ROOT / "docs" / name).read_text() == docs.pages()[name], "run `make docs`"


def test_every_setting_and_option_has_a_meaning():
    assert not [name for name, meaning in docs.setting_meanings().items() if not meaning]
    rows = re.findall(r"^\| `.*$", docs.cli_page(), re.MULTILINE)
    assert rows
    assert not [row for row in rows if row.endswith("|  |")]


def test_exit_codes_of_the_help_and_of_the_page_are_the_same():
    from daemon.cli_output import EPILOG, EXIT_MEANINGS, Exit

    assert set(EXIT_MEANINGS) == set(Exit)
    assert all(f"{int(code)} {code.name.lower().replace('_', ' ')}" in EPILOG for code in list(Exit)[1:])


# -- links ------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Those that GitHub makes of the headings."""
    text = FENCE.sub("", page.read_text())
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    lost = []
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert not lost


def test_every_page_is_on_the_map():
    shown = (ROOT / "docs" / "index.md").read_text()
    assert not [
        p.name for p in PAGES if p.parent.name == "docs" and p.name != "index.md" and p.name not in shown
    ]


# -- commands ---------------------------------------------------------------------------------------


@functools.cache
def root():
    return typer.main.get_command(app)


def parse(words: list[str]) -> None:
    """Raises what the command line would complain of."""
    command, context = root(), None
    while True:
        context = command.make_context(words[0], words[1:], parent=context)
        rest = [*context._protected_args, *context.args] if hasattr(command, "commands") else []
        if not rest:
            return
        name, command, left = command.resolve_command(context, rest)
        words = [name, *left]


def test_commands_of_the_pages_exist_with_their_options():
    found = [(page, words) for page, words in every_command() if words[0].endswith("factd")]
    assert len(found) > 20
    for page, words in found:
        try:
            parse(["factd", *words[1:]])
        except Exception as error:
            pytest.fail(f"{page.name}: {shlex.join(words)}: {getattr(error, 'message', error)}")


def test_a_command_that_does_not_exist_is_found():
    for wrong in (["factd", "versons"], ["factd", "post", "--targt", "x"], ["factd", "bench", "nothing"]):
        with pytest.raises(Exception, match="No such"):
            parse(wrong)


def test_requests_of_the_pages_fit_the_routes():
    curl = argparse.ArgumentParser()
    curl.add_argument("-s", action="store_true")
    curl.add_argument("-X", default="")
    curl.add_argument("-H", action="append")
    curl.add_argument("-d")
    curl.add_argument("url")
    routes = docs.described_app().routes
    asked = [curl.parse_args(words[1:]) for _, words in every_command() if words[0] == "curl"]
    assert len(asked) > 2
    for request in asked:
        body = json.loads(request.d) if request.d else None
        if request.url.startswith(VLLM):
            continue
        path = request.url.removeprefix(API)
        scope = {"type": "http", "method": request.X or ("POST" if body else "GET"), "path": path}
        assert any(route.matches(scope)[0] is Match.FULL for route in routes), request.url
        if path == "/v1/corrections" and body:
            parse_correction(body)


class Queue:
    """What a broker with an intake and an apply worker behind it does, at once."""

    def __init__(self, world):
        self.world, self.ids = world, []

    def append(self, _url, corrections, _stream):
        new = [f"stream-{len(self.ids) + i}-0" for i in range(len(corrections))]
        self.world.now = time.time()
        self.world.ledger.submit_many(list(zip(new, corrections, strict=True)))
        self.ids += new
        self.world.run()
        return new

    def send_task(self, _name, **_):
        self.world.now = time.time()
        self.world.run()

    def close(self):
        pass


@pytest.fixture
def session(world, monkeypatch, tmp_path):
    """A function: carries a command of a page out; ID is the last one posted."""
    world.measure_really()
    queue = Queue(world)
    for name in [name for name in os.environ if name.startswith("FACTD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FACTD_STATE_DIR", str(world.root))
    monkeypatch.setattr("daemon.posting.producer", lambda *_: queue)
    monkeypatch.setattr("daemon.stream.append", queue.append)
    monkeypatch.chdir(tmp_path)

    def carry_out(words):
        chosen = [queue.ids[-1] if word == "ID" else word for word in words[1:]]
        return CliRunner().invoke(app, chosen)

    return carry_out


def unlike(told, real, path="answer") -> str | None:
    """Where documented JSON has a key or a type that the real one has not."""
    if isinstance(told, dict) and isinstance(real, dict):
        missing = [key for key in told if key not in real]
        if missing:
            return f"{path} has no {missing}"
        return next((u for key in told if (u := unlike(told[key], real[key], f"{path}.{key}"))), None)
    if isinstance(told, list) and isinstance(real, list):
        pairs = zip(told, real, strict=False)
        return next((u for i, (a, b) in enumerate(pairs) if (u := unlike(a, b, f"{path}[{i}]"))), None)
    return None if told is None or real is None or type(told) is type(real) else f"{path} is {real!r}"


def test_answers_that_differ_are_found():
    assert unlike({"a": 1}, {"a": 2, "b": 3}) is None
    assert unlike({"a": None}, {"a": "text"}) is None
    assert unlike({"a": [{"b": "x"}]}, {"a": [{"c": "x"}]}) == "answer.a[0] has no ['b']"
    assert unlike({"a": "text"}, {"a": 1}) == "answer.a is 1"


@pytest.mark.parametrize("page", with_blocks("console run"), ids=lambda page: page.name)
def test_commands_marked_as_such_run_in_order(page, session):
    for body in blocks("console run", page):
        for words, below in commands(body):
            done = session(words)
            assert done.exit_code == 0, f"{shlex.join(words)}\n{done.output}"
            if below.strip():
                assert unlike(json.loads(below), json.loads(done.stdout)) is None


# -- JSON and Python --------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_json_block_is_json(page):
    for info, body in FENCE.findall(page.read_text()):
        if info.split()[:1] == ["json"]:
            json.loads(body)


def test_corrections_and_alerts_of_the_pages_are_taken():
    found = [json.loads(body) for page in PAGES for body in blocks("json correction", page)]
    assert found
    for correction in found:
        parse_correction(correction)
    for page in PAGES:
        for body in blocks("json alerts", page):
            Webhook.model_validate_json(body)


def test_the_manifest_of_the_format_page_has_the_keys_of_a_real_one(world):
    (told,) = [json.loads(body) for body in blocks("json manifest", ROOT / "docs" / "format.md")]
    world.post("A", "fine")
    world.run()
    real = world.store.manifest("v000001")
    assert told.keys() == real.keys()
    assert told["facts_added"][0].keys() == real["facts_added"][0].keys()
    assert told["files"].keys() == real["files"].keys()
    (one,), (other,) = told["tensors"].values(), real["tensors"].values()
    assert one.keys() == other.keys()


def test_the_hash_of_the_format_page_is_right():
    import torch

    from editing.delta import tensor_sha256

    (told,) = re.findall(r"^sha256 = (\w{64})$", (ROOT / "docs" / "format.md").read_text(), re.MULTILINE)
    assert tensor_sha256(torch.zeros(2, 3)) == told


def test_the_answer_to_a_post_is_the_documented_one(world):
    settings = load_settings(admin_token="secret")
    (told,) = [json.loads(body) for page in PAGES for body in blocks("json accepted", page)]
    (correction,) = [json.loads(body) for page in PAGES for body in blocks("json correction", page)]
    client = TestClient(create_app(settings, world.ledger, [], lambda: None))
    answer = client.post("/v1/corrections", json=correction, headers={"Authorization": "Bearer secret"})
    assert answer.status_code == 202
    assert answer.json().keys() == told.keys()


def test_python_of_the_readme_posts_a_correction(monkeypatch):
    sent = []

    class Celery:
        def __init__(self, broker):
            self.broker = broker

        def send_task(self, name, args, queue):
            sent.append((name, args, queue))

    monkeypatch.setattr("celery.Celery", Celery)
    (body,) = blocks("python", ROOT / "README.md")
    exec(compile(body, "README.md", "exec"), {})
    ((name, args, queue),) = sent
    assert (name, queue) == (SUBMIT, "corrections")
    parse_correction(args[0])
