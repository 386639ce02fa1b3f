"""A real cluster with nodes, KubeRay and an S3 store, on which the README's `make demo` has run."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from fovea_store import StorePath

from tests.kube import CACHE, ROOT, Kube, devcluster, documents

NAMESPACE_VARIABLE = "FOVEA_DEMO_NAMESPACE"
"""Names a namespace in which `make demo` has run already, for work on these tests; it is left as it is."""
SYSTEM = "fovea-system"
HANGS = 300
"""Seconds after which what takes some on an idle machine is given up."""
FOVEA = Path(sys.executable).with_name("fovea")


@dataclass(frozen=True)
class Demo(Kube):
    """The cluster after the demo."""

    namespace: str
    summary: Mapping[str, Any]
    credentials: Path
    """Folder with the store's settings, a file each, as in a mounted Secret."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which `fovea`, kubectl and helm find cluster and store."""
        settings = {file.name: file.read_text() for file in self.credentials.iterdir()}
        path = f"{CACHE / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, **settings, "KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def stored(self, uri: str) -> StorePath:
        """What lies in the store."""
        return StorePath.parse(uri, str(self.credentials))

    def object(self, kind: str, name: str) -> Any:
        """An object of the demo's namespace; None where it does not exist."""
        return self.get(self.namespace, kind, name)

    def condition(self, kind: str, name: str, type: str = "Ready") -> Mapping[str, Any]:
        """A condition of the object as it was applied last; empty before there is one."""
        found = self.object(kind, name) or {"metadata": {"generation": None}}
        conditions = (found.get("status") or {}).get("conditions", ())
        current = (each for each in conditions if each["observedGeneration"] == found["metadata"]["generation"])
        return next((each for each in current if each["type"] == type), {})

    def ready(self, kind: str, name: str) -> tuple[str, str]:
        """Status and reason of the object's condition Ready."""
        found = self.condition(kind, name)
        return found.get("status", ""), found.get("reason", "")

    def message(self, kind: str, name: str) -> str:
        """Words of the object's condition Ready."""
        return str(self.condition(kind, name).get("message", ""))

    def wait_ready(self, kind: str, name: str, seconds: float = HANGS) -> Any:
        """The object, once it is Ready. Fails as soon as it cannot go on."""
        self.until(lambda: self.ready(kind, name)[0] == "True" or self._stalled(kind, name), seconds)
        assert self.ready(kind, name)[0] == "True", self._stalled(kind, name)
        return self.object(kind, name)

    def _stalled(self, kind: str, name: str) -> str:
        held = self.condition(kind, name, "Stalled")
        return str(held) if held.get("status") == "True" else ""

    def until(self, what: Callable[[], Any], seconds: float = HANGS, pause: float = 1) -> Any:
        """What the callable gives, as soon as it is true; fails with what the namespace looks like."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := what():
                return found
            time.sleep(pause)
        state = self.kubectl("-n", self.namespace, "get", "fovea,rayjobs,pods", "-o", "wide")
        pytest.fail(f"waited {seconds:.0f} s in vain for this\n{state}")

    def events(self, name: str) -> list[tuple[str, str]]:
        """Reason and words of the events about an object, oldest first."""
        found = self.get(self.namespace, "events", f"--field-selector=involvedObject.name={name}")["items"]
        return [(each["reason"], each["message"]) for each in sorted(found, key=lambda each: each["eventTime"] or "")]

    def run(self, name: str) -> Any:
        """The current Run of a TrainingJob; None before there is one."""
        named = ((self.object("trainingjob", name) or {}).get("status") or {}).get("run")
        return self.object("run", named) if named else None

    def log(self, run: str) -> str:
        """What the Run's attempts printed, as `fovea logs` shows it."""
        command = [FOVEA, "logs", run, "--namespace", self.namespace]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout

    def resumed(self, run: str) -> list[list[int]]:
        """For each attempt, the epochs after which training was taken up again, as the log reports."""
        attempts = self.log(run).split("--- attempt ")[1:]
        return [[int(epoch) for epoch in re.findall(r"training goes on after epoch (\d+)", part)] for part in attempts]

    def epoch(self, name: str) -> float:
        """How far a TrainingJob's current run is."""
        status = (self.run(name) or {}).get("status", {})
        return float(status.get("progress", {}).get("epoch", 0))


def short_job(epochs: int, min_map50: float) -> dict[str, Any]:
    """The TrainingJob of the blood cells on images of half the pixels, 40 s an epoch on a core: what it learns is the
    demo's to show, how it gets there is what the tests of faults and of the README's commands are about."""
    _, job = copy.deepcopy(documents(ROOT / "examples" / "blood-cells.yaml"))
    del job["spec"]["compute"]["resources"]["limits"]  # one thread: what happens in mid-epoch has time to
    job["spec"]["input"]["size"] = {"width": 224, "height": 160}
    job["spec"]["training"] |= {"epochs": epochs, "schedule": {"name": "OneCycle", "warmupEpochs": 1}}
    job["spec"]["successCriteria"] = [{"metric": "test/mAP50", "min": min_map50}]
    return dict(job)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The loop comes last: what the demo left, and what all others look at, is another model and dataset after it."""
    items.sort(key=lambda item: item.path.name == "test_loop.py")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """The cluster after `make demo` in a namespace of its own; run pytest with -s to see it work."""
    given = os.environ.get(NAMESPACE_VARIABLE)
    namespace = given or f"fovea-demo-{uuid.uuid4().hex[:6]}"
    if not given:
        environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
        command = ["make", "--no-print-directory", "-C", str(ROOT), "demo"]
        variables = {"NAMESPACE": namespace, "CLUSTER": "devcluster", "LOOP": "no"}  # test_loop.py has the loop
        code, said = show(command, environment | variables)
        if code != 0:  # no other test can be without it
            seen = Kube(Path(devcluster("kubeconfig"))).try_kubectl("get", "nodes,pods", "-A", "-o", "wide")
            pytest.exit(f"`make demo` failed:\n{said}\n{seen.stdout}{seen.stderr}", returncode=1)
    folder = tmp_path_factory.mktemp("store")
    secret = yaml.safe_load((CACHE / "cluster" / "s3-secret.yaml").read_text())
    for key, value in secret["stringData"].items():
        (folder / key).write_text(value)
    summary = json.loads((ROOT / ".demo" / "summary.json").read_text())
    kube = Demo(Path(devcluster("kubeconfig")), namespace, summary, folder)
    yield kube
    if not given:
        kube.kubectl("delete", "namespace", namespace, "--wait=false")


def show(command: Sequence[str | Path], environment: Mapping[str, str]) -> tuple[int, str]:
    """Shows what a command prints as it comes; gives its exit code and its last words."""
    said: deque[str] = deque(maxlen=30)
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(line)
    return process.returncode, "".join(said)


@pytest.fixture
def environment(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's credentials, for what reads it here."""
    for name, value in demo.environment.items():
        monkeypatch.setenv(name, value)
