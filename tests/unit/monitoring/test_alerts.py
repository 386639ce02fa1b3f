"""The alerts by promtool: each fires on what it is for, and is silent just before that."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from fovea_operator.gauges import ObjectGauges
from fovea_operator.kinds import builtin
from fovea_operator.metrics import Metrics as OperatorMetrics
from fovea_serving.gateway.metrics import Metrics as GatewayMetrics
from prometheus_client import CollectorRegistry

from monitoring.alerts import Alert, alerts
from monitoring.dashboards import DASHBOARDS
from tests.kube import ROOT

RULES = ROOT / "monitoring" / "prometheus" / "alerts.yaml"
OWNER = {"namespace": "ns", "deployment": "cells"}
OBJECT = {"namespace": "ns", "name": "cells"}
SERVED = '{namespace="ns", deployment="cells", run="r-1", role="stable"%s}'


@dataclass(frozen=True)
class Case:
    """Series, by promtool's notation at one value a minute, and the labels with which an alert fires on them."""

    alert: str
    series: dict[str, str]
    minutes: int
    labels: dict[str, str] | None
    """None: it does not fire."""


def requests(good: int, bad: int, code: str = "503") -> dict[str, str]:
    """Requests a minute in a deployment with a promise."""
    name = "fovea_serving_requests_total"
    promised = 'fovea_serving_objective{namespace="ns", deployment="cells", metric="errorRate"}'
    return {
        name + SERVED % ', code="200"': f"0+{good}x60",
        name + SERVED % f', code="{code}"': f"0+{bad}x60",
        promised: "0.02+0x60",
    }


def latency(fast: int, slow: int) -> dict[str, str]:
    """Requests a minute below and above the promised 100 ms."""
    name = "fovea_serving_request_seconds_bucket"
    counts = {"0.05": fast, "0.1": fast, "0.2": fast + slow, "+Inf": fast + slow}
    promised = 'fovea_serving_objective{namespace="ns", deployment="cells", metric="latencyP95Milliseconds"}'
    buckets = {name + SERVED % f', le="{edge}"': f"0+{count}x60" for edge, count in counts.items()}
    return requests(fast + slow, 0) | buckets | {promised: "100+0x60"}


DEPLOYMENT = 'fovea_object_ready{kind="ModelDeployment", namespace="ns", name="cells"}'
DRIFT = 'fovea_modeldeployment_drift_detected{namespace="ns", name="cells"}'
ATTEMPTS = 'fovea_run_attempts_ended_total{type="Training", outcome="%s"}'
EPOCH = 'fovea_run_epoch{namespace="ns", name="cells"}'
ROLLOUT = 'fovea_modeldeployment_rollout{namespace="ns", name="cells", state="%s"}'
STALLED = 'fovea_object_stalled{kind="Dataset", namespace="ns", name="cells", reason="StoreNotConfigured"}'
GOLDEN = "fovea_serving_version_%s" + SERVED % ', instance="a"'
API = 'fovea_api_requests_total{verb="get", kind="Run", code="%s"}'

CASES = (
    Case("FoveaNoLeader", {"fovea_leader": "0+0x10"}, 8, {}),
    Case("FoveaNoLeader", {}, 8, {}),
    Case("FoveaNoLeader", {"fovea_leader": "1+0x10"}, 8, None),
    Case("FoveaTwoLeaders", {f'fovea_leader{{instance="{name}"}}': "1+0x10" for name in "ab"}, 5, {}),
    Case("FoveaTwoLeaders", {"fovea_leader": "1+0x10"}, 5, None),
    Case(
        "FoveaReconcileErrors",
        {'fovea_reconcile_errors_total{kind="Dataset", reason="Forbidden"}': "0+6x60"},
        40,
        {"kind": "Dataset", "reason": "Forbidden"},
    ),
    Case(
        "FoveaReconcileErrors", {'fovea_reconcile_errors_total{kind="Dataset", reason="Forbidden"}': "0+1x60"}, 40, None
    ),
    Case(
        "FoveaQueueSlow",
        {'fovea_queue_wait_seconds_bucket{kind="Run", le="30"}': "0+1x60"}
        | {f'fovea_queue_wait_seconds_bucket{{kind="Run", le="{edge}"}}': "0+10x60" for edge in ("60", "+Inf")},
        40,
        {"kind": "Run"},
    ),
    Case(
        "FoveaQueueSlow",
        {f'fovea_queue_wait_seconds_bucket{{kind="Run", le="{edge}"}}': "0+9x60" for edge in ("1", "30", "60", "+Inf")},
        40,
        None,
    ),
    Case("FoveaAPIRequestsFail", {API % "200": "0+90x60", API % "403": "0+10x60"}, 30, {}),
    Case("FoveaAPIRequestsFail", {API % "200": "0+90x60", API % "404": "0+10x60"}, 30, None),
    Case(
        "FoveaObjectStalled",
        {STALLED: "1+0x60"},
        20,
        OBJECT | {"kind": "Dataset", "reason": "StoreNotConfigured"},
    ),
    Case("FoveaObjectStalled", {STALLED: "1+0x10"}, 20, None),
    Case("FoveaObjectStalled", {STALLED.replace("StoreNotConfigured", "RolledBack"): "1+0x60"}, 20, None),
    Case(
        "FoveaAttemptsFail",
        {ATTEMPTS % "Failed": "0 0 6+0x60", ATTEMPTS % "Succeeded": "0 0 1+0x60"},
        30,
        {"type": "Training"},
    ),
    Case("FoveaAttemptsFail", {ATTEMPTS % "Failed": "0 0 2+0x60"}, 30, None),
    Case("FoveaTrainingStuck", {EPOCH: "3+0x120"}, 90, OBJECT),
    Case("FoveaTrainingStuck", {EPOCH: "3+0x50 4+0x60"}, 90, None),
    Case("FoveaTrainingStuck", {EPOCH: "3+0x120"}, 50, None),
    Case("FoveaCriteriaNotMet", {'fovea_trainingjob_eligible{namespace="ns", name="cells"}': "0+0x10"}, 5, OBJECT),
    Case("FoveaCriteriaNotMet", {'fovea_trainingjob_eligible{namespace="ns", name="cells"}': "1+0x10"}, 5, None),
    Case(
        "FoveaDatasetFindings",
        {'fovea_dataset_findings{namespace="ns", name="cells", finding="MissingImage", severity="Serious"}': "3+0x10"},
        5,
        OBJECT | {"finding": "MissingImage"},
    ),
    Case(
        "FoveaDatasetFindings",
        {'fovea_dataset_findings{namespace="ns", name="cells", finding="MissingImage", severity="Warning"}': "3+0x10"},
        5,
        None,
    ),
    Case("FoveaDeploymentDown", {DEPLOYMENT: "0+0x10"}, 8, OBJECT),
    Case("FoveaDeploymentDown", {DEPLOYMENT: "0 0 0 1+0x10"}, 8, None),
    Case("FoveaVersionFails", {GOLDEN % "ready": "0+0x10", GOLDEN % "weight": "100+0x10"}, 5, OWNER | {"run": "r-1"}),
    Case("FoveaVersionFails", {GOLDEN % "ready": "0+0x10", GOLDEN % "weight": "0+0x10"}, 5, None),
    Case("FoveaServingErrors", requests(90, 10), 15, OWNER),
    Case("FoveaServingErrors", requests(97, 3), 15, None),
    Case("FoveaServingErrors", requests(0, 1), 15, None),
    Case("FoveaErrorObjectiveMissed", requests(97, 3), 30, OWNER),
    Case("FoveaErrorObjectiveMissed", requests(99, 1), 30, None),
    Case("FoveaErrorObjectiveMissed", requests(90, 10, "422"), 30, None),
    Case("FoveaLatencyObjectiveMissed", latency(90, 10), 30, OWNER),
    Case("FoveaLatencyObjectiveMissed", latency(96, 4), 30, None),
    Case("FoveaRequestsShed", requests(90, 10, "429"), 15, OWNER),
    Case("FoveaRequestsShed", requests(90, 10), 15, None),
    Case("FoveaDriftDetected", {DRIFT: "0 1+0x10"}, 5, OBJECT),
    Case("FoveaDriftDetected", {DRIFT: "0+0x10"}, 5, None),
    Case("FoveaRolloutFailed", {ROLLOUT % "RolledBack": "1+0x10"}, 2, OBJECT),
    Case("FoveaRolloutFailed", {ROLLOUT % "PausedInconclusive": "1+0x10"}, 2, OBJECT),
    Case("FoveaRolloutFailed", {ROLLOUT % "PausedRequested": "1+0x10"}, 2, None),
    Case("FoveaRolloutFailed", {ROLLOUT % "None": "1+0x10"}, 2, None),
    Case("FoveaCopiesShed", {"fovea_serving_copies_shed_total" + SERVED % "": "0+5x60"}, 30, OWNER),
    Case("FoveaCopiesShed", {"fovea_serving_copies_shed_total" + SERVED % "": "0+0x60"}, 30, None),
    Case("FoveaGatewayUnmonitored", {DEPLOYMENT: "1+0x20"}, 15, OBJECT),
    Case(
        "FoveaGatewayUnmonitored",
        {DEPLOYMENT: "1+0x20", 'fovea_serving_images_at_work{namespace="ns", deployment="cells"}': "0+0x20"},
        15,
        None,
    ),
)


def test_each_alert_fires_on_what_it_is_for_and_on_nothing_else(tmp_path: Path) -> None:
    severities = {alert.name: alert.severity for alert in alerts()}
    file = tmp_path / "alerts_test.yaml"
    content = {"rule_files": [str(RULES)], "tests": [_group(case, severities[case.alert]) for case in CASES]}
    file.write_text(yaml.safe_dump(content))
    done = subprocess.run([promtool(), "test", "rules", str(file)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    fires, silent = ({case.alert for case in CASES if (case.labels is None) == none} for none in (False, True))
    assert fires == silent == severities.keys(), "an alert has no test"


def _group(case: Case, severity: str) -> dict[str, Any]:
    """promtool's group: the alert as a series, so that the wording needs no repetition."""
    labels = {"alertname": case.alert, "alertstate": "firing", "severity": severity, **(case.labels or {})}
    shown = ", ".join(f'{name}="{value}"' for name, value in labels.items())
    expected = [{"labels": f"ALERTS{{{shown}}}", "value": 1}] if case.labels is not None else []
    asked = f'ALERTS{{alertname="{case.alert}", alertstate="firing"}}'
    return {
        "interval": "1m",
        "name": case.alert,
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "promql_expr_test": [{"expr": asked, "eval_time": f"{case.minutes}m", "exp_samples": expected}],
    }


def test_prometheus_takes_the_rules() -> None:
    done = subprocess.run([promtool(), "check", "rules", str(RULES)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", list(alerts()), ids=lambda alert: alert.name)
def test_each_alert_has_a_section_in_the_runbooks(alert: Alert) -> None:
    sections = (ROOT / "docs" / "runbooks.md").read_text().split("\n## ")
    section = next((each for each in sections if each.startswith(f"{alert.name}\n")), "")
    assert len(section.split()) > 20, f"docs/runbooks.md has no section {alert.name} that says what to do"


def test_runbooks_are_about_alerts_that_exist() -> None:
    sections = re.findall(r"^## (Fovea\w+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE)
    assert sections == [alert.name for alert in alerts()]


def test_alerts_and_dashboards_name_series_that_exist() -> None:
    objects = CollectorRegistry()
    objects.register(ObjectGauges(builtin(), lambda kind: ()))
    registries = (OperatorMetrics().registry, GatewayMetrics().registry, objects)
    exposed = {name for registry in registries for family in registry.collect() for name in _series(family)}
    queries = [alert.expression for alert in alerts()]
    queries += [query.expr for page in DASHBOARDS for panel in page.panels for query in panel.queries]
    queries += [series for page in DASHBOARDS for _, series in page.variables]
    used = {name for query in queries for name in re.findall(r"\bfovea_\w+", query)}
    assert used <= exposed


def _series(family: Any) -> set[str]:
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
    return {family.name + suffix for suffix in suffixes}


def promtool() -> str:
    found = shutil.which("promtool")
    assert found, "promtool is missing: run `make tools`"
    return found
