"""Where Prometheus finds Fovea's metrics: as a PodMonitor's spec, and in Prometheus' own configuration.

Labels of the series (`namespace`, `name`, `run`) name what they speak of and stay as they are: labels are honored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

INTERVAL = "15s"
"""Of the plain configuration; the chart has a value."""


@dataclass(frozen=True, slots=True)
class Target:
    """Pods that serve metrics."""

    job: str
    labels: Mapping[str, str]
    """Labels that the pods have."""
    port: str
    """Name of the container's port."""


OPERATOR = Target("fovea-operator", {"app.kubernetes.io/name": "fovea"}, "http")
GATEWAYS = Target("fovea-gateways", {"fovea.dev/kind": "ModelDeployment", "fovea.dev/component": "gateway"}, "metrics")


def pod_monitor(target: Target) -> dict[str, object]:
    """The spec of a PodMonitor, but for its namespaces and interval."""
    return {
        "selector": {"matchLabels": dict(target.labels)},
        "podMetricsEndpoints": [{"port": target.port, "path": "/metrics", "honorLabels": True}],
    }


def configuration() -> dict[str, object]:
    """A whole configuration of a Prometheus that runs in the cluster; the alerts are expected beside it."""
    return {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [_scrape(target) for target in (OPERATOR, GATEWAYS)],
    }


def _scrape(target: Target) -> dict[str, object]:
    selector = ",".join(f"{name}={value}" for name, value in target.labels.items())
    return {
        "job_name": target.job,
        "honor_labels": True,
        "kubernetes_sd_configs": [{"role": "pod", "selectors": [{"role": "pod", "label": selector}]}],
        "relabel_configs": list(_relabel(target)),
    }


def _relabel(target: Target) -> Iterator[dict[str, object]]:
    yield {
        "source_labels": ["__meta_kubernetes_pod_container_port_name"],
        "regex": target.port,
        "action": "keep",
    }
    for phase in ("Pending", "Succeeded", "Failed"):
        yield {"source_labels": ["__meta_kubernetes_pod_phase"], "regex": phase, "action": "drop"}
    for label, source in (("namespace", "namespace"), ("pod", "pod_name")):
        yield {"source_labels": [f"__meta_kubernetes_{source}"], "target_label": label}
