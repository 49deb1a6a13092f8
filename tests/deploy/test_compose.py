"""deploy/compose.yaml: the official schema, hardening, secrets, and agreement with the program."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.deploy.files import (
    COMPOSE,
    DEPLOY,
    SECRET_ARGUMENT,
    SECRET_NAME,
    accepted_by_worker,
    known_variables,
    parse,
    variables,
)
from tests.programs import program

SERVICES = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("factd-")]
WORKERS = [name for name in OURS if SERVICES[name]["command"][0] == "worker"]


def test_the_official_schema_accepts_it():
    checker = Path(sys.executable).with_name("check-jsonschema")
    command = [checker, "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    uid, _, gid = service["user"].partition(":")
    assert int(uid) > 0
    assert gid.isdigit()
    assert not {"privileged", "cap_add", "devices", "pid", "network_mode"} & service.keys()
    assert any(mount.startswith("/tmp") for mount in service["tmpfs"])
    limits = service["deploy"]["resources"]["limits"]
    assert limits.keys() >= {"cpus", "memory"}
    assert service["restart"]
    assert service["stop_grace_period"]


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_and_published_ports_are_local(name):
    service = SERVICES[name]
    tag = service["image"].partition(":")[2]
    assert tag
    assert "latest" not in tag
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_only_workers_and_what_runs_once_have_no_health_check():
    without = {name for name, service in SERVICES.items() if "healthcheck" not in service}
    assert without == {"init", "worker", "value-worker"}


def test_dependencies_name_services_and_wait_for_what_can_be_waited_for():
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]
            else:
                assert how["condition"] == "service_completed_successfully"
                assert SERVICES[other]["restart"] != "unless-stopped"


@pytest.mark.parametrize("name", OURS)
def test_the_program_accepts_the_command(name):
    parse(SERVICES[name]["command"])
    with pytest.raises(Exception, match="No such option: --no-such-option"):
        parse([*SERVICES[name]["command"], "--no-such-option"])


@pytest.mark.parametrize("name", WORKERS)
def test_the_worker_knows_its_queue(name, monkeypatch):
    assert accepted_by_worker(SERVICES[name]["command"], monkeypatch)


def test_every_variable_is_a_setting():
    assert variables((DEPLOY / "compose.yaml").read_text()) <= known_variables()


def test_secrets_are_files_and_each_service_gets_only_its_own():
    assert all(secret.keys() == {"file"} for secret in COMPOSE["secrets"].values())
    for service in SERVICES.values():
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()
        for name, value in service.get("environment", {}).items():
            if SECRET_NAME.search(name):
                assert value in ("", "/run/secrets") or value.startswith("/run/secrets/")
        words = re.sub(r"/run/secrets/\w+", "", " ".join(service.get("command", [])))
        assert not SECRET_ARGUMENT.search(words)
    submit = {name for name in OURS if "factd_submit_token" in SERVICES[name].get("secrets", [])}
    admin = {name for name in SERVICES if "factd_admin_token" in SERVICES[name].get("secrets", [])}
    assert submit == {"api"}
    assert admin == {"api", "worker", "vllm-1", "vllm-2", "alertmanager"}


def test_no_directory_of_secrets_is_named_where_none_is_mounted():
    for name in OURS:
        service = SERVICES[name]
        mounted = bool(service.get("secrets"))
        assert service["environment"]["FACTD_SECRETS_DIR"] == ("/run/secrets" if mounted else "")


def test_publish_routes_are_on_internal_networks_only():
    networks = COMPOSE["networks"]
    for name in ("vllm-1", "vllm-2"):
        assert "ports" not in SERVICES[name]
        assert all(networks[network]["internal"] for network in SERVICES[name]["networks"])
        assert SERVICES[name]["networks"]["replicas"]["aliases"] == ["vllm"]
    backend, port = SERVICES["gateway"]["environment"]["FACTD_GATEWAY_BACKEND"].split(":")
    assert backend == "vllm"
    assert port == "8320"
    assert "control" not in SERVICES["gateway"]["networks"]


def test_replicas_only_read_the_state_and_one_service_writes_it_at_a_time():
    writers = {n for n in OURS if "state:/var/lib/factd" in SERVICES[n].get("volumes", [])}
    assert writers == {"init", "worker"}
    assert "init" in SERVICES["worker"]["depends_on"]
    replicas = SERVICES["api"]["environment"]["FACTD_REPLICAS"].split(",")
    assert [url.removeprefix("http://") for url in replicas] == ["vllm-1:8320", "vllm-2:8320"]


def test_workers_get_time_to_end_the_batch_at_hand():
    for name in WORKERS:
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > 30
        assert "REMAP_SIGTERM" not in SERVICES[name]["environment"]


def test_prometheus_knows_the_services(tmp_path):
    promtool = program("promtool")
    path = DEPLOY / "compose" / "prometheus.yml"
    local = path.read_text().replace("/etc/factd/prometheus", str(DEPLOY / "prometheus"))
    (tmp_path / "prometheus.yml").write_text(local)
    command = [promtool, "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = {job["job_name"]: job for job in yaml.safe_load(path.read_text())["scrape_configs"]}
    targets = [
        target for job in jobs.values() for each in job["static_configs"] for target in each["targets"]
    ]
    assert {target.partition(":")[0] for target in targets} - {"127.0.0.1"} <= SERVICES.keys()
    assert jobs["factd"]["static_configs"] == [{"targets": ["api:8321"]}]


def test_alertmanager_gets_the_file_with_the_names_of_compose(tmp_path):
    written = DEPLOY / "alertmanager" / "alertmanager.yml"
    (script,) = SERVICES["alertmanager"]["command"]
    script = script.partition(" && exec")[0].replace("/etc/factd/alertmanager.yml", str(written))
    script = script.replace("/tmp/alertmanager.yml", str(tmp_path / "alertmanager.yml"))
    subprocess.run(["/bin/sh", "-euc", script], check=True)
    made = yaml.safe_load((tmp_path / "alertmanager.yml").read_text())
    (webhook,) = [hook for receiver in made["receivers"] for hook in receiver.get("webhook_configs", [])]
    assert webhook["url"] == "http://api:8321/v1/alerts"
    token = webhook["http_config"]["authorization"]["credentials_file"]
    assert token.removeprefix("/run/secrets/") in SERVICES["alertmanager"]["secrets"]
