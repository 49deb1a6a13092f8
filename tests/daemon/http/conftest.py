"""The HTTP API on a new ledger, with a replica that serves nothing."""

import pytest
from fastapi.testclient import TestClient

from daemon.core.settings import Settings
from daemon.http.api import create_app
from daemon.ledger.ledger import Ledger
from daemon.publish.stub import StubServing


@pytest.fixture
def settings(tmp_path):
    return Settings(state_dir=tmp_path, admin_token="admin-token", submit_token="submit-token")


@pytest.fixture
def ledger(settings):
    return Ledger.open(settings.ledger_url)


@pytest.fixture
def rings():
    """One entry each time that the doorbell is rung."""
    return []


@pytest.fixture
def client(settings, ledger, rings):
    with TestClient(create_app(settings, ledger, [StubServing()], lambda: rings.append(1))) as client:
        yield client
