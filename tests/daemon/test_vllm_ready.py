"""The readiness route: open to a load balancer, and no before a version was published."""

from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from daemon.vllm_ready import READY_ROUTE, add_ready_route


@pytest.mark.parametrize(("version", "status"), [("default", 503), ("v000000", 200), ("v000012", 200)])
def test_a_replica_is_ready_once_a_version_was_published(version, status):
    app = FastAPI()
    add_ready_route(app)

    async def served():
        return {"version": version, "fence": 3, "sha256": {}}

    app.state.factd = SimpleNamespace(served=served)
    answer = TestClient(app).get(READY_ROUTE)
    assert answer.status_code == status
    assert "sha256" not in answer.text
