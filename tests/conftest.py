"""Fixtures shared by all tests. Nothing here needs a network."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from xdist.scheduler import LoadScopeScheduling

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Three processes share the tests: a second thread of each, and of what they start, waits more than it does.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A busy machine is no counterexample.
settings.register_profile("factd", deadline=None)
settings.load_profile("factd")


def pytest_addoption(parser):
    parser.addoption("--screenshots", action="store_true", help="write the status page into docs/images/")


#: Folders and files whose tests start processes or edit for long: `make quick` leaves them out.
REAL = (
    *("benchmarks", "deploy", "end_to_end", "faults", "recorded", "test_requirements.py"),
    *("editing/methods", "editing/memory", "editing/test_editor.py", "editing/solve/test_shipped.py"),
    *("daemon/apply/test_crash.py", "daemon/apply/test_value_workers.py", "daemon/cli/test_docs.py"),
    *("daemon/http/test_status_page.py", "daemon/intake/test_celery.py"),
    *("daemon/intake/test_redelivery.py", "daemon/intake/test_stream.py"),
)


#: What takes longest begins first, so that nothing waits for it at the end.
LONGEST = "test_main_job.py"


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    items.sort(key=lambda item: (item.path.name != LONGEST, not item.get_closest_marker("end_to_end")))
    files = {item.path for item in items}
    real = {path for path in files if any(path.is_relative_to(here / name) for name in REAL)}
    for item in items:
        if item.path in real:
            item.add_marker(pytest.mark.real)


class ByFile(LoadScopeScheduling):
    """Where some processes share the tests, one takes a whole file: it makes things once.

    All other tests that start vLLM are one lot: one server beside that of the longest file is enough.
    (`--dist loadgroup` would do, but xdist 3.8 cannot name groups to pytest 9.2.)
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::", 1)[0]
        served = "/end_to_end/" in path and not path.endswith(LONGEST)
        return "served" if served else path


@pytest.hookimpl(optionalhook=True)  # `-p no:xdist` has no such hook
def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)


@pytest.fixture(autouse=True)
def heard():
    """What factd logs is heard: a process that imported vLLM has a root logger that passes errors alone."""
    logging.getLogger("factd").setLevel(logging.WARNING)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The models of the tests are tiny: a second thread costs more than it gives."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def on_the_processor():
    """Where there is a GPU, all tests but those of `editing/test_cuda.py` leave it alone."""
    with pytest.MonkeyPatch.context() as patch:
        # A run of tests that need no torch does not wait for its import.
        if "torch" in sys.modules:
            patch.setattr("torch.cuda.is_available", lambda: False)
        yield


@pytest.fixture(scope="session", autouse=True)
def connections() -> Iterator[None]:
    """Remembers all connections to databases, so that none is forgotten unclosed in the middle of a test.

    A test that lets an applier die leaves one open that no engine can close any more: the dead applier's
    traceback holds it. Python 3.13 warns where it is forgotten, which may be in another test.
    """
    used: list[DBAPIConnection] = []

    def remember(connection: DBAPIConnection, _record: object) -> None:
        used.append(connection)

    event.listen(Engine, "connect", remember)
    yield
    event.remove(Engine, "connect", remember)
    for connection in used:
        connection.close()


@pytest.fixture(scope="session", autouse=True)
def engines() -> Iterator[list[Engine]]:
    """The database engines in use, also those that fixtures of a whole module open."""
    used: list[Engine] = []

    def remember(connection: Connection) -> None:
        if connection.engine not in used:
            used.append(connection.engine)

    event.listen(Engine, "engine_connect", remember)
    yield used
    event.remove(Engine, "engine_connect", remember)


@pytest.fixture(autouse=True)
def databases_closed(engines: list[Engine]) -> Iterator[None]:
    """A test stands for a process, and the end of a process closes its databases.

    Python 3.13 warns of a connection that nobody closed. A test that lets an applier die leaves some open.
    """
    yield
    for engine in engines:
        engine.dispose()
    engines.clear()


@pytest.fixture(scope="session")
def pictures(request, tmp_path_factory) -> Path:
    """Where screenshots go: a run of the tests leaves the pictures of the documentation alone."""
    if not request.config.getoption("--screenshots"):
        return tmp_path_factory.mktemp("pictures")
    folder = Path(__file__).parents[1] / "docs" / "images"
    folder.mkdir(exist_ok=True)
    return folder
