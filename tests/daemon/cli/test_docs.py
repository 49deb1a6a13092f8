"""The documentation says what the program does: generated pages, commands, JSON, links.

tests/pages.py says what the words after a fence mean, and which test carries a block out.
"""

import argparse
import contextlib
import functools
import json
import math
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from starlette.routing import Match
from typer.testing import CliRunner

from daemon.cli import docs
from daemon.cli.exits import EPILOG, EXIT_MEANINGS, Exit
from daemon.cli.main import app
from daemon.core.messages import parse_correction
from daemon.http.alerts import Webhook
from daemon.intake.trust.policies import load_sources
from daemon.ledger import heartbeats
from tests.pages import API, LOG, PAGES, ROOT, VLLM, blocks, every_block, prose, unlike, words

LINK = re.compile(r"\]\(([^)\s]+)\)")
#: What a line of a shell begins with, here.
SHELL = re.compile(
    r"^(\$|factd|make|git|cd|export|python|curl|docker|kubectl|cp|rsync|systemctl|[A-Z_]+=\S+) ", re.MULTILINE
)
CONSOLES = ("console run", "console live", "console up")
CHECKED = ("json correction", "json accepted", "json alerts", "json manifest", "toml sources")
#: page: blocks of commands that nobody carries out, each with its reason in the page
NOT_EXECUTED = {
    "asking.md": 1,
    "families.md": 3,
    "feeds.md": 4,
    "times.md": 1,
    "trust.md": 1,
    "operating.md": 1,
    "README.md": 1,
    "tutorial.md": 1,
    "deploy.md": 4,
}
#: Beginnings of blocks that need hours, or are a part of what another test starts: only compared.
COMPARED = {"experiments.md": "factd bench speed", "serving.md": "VLLM_PLUGINS=factd"}


def every_command():
    return [
        (block.page, words(command))
        for block in every_block()
        if block.kind in CONSOLES
        for command, _ in block.commands()
    ]


# -- who carries what out ---------------------------------------------------------------------------


def test_every_block_of_commands_is_carried_out_or_says_why_not():
    left = []
    for block in every_block():
        if block.why is not None:
            assert len(block.why) > 20, f"{block.page.name}: say why"
            left.append(block.page.name)
        elif block.kind == "":
            begins = COMPARED.get(block.page.name, "\0")
            assert block.body.startswith(begins) or not SHELL.search(block.body), block
        else:
            assert block.kind in (*CONSOLES, *CHECKED, "python", "sh"), block
    assert {name: left.count(name) for name in left} == NOT_EXECUTED


def test_shell_blocks_of_other_pages_are_carried_out_by_a_test_of_their_own():
    """docs/deploy.md: tests/deploy/test_docs.py; docs/operating.md: below."""
    done = {block.page.name for block in blocks("sh") if block.why is None}
    assert done == {"deploy.md", "operating.md"}


def test_targets_of_make_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    command = re.compile(r"(?:^|`)make ([a-z]+)(?=`|  |$)", re.MULTILINE)
    named = {name for page in PAGES for name in command.findall(page.read_text())}
    assert {"demo", "setup", "test"} <= named <= targets


# -- generated pages --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cli.md", "settings.md", "metrics.md", "api.md"])
def test_generated_pages_are_those_of_the_code(name):
    assert (ROOT / "docs" / name).read_text() == docs.pages()[name], "run `make docs`"


def test_routes_that_need_no_token_are_those_that_tell_no_texts():
    routes = re.findall(r"^\| `([A-Z]+ /[^`?]*)\S*` \| open \|", docs.api_page(), re.MULTILINE)
    assert set(routes) == {"GET /healthz", "GET /readyz", "GET /metrics", "GET /v1/status", "GET /"}


def test_every_setting_and_option_has_a_meaning():
    assert not [name for name, meaning in docs.setting_meanings().items() if not meaning]
    rows = re.findall(r"^\| `.*$", docs.cli_page(), re.MULTILINE)
    assert rows
    assert not [row for row in rows if row.endswith("|  |")]


def test_exit_codes_of_the_help_and_of_the_page_are_the_same():
    assert set(EXIT_MEANINGS) == set(Exit)
    assert all(f"{int(code)} {code.name.lower().replace('_', ' ')}" in EPILOG for code in list(Exit)[1:])


# -- links ------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Those that GitHub makes of the headings."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *LOG], ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_lead_somewhere(page):
    lost = []
    for link in LINK.findall(prose(page)):
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


def mentioned():
    """Commands between backticks, as far as they are written out; COMMAND stands for any."""
    for page in PAGES:
        for command in re.findall(r"`factd ([a-z][^`…|]*)", prose(page)):
            if page.name != "cli.md" and "COMMAND" not in command:
                yield page, ["factd", *words(command)]


def test_commands_of_the_pages_exist_with_their_options():
    plain = [
        (block.page, words(line))
        for block in every_block()
        if block.kind == ""
        for line in block.body.replace("\\\n", " ").splitlines()
        if line.startswith("factd ")
    ]
    found = [(page, words) for page, words in every_command() if words[0].endswith("factd")]
    in_passing = list(mentioned())
    assert min(len(found), len(plain), len(in_passing)) > 3
    for page, named in [*found, *plain, *in_passing]:
        try:
            parse(["factd", *named[1:]])
        except Exception as error:
            # What is only mentioned may leave out what it is about: `factd blame`, `factd review`.
            unsaid = type(error).__name__ in ("MissingParameter", "BadOptionUsage", "NoArgsIsHelpError")
            if unsaid and (page, named) in in_passing:
                continue
            pytest.fail(f"{page.name}: {shlex.join(named)}: {getattr(error, 'message', error)}")


def test_files_of_sources_can_be_used(tmp_path):
    (block,) = blocks("toml sources")
    file = tmp_path / "sources.toml"
    file.write_text(block.body)
    assert load_sources(file) is not None


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
    asked = [curl.parse_args(named[1:]) for _, named in every_command() if named[0] == "curl"]
    assert len(asked) > 2
    for request in asked:
        body = json.loads(request.d) if request.d else None
        if request.url.startswith(VLLM):
            continue
        path = request.url.removeprefix(API).partition("?")[0]
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
        self.world.ledger.intake.submit_many(list(zip(new, corrections, strict=True)))
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
    monkeypatch.setattr("daemon.intake.doorbell.producer", lambda *_: queue)
    monkeypatch.setattr("daemon.cli.act.post.append", queue.append)
    # `factd status` asks the replicas and the workers.
    monkeypatch.setattr("daemon.cli.ask.status.open_reports", lambda _settings: world.replicas)
    monkeypatch.setattr(heartbeats, "ALIVE_SECONDS", math.inf)
    heartbeats.Heartbeat(world.ledger.database, heartbeats.WORKERS).beat()
    monkeypatch.chdir(tmp_path)

    prepared = SimpleNamespace(
        path=tmp_path,
        base_hash="b",
        settings_hash="s",
        tensor_names=world.editor.tensor_names,
        method=None,
    )
    monkeypatch.setattr("daemon.cli.run.init.open_editor", lambda _settings, _show: prepared)

    def carry_out(named):
        chosen = [queue.ids[-1] if word == "ID" else word for word in named[1:]]
        return CliRunner().invoke(app, chosen)

    return carry_out


def test_answers_that_differ_are_found():
    assert unlike({"a": 1}, {"a": 2, "b": 3}) is None
    assert unlike({"a": None}, {"a": "text"}) is None
    assert unlike({"a": [{"b": "x"}]}, {"a": [{"c": "x"}]}) == "answer.a[0] has no ['b']"
    assert unlike({"a": "text"}, {"a": 1}) == "answer.a is 1"


@pytest.mark.parametrize("name", sorted({block.page.name for block in blocks("console run")}))
def test_commands_marked_as_such_run_in_order(name, session):
    for block in blocks("console run", name):
        for command, below in block.commands():
            done = session(words(command))
            assert done.exit_code == 0, f"{command}\n{done.output}"
            if below:
                assert unlike(json.loads(below), json.loads(done.stdout)) is None


def test_a_backup_made_as_the_page_says_has_the_live_version(world, tmp_path, make_world):
    """docs/operating.md: the ledger is copied while it is open, the versions after it."""
    world.post("A", "fine")
    world.run()
    (block,) = blocks("sh", "operating.md")
    script = block.body.replace("STATE", str(world.root)).replace("python ", f"{sys.executable} ")
    (tmp_path / "copy").mkdir()
    subprocess.run(["bash", "-euc", script], cwd=tmp_path / "copy", check=True)

    backup = tmp_path / "copy" / "backup"
    with contextlib.closing(type(world)(backup)) as restored:
        # A replica that knows nothing, as after the loss of a host.
        restored.run()
        assert restored.ledger.questions.live_version() == "v000001"
        restored.check_agreement()


# -- JSON and Python --------------------------------------------------------------------------------


def test_corrections_and_alerts_of_the_pages_are_taken():
    found = blocks("json correction")
    assert found
    for block in found:
        parse_correction(json.loads(block.body))
    for block in blocks("json alerts"):
        Webhook.model_validate_json(block.body)


def test_the_manifest_of_the_format_page_has_the_keys_of_a_real_one(world):
    (told,) = (json.loads(block.body) for block in blocks("json manifest"))
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

    from editing.memory.delta import tensor_sha256

    (told,) = re.findall(r"^sha256 = (\w{64})$", (ROOT / "docs" / "format.md").read_text(), re.MULTILINE)
    assert tensor_sha256(torch.zeros(2, 3)) == told
