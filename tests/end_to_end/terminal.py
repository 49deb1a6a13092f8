"""A newcomer's terminal: carries out what the documentation says, beside a running `factd up`."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.pages import API, ROOT, VLLM

#: What later commands of the page see.
KEPT = re.compile(r"(export |[A-Z]+=)")


class Terminal:
    """A folder with what a clone has after `make setup`, and a shell in it."""

    def __init__(self, folder: Path, state: Path, up: Mapping[str, Any]) -> None:
        self.folder, self._kept = folder, ["set -eu"]
        self._addresses = {API: up["api_url"], VLLM: up["vllm_url"]}
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name, argument in (("factd", " -m daemon"), ("python", "")):
            (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable}{argument} "$@"\n')
            (programs / name).chmod(0o755)
        (folder / ".factd").symlink_to(state.resolve())
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FACTD_")}
        self._environment = environment | {"PYTHONPATH": str(ROOT)}

    def run(self, command: str, id: str = "ID") -> str:
        """What the command says; ID in it stands for `id`. One that goes on for ever is interrupted."""
        for told, real in self._addresses.items():
            command = command.replace(told, real)
        command = re.sub(r"\bID\b", id, command)
        if KEPT.match(command):
            self._kept.append(command)
            return ""
        shell = ["bash", "-c", "\n".join([*self._kept, f"exec {command}"])]
        options = {"cwd": self.folder, "env": self._environment, "text": True}
        # Where the tests run in the background of a script, SIGINT is ignored, and children inherit that.
        options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        with subprocess.Popen(shell, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
            first = ""
            if "factd tail" in command:
                first = process.stdout.readline()
                process.send_signal(signal.SIGINT)
            try:
                said, complaint = process.communicate(timeout=180)
            except subprocess.TimeoutExpired:
                process.kill()  # or else leaving the block waits for ever
                raise
        assert process.returncode == 0, f"{command}\n{said}{complaint}"
        return first + said
