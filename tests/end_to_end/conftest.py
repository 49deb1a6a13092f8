"""Small vLLM servers for all tests of this folder."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.families.servers import Servers
from daemon.supervise.vllm import VllmOptions


class SmallServers(Servers):
    """Forks of one process that has imported vLLM: each start takes 20 s less of a processor."""

    def __init__(self, root: Path) -> None:
        self.root, self._site = root, root / "site"
        self._site.mkdir()
        path = os.pathsep.join([str(self._site), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
        options = VllmOptions(store=root, admin_token="none")
        super().__init__(options, root / "vllm.log", {"PYTHONPATH": path})

    def plugin(self, name: str, source: str) -> None:
        """Installs a module with `register`; a server loads it if VLLM_PLUGINS in its environment says so."""
        info = self._site / f"{name}-1.dist-info"
        info.mkdir()
        (self._site / f"{name}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{name} = {name}:register\n")


@pytest.fixture(scope="session")
def servers(tmp_path_factory) -> Iterator[SmallServers]:
    with SmallServers(tmp_path_factory.mktemp("servers")) as started:
        yield started
