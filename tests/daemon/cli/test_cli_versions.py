"""`factd export` and `factd diff` as a user calls them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from daemon.cli.main import app
from daemon.versions.comparing import difference
from daemon.versions.store import Store
from editing.facts import Fact
from editing.memory.delta import materialise
from editing.methods.published import numbers
from editing.model.loaded import outlined_model
from tests.daemon.written import write_version
from tests.tiny_models import save_checkpoint

MILL = Fact("the old mill", "The owner of {} is", "Ada", "f1")
ZOE = Fact("Zoë", "The friend of {} lives in", "Rome", "f2")


@pytest.fixture
def state(tmp_path) -> Path:
    """State directory with v000001 (one fact) and v000002 (another one)."""
    model = outlined_model(str(save_checkpoint(tmp_path / "model")), tmp_path)
    store = Store(tmp_path / "state" / "store")
    measured = {"efficacy_ratio": 1.0, "drift": {"1": 0.25}, "cases": {}}
    write_version(store, model, "v000001", [MILL], measurements=measured)
    again = measured | {"efficacy_ratio": 0.5, "drift": {"1": 0.5, "2": 0.25}}
    again["counts"] = {"efficacy_ratio": [1, 2]}
    write_version(store, model, "v000002", [ZOE], parent="v000001", layers=[1], seed=1, measurements=again)
    return tmp_path / "state"


@pytest.fixture
def factd(state, monkeypatch):
    for name in ("MODEL", "STATE_DIR"):
        monkeypatch.delenv(f"FACTD_{name}", raising=False)

    def run(*arguments):
        told = ["--state", str(state), "--model", str(state.parent / "model")]
        return CliRunner().invoke(app, [*map(str, arguments), *told])

    return run


def test_export_writes_a_checkpoint_and_says_so(factd, tmp_path):
    done = factd("export", "v000001", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    view = json.loads(done.stdout)
    assert view["directory"] == str(tmp_path / "out")
    assert [fact["target"] for fact in view["corrections"]] == ["Ada"]
    assert "writing 100 %" in done.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert "checkpoint_hash" in factd("export", "v000001", tmp_path / "again").stdout


def test_a_quantised_copy_of_the_base_is_served_for_versions_of_its_float_model(
    factd, state, tmp_path, monkeypatch
):
    """What the method would edit stays in float, also before anything is edited."""
    done = factd("export", "v000000", tmp_path / "copy", "--quantised", "--json")
    assert done.exit_code == 0, done.output
    view = json.loads(done.stdout)
    told = json.loads((tmp_path / "copy" / "config.json").read_text())["quantization_config"]
    layers = numbers("memit-seq", "llama", 32, 64, 8).layers
    assert set(told["ignore"]) == {"lm_head", *(f"model.layers.{layer}.mlp.down_proj" for layer in layers)}
    factd("export", "v000001", tmp_path / "later", "--quantised")
    monkeypatch.setenv("FACTD_ADMIN_TOKEN", "a")
    monkeypatch.delenv("FACTD_BASE_HASH", raising=False)
    started = []
    monkeypatch.setattr("os.execve", lambda program, argv, env: started.append(env))
    for name in ("copy", "later"):
        arguments = ["serve", "--state", str(state), "--model", str(tmp_path / name)]
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert started[0]["FACTD_BASE_HASH"] == view["base_hash"]
    assert "FACTD_BASE_HASH" not in started[1], "it has not the base's weights where it is edited"


def test_serve_refuses_a_family_that_is_not_served(state, tmp_path, monkeypatch):
    monkeypatch.setenv("FACTD_ADMIN_TOKEN", "a")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "mixtral", "num_local_experts": 8}')
    arguments = ["serve", "--state", str(state), "--model", str(tmp_path / "model")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "mixture of experts" in done.stderr


@pytest.mark.parametrize(
    ("version", "code", "named"),
    [("v000009", 3, "v000009"), ("newest", 2, "v000012"), ("v000001", 2, "not empty")],
)
def test_what_cannot_be_exported_is_named(factd, state, version, code, named):
    done = factd("export", version, state)
    assert done.exit_code == code
    assert named in done.stderr
    assert "next:" in done.stderr


def test_diff_names_corrections_norms_and_measurements(factd, state):
    done = factd("diff", "v000001", "v000002", "--json")
    assert done.exit_code == 0, done.output
    view = json.loads(done.stdout)
    assert [fact["id"] for fact in view["added"]] == ["f2"]
    assert [fact["id"] for fact in view["removed"]] == ["f1"]
    assert view["measurements"]["efficacy_ratio"] == [1.0, 0.5]
    assert view["measurements"]["drift, layer 2"] == [None, 0.25]
    model, store = outlined_model(str(state.parent / "model"), state), Store(state / "store")
    weights = {}
    for version in ("v000001", "v000002"):
        factors = store.load_factors(version)
        base = model.base_weights([1, 2])
        weights[version] = [materialise(w, *factors[n]) if n in factors else w for n, w in base.items()]
    for layer, old, new in zip(("1", "2"), *weights.values(), strict=True):
        found, dense = view["layers"][layer], (new - old).double()
        assert found["frobenius_norm"] == pytest.approx(float(dense.norm()), rel=1e-6)
        singular = dense.svd().S[0]
        assert found["spectral_norm"] == pytest.approx(float(singular), rel=1e-5)
        assert found["relative_change"] == pytest.approx(float(dense.norm() / old.double().norm()), rel=1e-6)
    assert view["counts"] == {"efficacy_ratio": [None, [1, 2]]}
    text = factd("diff", "v000001", "v000002").stdout
    assert "1 added, 1 removed" in text
    assert "1 of 2" in text


def test_a_version_does_not_differ_from_itself(state):
    model, store = outlined_model(str(state.parent / "model"), state), Store(state / "store")
    view = difference(model, store, "v000002", "v000002")
    assert (view["added"], view["removed"], view["kept"]) == ([], [], 1)
    nothing = {"frobenius_norm": 0.0, "spectral_norm": 0.0, "relative_change": 0.0}
    assert view["layers"] == {1: nothing}
    both = difference(model, store, "v000002", "v000000")
    assert both["layers"][1]["frobenius_norm"] > 0
    assert both["measurements"]["efficacy_ratio"] == [0.5, None]
