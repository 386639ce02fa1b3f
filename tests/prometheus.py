"""A real Prometheus with the configuration that monitoring/ generates, at one scrape a second and alerts without delay.

Of the configuration only the discovery is replaced, by files with the labels that Kubernetes' discovery would give:
Debian's Prometheus is built without it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from monitoring.scraping import GATEWAYS, OPERATOR
from tests.kube import ROOT
from tests.ports import free_port

CONFIGURATION = ROOT / "monitoring" / "prometheus"
START_SECONDS = 120.0
"""It only ends a hang."""


def keda_example() -> dict[str, Any]:
    """KEDA's ScaledObject in docs/operations.md."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL)
    (found,) = (block for block in blocks if "kind: ScaledObject" in block)
    return dict(yaml.safe_load(found))


@dataclass(frozen=True)
class PodPort:
    """A port of a pod, as discovery reports it."""

    address: str
    name: str
    phase: str = "Running"
    namespace: str = "elsewhere"
    pod: str = "pod"


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus. `folder`: its configuration."""

    address: str
    folder: Path

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        asked = f"{self.address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return list(json.loads(answer.read())["data"]["result"])

    def has_data(self, expression: str) -> bool:
        """Whether a query, of an alert or of a dashboard, gives at least one number."""
        for variable in ("$namespace", "$deployment", "$name"):
            expression = expression.replace(variable, ".*")
        found = self.query(expression.replace("$__rate_interval", "10s"))
        return any(each["value"][1] != "NaN" for each in found)

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        return {each["metric"]["alertname"] for each in self.query('ALERTS{alertstate="firing"}')}

    def discover(self, job: str, ports: Sequence[PodPort]) -> None:
        """Gives a job other targets."""
        found = [
            {
                "targets": [port.address],
                "labels": {
                    "__meta_kubernetes_namespace": port.namespace,
                    "__meta_kubernetes_pod_name": port.pod,
                    "__meta_kubernetes_pod_container_port_name": port.name,
                    "__meta_kubernetes_pod_phase": port.phase,
                },
            }
            for port in ports
        ]
        part = self.folder / f"{job}.part"
        part.write_text(json.dumps(found))
        part.rename(self.folder / f"{job}.json")


@contextmanager
def running(folder: Path, ports: Mapping[str, Sequence[PodPort]]) -> Iterator[Prometheus]:
    """A Prometheus that scrapes these ports of pods, by job."""
    program = shutil.which("prometheus")
    assert program, "prometheus is missing: run `make tools`"
    port = free_port()
    found = Prometheus(f"http://127.0.0.1:{port}", folder)
    for job, its_ports in ports.items():
        found.discover(job, its_ports)
    command = [program, f"--config.file={_configuration(folder)}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        address = f"--web.listen-address=127.0.0.1:{port}"
        process = subprocess.Popen([*command, address], stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait(found, process)
        yield found
    finally:
        process.terminate()
        process.wait(120)


def _configuration(folder: Path) -> Path:
    content = yaml.safe_load((CONFIGURATION / "prometheus.yaml").read_text())
    content["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    for target, job in zip((OPERATOR, GATEWAYS), content["scrape_configs"], strict=True):
        assert job["job_name"] == target.job
        assert [each["role"] for each in job.pop("kubernetes_sd_configs")] == ["pod"]
        job["file_sd_configs"] = [{"files": [str(folder / f"{target.job}.json")], "refresh_interval": "1s"}]
    rules = yaml.safe_load((CONFIGURATION / "alerts.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    (folder / "alerts.yaml").write_text(yaml.safe_dump(rules))
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def _wait(found: Prometheus, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, (found.folder / "log").read_text()
        try:
            found.query("vector(1)")
            return
        except OSError:  # what urllib raises is one
            time.sleep(0.25)
    raise AssertionError(f"Prometheus does not answer: {(found.folder / 'log').read_text()}")
