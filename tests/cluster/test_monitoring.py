"""A real Prometheus scrapes the operator and the gateways of the model that the demo deployed."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from monitoring import alerts
from monitoring.dashboards import SERVING
from monitoring.scraping import GATEWAYS, OPERATOR, Target
from tests.cluster.conftest import Demo
from tests.cluster.test_serving import address, load
from tests.prometheus import PodPort, Prometheus, running

pytestmark = pytest.mark.timeout(1200)


def discovered(demo: Demo, target: Target) -> list[PodPort]:
    """The ports of the pods that the target's labels select: what a Prometheus in the cluster would discover."""
    selector = ",".join(f"{name}={value}" for name, value in target.labels.items())
    return [
        PodPort(
            f"{pod['status']['podIP']}:{port['containerPort']}",
            port["name"],
            pod["status"]["phase"],
            pod["metadata"]["namespace"],
            pod["metadata"]["name"],
        )
        for pod in json.loads(demo.kubectl("get", "pods", "-A", "-l", selector, "-o", "json"))["items"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports", ())
        if "podIP" in pod["status"]
    ]


ELSEWHERE = ("Candidate: ", "FoveaCopiesShed", "FoveaRolloutFailed", "FoveaDriftDetected")
"""What has data where a candidate is tried or drift is looked for, which the demo does not."""


def without_data(prometheus: Prometheus) -> list[str]:
    """The queries about served models that give nothing."""
    panels = {f"{panel.title}: {query.expr}": query.expr for panel in SERVING.panels for query in panel.queries}
    values = {alert.name: alert.value for alert in alerts.SERVING.alerts}
    queries = {words: query for words, query in (panels | values).items() if not words.startswith(ELSEWHERE)}
    return [words for words, query in queries.items() if not prometheus.has_data(query)]


def test_prometheus_has_data_of_what_serves_and_alerts_on_what_is_missing(demo: Demo, tmp_path: Path) -> None:
    ports = {target.job: discovered(demo, target) for target in (OPERATOR, GATEWAYS)}
    with running(tmp_path, ports) as prometheus:
        with load(demo):
            wrong = urllib.request.Request(f"http://{address(demo)}/v1/predict", b"no image")
            with pytest.raises(urllib.error.HTTPError, match="415"):
                urllib.request.urlopen(wrong, timeout=30)
            demo.until(lambda: not without_data(prometheus))
        labels = {"namespace": demo.namespace, "deployment": "blood-cells", "role": "stable", "code": "200"}
        selector = ",".join(f'{name}="{value}"' for name, value in labels.items())
        assert prometheus.query(f"fovea_serving_requests_total{{{selector}}} > 0"), "labels are those of the gateway"
        wrongly = {"FoveaGatewayUnmonitored", "FoveaNoLeader", "FoveaDeploymentDown"}
        demo.until(lambda: not prometheus.firing() & wrongly)  # one scrape of a second that fails fires them here
        prometheus.discover(GATEWAYS.job, [])
        demo.until(lambda: "FoveaGatewayUnmonitored" in prometheus.firing())
        prometheus.discover(OPERATOR.job, [])
        demo.until(lambda: "FoveaNoLeader" in prometheus.firing())
