"""What the chart renders for its values, and which values it refuses."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from fovea_operator.settings import ENV_PREFIX, Settings

Manifest = dict[str, Any]
Render = Callable[..., dict[str, Manifest]]

CHART = Path(__file__).parents[3] / "charts" / "fovea"


def container(objects: dict[str, Manifest]) -> Manifest:
    (only,) = objects["Deployment/fovea"]["spec"]["template"]["spec"]["containers"]
    return dict(only)


def environment(objects: dict[str, Manifest]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container(objects)["env"]}


def test_lint_is_clean(helm: str) -> None:
    done = subprocess.run([helm, "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_readme_tables_are_current(document: ModuleType, helm: str) -> None:
    assert document.README.read_text() == document.document(), "run `python charts/document.py`"


def test_every_value_has_a_comment_and_a_schema(document: ModuleType) -> None:
    text = (CHART / "values.yaml").read_text()
    explained = [value.path for value in document.values(text)]
    schema = json.loads((CHART / "values.schema.json").read_text())

    def walk(node: object, rules: Manifest, path: str) -> None:
        if isinstance(node, dict) and node and path not in explained:
            assert rules.get("additionalProperties") is False, f"{path or 'values'} accepts unknown names"
            assert set(rules["properties"]) - {"global"} == set(node), path or "values"
            for key, child in node.items():
                walk(child, rules["properties"][key], f"{path}.{key}".lstrip("."))
        else:
            assert path in explained, f"{path} has no comment in values.yaml"

    walk(yaml.safe_load(text), schema, "")


WRONG = [
    ("replica=2", "additional properties 'replica' not allowed"),
    ('replicas="two"', "/replicas"),
    ("replicas=-1", "/replicas"),
    ('image.digest="sha256:abc"', "/image/digest"),
    ('image.pullPolicy="Sometimes"', "/image/pullPolicy"),
    ('image.repository=""', "/image/repository"),
    ('defaults.trainerImage="has space"', "/defaults/trainerImage"),
    ('defaults.rayVersion="latest"', "/defaults/rayVersion"),
    ("defaults.rayVersion=2.6", "/defaults/rayVersion"),
    ('defaults.queueName="Team A"', "/defaults/queueName"),
    ('defaults.store.uri="http://somewhere"', "/defaults/store/uri"),
    ('defaults.store.uri="/local/path"', "/defaults/store/uri"),
    ('defaults.store.secretName="Upper"', "/defaults/store/secretName"),
    ('operator.namespaces=["Team A"]', "/operator/namespaces/0"),
    ('operator.logLevel="TRACE"', "/operator/logLevel"),
    ("operator.workers=0", "/operator/workers"),
    ('operator.elasticSweeps="yes"', "/operator/elasticSweeps"),
    ('operator.settings={"AWS_SECRET_ACCESS_KEY":"x"}', "propertyName 'AWS_SECRET_ACCESS_KEY'"),
    ('resources.requests={"cpu":"much"}', "/resources/requests/cpu"),
    ('runPolicy="yes"', "/runPolicy"),
    ('metrics.serviceMonitor.interval="often"', "/metrics/serviceMonitor/interval"),
    ("networkPolicy.apiServerPorts=[0]", "/networkPolicy/apiServerPorts/0"),
    ('imagePullSecrets=["registry"]', "/imagePullSecrets/0"),
]


@pytest.mark.parametrize(("value", "message"), WRONG)
def test_schema_refuses(render: Render, value: str, message: str) -> None:
    with pytest.raises(ValueError, match="values don't meet the specifications") as refused:
        render(value)
    assert message in str(refused.value)


def test_defaults_render_one_operator(render: Render) -> None:
    objects = render()
    assert objects["Deployment/fovea"]["spec"]["replicas"] == 1
    assert container(objects)["image"] == "fovea/operator:0.1.0"
    kinds = {name.split("/")[0] for name in objects}
    optional = {"PodDisruptionBudget", "ServiceMonitor", "PrometheusRule", "ConfigMap", "NetworkPolicy"}
    assert not kinds & optional
    assert "Secret" not in kinds


def test_operator_pod_passes_the_restricted_pod_security_standard(render: Render) -> None:
    pod = render()["Deployment/fovea"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (operator,) = pod["containers"]
    assert operator["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {next(iter(volume.keys() - {"name"})) for volume in pod["volumes"]} == {"emptyDir"}
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}


def test_probes_and_metrics_share_port_8080(render: Render) -> None:
    objects = render()
    operator = container(objects)
    assert operator["ports"] == [{"name": "http", "containerPort": 8080}]
    assert operator["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert operator["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    service = objects["Service/fovea-metrics"]["spec"]
    assert service["ports"][0]["targetPort"] == "http"
    labels = objects["Deployment/fovea"]["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()


def test_image_by_digest_or_tag(render: Render) -> None:
    digest = "sha256:" + "0" * 64
    assert container(render('image.tag="2.0"'))["image"] == "fovea/operator:2.0"
    assert container(render(f'image.digest="{digest}"'))["image"] == f"fovea/operator@{digest}"


def test_defaults_reach_the_operator_as_settings(render: Render) -> None:
    values = {
        "defaults.trainerImage": "registry.example.com/trainer:2",
        "defaults.rayVersion": "2.61.0",
        "defaults.queueName": "team-a",
        "defaults.store.uri": "s3://bucket/models",
        "defaults.store.secretName": "bucket",
        "operator.logLevel": "DEBUG",
    }
    settings = environment(render(*(f"{path}={json.dumps(value)}" for path, value in values.items())))
    assert set(values.values()) <= set(settings.values())


def test_reused_values_of_a_release_before_may_lack_what_is_new(render: Render) -> None:
    before = environment(render("defaults.queueName=null", "operator.elasticSweeps=null"))
    assert before["FOVEA_OPERATOR_QUEUE_NAME"] == ""
    assert before["FOVEA_OPERATOR_ELASTIC_SWEEPS"] == "false"


def test_settings_have_the_last_word_and_keep_their_digits(render: Render) -> None:
    settings = environment(render('operator.settings={"workers":2,"run_user":1000000,"leader_election":false}'))
    assert settings["FOVEA_OPERATOR_WORKERS"] == "2"
    assert settings["FOVEA_OPERATOR_RUN_USER"] == "1000000"
    assert settings["FOVEA_OPERATOR_LEADER_ELECTION"] == "false"


def test_the_operator_reads_every_variable_of_the_chart(render: Render) -> None:
    given = ('operator.namespaces=["a","b"]', 'defaults.store.uri="s3://bucket"', "operator.elasticSweeps=true")
    variables = environment(render(*given))
    known = {ENV_PREFIX + item.name.upper() for item in dataclasses.fields(Settings)}
    assert set(variables) <= known
    settings = Settings.read(environ=variables)
    assert settings.namespace_list == ("a", "b")
    assert settings.store == "s3://bucket"
    assert settings.elastic_sweeps
    assert settings.lease_namespace == "fovea-system"


def test_standby_brings_a_disruption_budget(render: Render) -> None:
    objects = render("replicas=2")
    budget = objects["PodDisruptionBudget/fovea"]["spec"]
    assert budget["minAvailable"] == 1
    assert budget["selector"] == objects["Deployment/fovea"]["spec"]["selector"]


def test_optional_parts(render: Render) -> None:
    objects = render(
        "metrics.serviceMonitor.enabled=true",
        "metrics.podMonitor.enabled=true",
        'metrics.podMonitor.interval="7s"',
        "metrics.prometheusRule.enabled=true",
        'metrics.prometheusRule.runbooks="https://wiki.example/runbooks"',
        "metrics.dashboard.enabled=true",
        "networkPolicy.enabled=true",
    )
    assert objects["ServiceMonitor/fovea"]["spec"]["endpoints"][0]["port"] == "metrics"
    gateways = objects["PodMonitor/fovea-gateways"]["spec"]
    assert gateways["namespaceSelector"] == {"any": True}
    assert gateways["podMetricsEndpoints"] == [
        {"port": "metrics", "path": "/metrics", "interval": "7s", "honorLabels": True}
    ]
    rules = [rule for group in objects["PrometheusRule/fovea"]["spec"]["groups"] for rule in group["rules"]]
    for rule in rules:
        assert rule["annotations"]["runbook_url"] == f"https://wiki.example/runbooks#{rule['alert'].lower()}"
    pages = {name: json.loads(text) for name, text in objects["ConfigMap/fovea-dashboards"]["data"].items()}
    assert pages.keys() == {f"fovea-{name}.json" for name in ("operator", "training", "dataset", "serving", "drift")}
    assert all(page["panels"] for page in pages.values())
    assert objects["NetworkPolicy/fovea"]["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_switches_leave_parts_out(render: Render) -> None:
    full, bare = (
        render(),
        render(
            "crds.install=false",
            "rbac.create=false",
            "runPolicy=false",
            "metrics.service.enabled=false",
            "serviceAccount.create=false",
            'serviceAccount.name="mine"',
        ),
    )
    assert {name for name in full if name.startswith(("CustomResource", "Validating", "Service"))}
    left = {name for name in bare if not name.startswith("ClusterRole/fovea-")}
    assert left == {"Deployment/fovea"}
    assert bare["Deployment/fovea"]["spec"]["template"]["spec"]["serviceAccountName"] == "mine"


def test_an_existing_service_account_needs_its_name(render: Render) -> None:
    with pytest.raises(ValueError, match=r"serviceAccount\.name: name the existing ServiceAccount"):
        render("serviceAccount.create=false")


def test_crds_are_all_there_and_kept(render: Render) -> None:
    crds = [one for one in render().values() if one["kind"] == "CustomResourceDefinition"]
    assert {one["spec"]["names"]["plural"] for one in crds} == {
        "datasets",
        "trainingjobs",
        "tuningsweeps",
        "modeldeployments",
        "runs",
    }
    sources = [yaml.safe_load(path.read_text()) for path in (CHART / "files" / "crds").glob("*.yaml")]
    schemas = {source["metadata"]["name"]: source["spec"] for source in sources}
    for crd in crds:
        name = crd["metadata"]["name"]
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        assert crd["spec"] == schemas[name], f"rendering changed the schema of {name}"


def rules(role: Manifest) -> set[tuple[str, str, str, str]]:
    """(group, resource, verb, name) of every grant; name is * where any object is meant."""
    return {
        (group, resource, verb, name)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", ["*"])
    }


def test_operator_has_no_right_that_it_does_not_need(render: Render) -> None:
    objects = render()
    grants = rules(objects["ClusterRole/fovea-operator"]) | rules(objects["ClusterRole/fovea-namespaces"])
    assert not {grant for grant in grants if "*" in grant[:3]}
    assert not {grant for grant in grants if grant[1] in {"secrets", "pods/exec", "nodes"}}
    assert not {grant for grant in grants if grant[2] in {"escalate", "impersonate", "deletecollection"}}
    assert {verb for group, resource, verb, _ in grants if resource == "pods"} == {"get", "list", "watch"}
    assert {grant for grant in grants if grant[2] == "bind" or grant[1].startswith("cluster")} == {
        ("rbac.authorization.k8s.io", "clusterroles", "bind", "fovea-run")
    }


def test_gateways_may_ask_whose_a_token_is_and_no_more(render: Render) -> None:
    def groups(objects: dict[str, Manifest]) -> list[str]:
        return [subject["name"] for subject in objects["ClusterRoleBinding/fovea-token-reviews"]["subjects"]]

    everywhere, two, off = render(), render('operator.namespaces=["a","b"]'), render("rbac.tokenReviews=false")
    assert rules(everywhere["ClusterRole/fovea-token-reviews"]) == {
        ("authentication.k8s.io", "tokenreviews", "create", "*")
    }
    assert groups(everywhere) == ["system:serviceaccounts"]
    assert groups(two) == ["system:serviceaccounts:a", "system:serviceaccounts:b"]
    assert "ClusterRoleBinding/fovea-token-reviews" not in off


def test_served_namespaces_bound_the_operators_rights(render: Render) -> None:
    everywhere, two = render(), render('operator.namespaces=["a","b"]')
    assert "ClusterRoleBinding/fovea-operator" in everywhere
    assert "ClusterRoleBinding/fovea-operator" not in two
    assert {"a/RoleBinding/fovea-operator", "b/RoleBinding/fovea-operator"} <= set(two)
    assert rules(two["ClusterRole/fovea-namespaces"]) == {
        ("", "namespaces", verb, "*") for verb in ("get", "list", "watch")
    }


def test_runs_may_patch_the_status_of_runs_only(render: Render) -> None:
    assert rules(render()["ClusterRole/fovea-run"]) == {("fovea.dev", "runs/status", "patch", "*")}


def test_users_read_runs_and_never_write_them(render: Render) -> None:
    objects = render()
    for role in ("fovea-view", "fovea-edit"):
        grants = rules(objects[f"ClusterRole/{role}"])
        assert {verb for _, resource, verb, _ in grants if resource == "runs"} == {"get", "list", "watch"}
        assert not {grant for grant in grants if grant[1].endswith("/status")}
    labels = objects["ClusterRole/fovea-edit"]["metadata"]["labels"]
    assert labels["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    closed = render("rbac.aggregate=false")["ClusterRole/fovea-edit"]["metadata"]["labels"]
    assert not any(label.startswith("rbac.") for label in closed)


def test_names_and_labels_can_be_replaced(render: Render) -> None:
    objects = render('fullnameOverride="vision"', 'commonLabels={"team":"platform"}')
    assert "Deployment/vision" in objects
    assert all(one["metadata"]["labels"]["team"] == "platform" for one in objects.values())
