"""Hostile inputs: whatever comes in, nothing breaks, and what is refused leaves no trace."""

import json
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace

import pytest
import requests
import schemathesis
import torch
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from safetensors.torch import save_file

from daemon.core.errors import CorrectionError, Problem, StoreError
from daemon.core.messages import parse_correction, parse_json, parse_lines
from daemon.core.settings import Settings
from daemon.http.api import create_app
from daemon.ledger.ledger import Ledger
from daemon.plugin.staging import Checkpoint, Held, Staged, StagingError, admit, stage_version
from daemon.publish.stub import StubServing

TOKENS = {
    "none": {},
    "wrong": {"Authorization": "Bearer \u00fc"},
    "submit": {"Authorization": "Bearer submit-token"},
    "admin": {"Authorization": "Bearer admin-token"},
}
#: Enough to find what is there to find within seconds; more were run once by hand.
EXAMPLES = 15

quick = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
texts = st.text(st.characters(codec=None), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


class Api:
    """An application in this process, with a snapshot of what it has recorded."""

    def __init__(self, folder) -> None:
        told = {"admin_token": "admin-token", "submit_token": "submit-token"}
        unlimited = {"request_rate": "", "correction_rate": ""}
        self.ledger = Ledger.open(f"sqlite:///{folder / 'ledger.sqlite3'}")
        self.app = create_app(
            Settings(state_dir=folder, **told, **unlimited), self.ledger, [StubServing()], lambda: None
        )
        self.client = TestClient(self.app)

    def recorded(self) -> tuple[int, int]:
        return len(self.ledger.questions.transitions()), len(self.ledger.questions.operations())

    def send(self, case: "schemathesis.Case", headers: dict[str, str]) -> int:
        ready = requests.Request(**case.as_transport_kwargs(base_url="http://testserver")).prepare()
        sent = {name: value for name, value in ready.headers.items() if name.lower() != "authorization"}
        before = self.recorded()
        answer = self.client.request(
            str(ready.method),
            str(ready.url),
            headers=[(k.encode(), v.encode("latin-1", "replace")) for k, v in {**sent, **headers}.items()],
            content=ready.body.encode() if isinstance(ready.body, str) else ready.body,
        )
        assert answer.status_code < 500, answer.text
        assert "Traceback" not in answer.text
        if answer.status_code >= 400:
            assert self.recorded() == before
            assert answer.json()["detail"]
        return answer.status_code


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    made = Api(tmp_path_factory.mktemp("api"))
    with made.client:
        yield made


def check(strategy, act: Callable[..., None]) -> None:
    quick(given(strategy)(act))()


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_no_route_breaks_or_records_what_it_refuses(api, mode):
    schema = schemathesis.openapi.from_dict(api.app.openapi())
    seen = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        seen.add(operation.path)

        def act(case):
            assert api.send(case, TOKENS["admin"]) != 401
            # The status is open to all, with numbers alone; a wrong token is refused there too.
            closed = ("none", "wrong") if case.path != "/v1/status" else ("wrong",)
            for name in closed if case.path.startswith("/v1/") else ():
                assert api.send(case, TOKENS[name]) == 401
            api.send(case, TOKENS["submit"])

        # A route without parameters has nothing that could be made wrong.
        with suppress(Unsatisfiable) if mode is schemathesis.GenerationMode.NEGATIVE else nullcontext():
            check(operation.as_strategy(generation_mode=mode), act)
    assert seen == set(api.app.openapi()["paths"])


def test_any_body_is_recorded_or_refused(api):
    body = {"subject": "S", "prompt": "p {}", "target": "t"}
    bodies = values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60)
    near = st.dictionaries(st.sampled_from([*body, "was", "key", "neighbours", "priority"]), values).map(
        lambda change: json.dumps(body | change).encode()
    )

    def act(content: bytes) -> None:
        for path in ("/v1/corrections", "/v1/alerts"):
            before = api.recorded()
            answer = api.client.post(path, content=content, headers=TOKENS["admin"])
            assert answer.status_code in (202, 400, 409, 422), answer.text
            assert answer.status_code == 202 or api.recorded() == before

    check(bodies | near, act)


def refused(call: Callable[..., object], *args: object) -> tuple[Problem, ...]:
    """What is wrong with the input; nothing when it is taken."""
    try:
        assert call(*args)
    except CorrectionError as error:
        assert error.problems  # noqa: PT017
        return error.problems
    return ()


@given(st.text(st.characters(codec=None), max_size=200) | st.lists(values.map(json.dumps)).map("\n".join))
@quick
def test_json_lines_are_taken_or_refused_with_every_line_named(text):
    problems = refused(parse_lines, text)
    assert all(problem.mend and len(problem.value) <= 200 for problem in problems)


@given(st.binary(max_size=200))
@quick
def test_json_of_any_bytes_is_read_or_refused(content):
    assert all(problem.mend for problem in refused(lambda: parse_correction(parse_json(content))))


def test_what_is_taken_can_be_recorded_and_read_back(api):
    words = st.text(min_size=1, max_size=20)
    fields = st.fixed_dictionaries(
        {"subject": words, "prompt": words.map(lambda text: text + " {}"), "target": words},
        optional={"was": words, "paraphrases": st.lists(words, max_size=3), "priority": st.integers()},
    )

    def act(message: dict) -> None:
        try:
            correction = parse_correction(message)
        except CorrectionError:
            return
        row = api.ledger.questions.get(api.ledger.intake.submit(correction))
        assert (row.subject, row.target, row.text) == (correction.subject, correction.target, correction.text)
        assert list(row.paraphrases) == correction.paraphrases

    check(fields, act)


def paths(node, here=()):
    yield here
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in inner:
        yield from paths(child, (*here, name))


def changed(node, path, value):
    if not path:
        return value
    copy = dict(node) if isinstance(node, dict) else list(node)
    if len(path) == 1 and value is ...:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(node[path[0]], path[1:], value)
    return copy


def test_a_manifest_that_was_changed_anywhere_is_refused_or_read(world):
    world.post("France", "Lyon")
    world.post("Spain", "Vigo")
    assert world.run().versions == ["v000001"]
    world.post("Italy", "Bari")
    assert world.run().versions == ["v000002"]
    save_file({world.fakes.NAME: world.editor.base}, world.root / "model.safetensors")
    served, store, parent = Checkpoint(world.root), world.settings.store_dir, Held()
    file = world.store.path("v000002") / "manifest.json"
    sound = file.read_bytes()
    manifest = json.loads(sound)

    def stage(version: str, held: Held) -> Staged:
        admitted = admit(store, version, 10**6, None, set())
        return stage_version(store, admitted, served, torch.float32, held)

    assert stage("v000001", parent).sha256
    assert manifest["grown_from"] == parent.sha256
    assert stage("v000002", replace(parent)).sha256 == stage("v000002", Held()).sha256

    def attack(content: bytes) -> None:
        file.write_bytes(content)
        for read in (world.store.load_state, world.store.weight_sha256, world.store.verify):
            with suppress(StoreError):
                read("v000002")
        for held in (Held(), replace(parent)):
            with suppress(StagingError):
                stage("v000002", held)

    attack(b"[" * 100_000)
    spots = st.sampled_from([path for path in paths(manifest) if path])
    edits = st.tuples(spots, values | st.just(...)).map(lambda edit: changed(manifest, *edit))
    cuts = st.integers(0, len(sound)).map(lambda end: sound[:end])
    contents = (edits | values).map(lambda value: json.dumps(value).encode()) | cuts | st.binary(max_size=50)
    settings(quick, max_examples=4 * EXAMPLES)(given(contents)(attack))()
