"""What the children of `factd up` are told."""

import json
from unittest.mock import MagicMock

import pytest

from daemon.core.settings import load_settings
from daemon.supervise import up
from daemon.supervise.doctor import check_model
from daemon.supervise.environment import addresses, environment
from daemon.supervise.processes import ProcessError
from daemon.supervise.running import Tokens
from daemon.supervise.up import Up
from daemon.supervise.vllm import VllmOptions, vllm_command
from editing.model.checkpoint import checkpoint_hash
from tests.tiny_models import save_checkpoint


def told(tmp_path, **more):
    settings = load_settings(state_dir=tmp_path, **more)
    return environment(settings, addresses(settings, "redis://b/0"), Tokens("submit", "admin"))


def test_the_callers_own_tuning_wins(tmp_path, monkeypatch):
    chosen = {"OMP_NUM_THREADS": "5", "MALLOC_TRIM_THRESHOLD_": "1", "HF_HUB_OFFLINE": "0"}
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    assert chosen.items() <= told(tmp_path).items()


def test_the_serving_key_is_given_to_all_children(tmp_path, monkeypatch):
    monkeypatch.delenv("FACTD_SERVING_API_KEY", raising=False)
    assert "FACTD_SERVING_API_KEY" not in told(tmp_path)
    assert told(tmp_path, serving_api_key="k3y")["FACTD_SERVING_API_KEY"] == "k3y"


def test_up_serves_with_the_key_and_for_its_own_base(tmp_path, monkeypatch):
    """FACTD_SERVING_API_KEY=x factd up served everybody."""
    model = save_checkpoint(tmp_path / "model", num_hidden_layers=2)
    settings = load_settings(state_dir=tmp_path / "state", model=str(model), serving_api_key="k3y")
    services, started = Up(settings), []
    services.tokens, services.running = Tokens("s", "a"), addresses(settings, "redis://b/0")
    monkeypatch.setattr(up, "vllm_process", lambda argv, env, **_: started.append(env) or MagicMock())
    services._start_vllm(*services._unpack())
    assert started[0]["VLLM_API_KEY"] == "k3y"
    assert started[0]["FACTD_BASE_HASH"] == checkpoint_hash(model)


@pytest.mark.parametrize("given", ["another", ""])
def test_the_callers_base_hash_wins(tmp_path, monkeypatch, given):
    monkeypatch.setenv("FACTD_BASE_HASH", given)
    options = VllmOptions(store=tmp_path, admin_token="t", base_hash="b" * 64)
    assert vllm_command(tmp_path, 1, options)[1]["FACTD_BASE_HASH"] == given


def test_a_quantised_model_ends_up_before_anything_starts(tmp_path):
    model = save_checkpoint(tmp_path / "model", num_hidden_layers=2)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    services = Up(load_settings(state_dir=tmp_path / "state", model=str(model)))
    with pytest.raises(ProcessError, match=r"quantised .*awq"):
        services.start()
    assert services._children == {}
    assert check_model(str(model)).ok is False
    assert "quantised" in check_model(str(model)).found


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "qwen3_moe", "num_experts": 8}, "mixture of experts"),
        ({"model_type": "mamba"}, "known"),
    ],
)
def test_a_family_that_cannot_be_served_ends_up_before_anything_starts(tmp_path, config, said):
    model = save_checkpoint(tmp_path / "model", num_hidden_layers=2)
    (model / "config.json").write_text(json.dumps(config))
    services = Up(load_settings(state_dir=tmp_path / "state", model=str(model)))
    with pytest.raises(ProcessError, match=said) as refused:
        services.start()
    assert "Traceback" not in str(refused.value)
    assert services._children == {}
    assert check_model(str(model)).ok is False
    assert said in check_model(str(model)).found


def test_vllms_own_arguments_win_and_ranks_share_the_threads(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    model = save_checkpoint(tmp_path / "model", num_hidden_layers=2)
    settings = load_settings(state_dir=tmp_path / "state", model=str(model))
    arguments = ["--tensor-parallel-size", "64", "--model", "a-quantised-copy"]
    services, started = Up(settings, vllm_arguments=arguments), []
    services.tokens, services.running = Tokens("s", "a"), addresses(settings, "redis://b/0")
    monkeypatch.setattr(up, "vllm_process", lambda argv, env, **_: started.append((argv, env)) or MagicMock())
    services._start_vllm(*services._unpack())
    (argv, env), *_ = started
    assert argv[-4:] == arguments
    assert argv.index("--model") < len(argv) - 4
    assert env["OMP_NUM_THREADS"] == "1"
    assert env["FACTD_BASE_HASH"] == checkpoint_hash(model)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pipeline-parallel-size", "2"], "use --tensor-parallel-size"),
        (["-dp", "2"], "FACTD_REPLICAS"),
        (["--data_parallel_size=2"], "FACTD_REPLICAS"),
    ],
)
def test_ranks_that_cannot_be_published_to_are_refused_before_anything_starts(tmp_path, arguments, said):
    services = Up(load_settings(state_dir=tmp_path / "state"), vllm_arguments=arguments)
    with pytest.raises(ProcessError, match=said):
        services.start()
    assert not (tmp_path / "state").exists()


def test_an_address_that_up_has_chosen_wins_over_the_callers(tmp_path, monkeypatch):
    monkeypatch.setenv("FACTD_ADMIN_TOKEN", "another")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    env = told(tmp_path)
    assert (env["FACTD_ADMIN_TOKEN"], env["FACTD_REDIS_URL"]) == ("admin", "redis://b/0")
    assert int(env["OMP_NUM_THREADS"]) >= 1
