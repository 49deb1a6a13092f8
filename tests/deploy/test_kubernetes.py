"""The Kubernetes manifests, rendered by kubectl: schemas, hardening, and agreement with the program."""

import json
import subprocess

import kubernetes_validate
import pytest
import yaml

from daemon.http.api import router
from daemon.plugin.routes import READY_ROUTE
from tests.deploy.files import (
    COMPOSE,
    DEPLOY,
    OVERLAYS,
    SECRET_NAME,
    accepted_by_worker,
    containers,
    known_variables,
    kubectl,
    parse,
    pods,
    rendered,
    variables,
)
from tests.deploy.prometheus_rule import prometheus_rule
from tests.programs import program

#: kinds of the Prometheus operator, whose schemas no package has
OPERATOR = {"ServiceMonitor", "PrometheusRule", "AlertmanagerConfig"}
KUBERNETES = "1.37"


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    tool = kubectl(tmp_path_factory.mktemp("kubectl"))
    return {overlay: rendered(tool, overlay) for overlay in OVERLAYS}


@pytest.fixture(params=OVERLAYS)
def objects(manifests, request):
    return manifests[request.param]


def only(objects, kind, name):
    (found,) = (o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name)
    return found


def test_the_schemas_accept_every_object(objects):
    for item in objects:
        if item["kind"] not in OPERATOR:
            kubernetes_validate.validate(item, KUBERNETES, strict=True)
        assert item["kind"] == "Namespace" or item["metadata"]["namespace"] == "factd"


def test_every_container_meets_the_restricted_profile(objects):
    for _, pod in pods(objects):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert container["image"].partition(":")[2] not in ("", "latest")


def test_mounts_name_volumes_and_secrets_are_given_by_key(objects):
    for name, pod in pods(objects):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in containers(pod):
            for mount in container["volumeMounts"]:
                assert mount["name"] in volumes or mount["name"] == "data", (name, mount)
        for volume in volumes.values():
            if "secret" in volume:
                assert volume["secret"]["items"]
                assert volume["secret"]["defaultMode"] == 0o440


def test_no_secret_is_written_down(objects):
    assert not [item for item in objects if item["kind"] == "Secret"]
    for _, pod in pods(objects):
        for container in containers(pod):
            for entry in container.get("env", []):
                assert not SECRET_NAME.search(entry["name"]) or entry["value"].startswith("/run/secrets/")


def test_every_variable_is_a_setting(objects):
    ours = [item for item in objects if item["kind"] not in OPERATOR]
    assert variables(json.dumps(ours)) <= known_variables()
    assert known_variables() >= only_environment(objects).keys()


def only_environment(objects):
    (found,) = (
        o["data"]
        for o in objects
        if o["kind"] == "ConfigMap" and o["metadata"]["name"].startswith("factd-environment")
    )
    return found


def test_the_program_accepts_every_command(objects, monkeypatch):
    seen = set()
    for _, pod in pods(objects):
        for container in containers(pod):
            if container["image"].startswith("factd-") and "args" in container:
                parse(container["args"])
                seen.add(container["args"][0])
                if container["args"][0] == "worker":
                    assert accepted_by_worker(container["args"], monkeypatch)
    assert seen == {"api", "worker", "init", "serve"}


def test_probes_ask_routes_that_exist(objects):
    routes = {route.path for route in router.routes}  # pyright: ignore[reportAttributeAccessIssue]
    answered = {"api": routes, "serve": {"/health", READY_ROUTE}, "gateway": {"/gateway/alive"}}
    for _, pod in pods(objects):
        for container in pod["containers"]:
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                probe = container.get(kind, {}).get("httpGet")
                if probe:
                    assert probe["path"] in answered[container["name"]]
                    assert probe["port"] in ports


def test_a_replica_gets_users_only_when_it_is_in_sync(objects):
    replicas = only(objects, "StatefulSet", "factd-serve")["spec"]
    assert replicas["podManagementPolicy"] == "Parallel"
    (container,) = replicas["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == READY_ROUTE
    service = only(objects, "Service", "factd-serve")["spec"]
    assert service["publishNotReadyAddresses"] is True
    named = only_environment(objects)["FACTD_REPLICAS"].split(",")
    assert named == [f"http://factd-serve-{i}.factd-serve:8320" for i in range(replicas["replicas"])]


def test_there_is_one_writer_and_one_that_takes_corrections_in_order(objects):
    for name in ("factd-worker", "factd-intake"):
        one = only(objects, "Deployment", name)["spec"]
        assert one["replicas"] == 1
        assert one["strategy"] == {"type": "Recreate"}
    for name, pod in pods(objects):
        for container in containers(pod):
            for mount in container["volumeMounts"]:
                if mount["mountPath"] == "/var/lib/factd" and not mount.get("readOnly"):
                    assert name == "factd-worker"


def test_policies_and_budgets_select_pods_that_exist(objects):
    labels = {
        o["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] for o in workloads(objects)
    }
    for item in objects:
        if item["kind"] == "PodDisruptionBudget":
            assert item["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] in labels
            replicas = only_any(objects, item["metadata"]["name"])["spec"]["replicas"]
            assert replicas > item["spec"]["maxUnavailable"]
    default = only(objects, "NetworkPolicy", "factd-default")["spec"]
    assert default["podSelector"] == {}
    assert default["policyTypes"] == ["Ingress", "Egress"]
    replicas = only(objects, "NetworkPolicy", "factd-serve")["spec"]["ingress"]
    assert [rule["ports"] for rule in replicas] == [[{"port": 8320}]]


def workloads(objects):
    return [o for o in objects if o["kind"] in ("Deployment", "StatefulSet")]


def only_any(objects, name):
    (found,) = (o for o in workloads(objects) if o["metadata"]["name"] == name)
    return found


def test_the_operator_gets_the_rules_that_prometheus_gets(objects, tmp_path):
    assert (DEPLOY / "kubernetes" / "base" / "prometheusrule.yaml").read_text() == prometheus_rule()
    rule = only(objects, "PrometheusRule", "factd")["spec"]
    assert rule == yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rule))
    command = [program("promtool"), "check", "rules", str(tmp_path / "rules.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_monitors_and_webhook_point_at_services(objects):
    services = {o["metadata"]["name"]: o for o in objects if o["kind"] == "Service"}
    for item in objects:
        if item["kind"] == "ServiceMonitor":
            name = item["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"]
            service = services[name]
            assert service["metadata"]["labels"]["app.kubernetes.io/name"] == name
            (endpoint,) = item["spec"]["endpoints"]
            assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    (receiver,) = only(objects, "AlertmanagerConfig", "factd")["spec"]["receivers"]
    (webhook,) = receiver["webhookConfigs"]
    assert webhook["url"] == "http://factd-api.factd:8321/v1/alerts"
    assert webhook["sendResolved"] is True


def test_compose_and_kubernetes_run_the_same_images(objects):
    both = {c["name"]: c["image"] for _, pod in pods(objects) for c in pod["containers"]}
    for name in ("valkey", "postgres", "gateway"):
        assert both[name] == COMPOSE["services"][name]["image"]
