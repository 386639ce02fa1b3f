"""The chart on a cluster with models on it: upgrade, uninstall and install again change nothing of what users have."""

from __future__ import annotations

import subprocess

import pytest

from tests.cluster.conftest import SYSTEM, Demo
from tests.kube import ROOT

pytestmark = pytest.mark.timeout(1500)
NAME = "blood-cells"
OPERATOR = ("-n", SYSTEM, "get", "deployment", "fovea", "--ignore-not-found", "-o", "name")


def helm(demo: Demo, *arguments: str) -> str:
    command = ["helm", *arguments, "--namespace", SYSTEM]
    done = subprocess.run(command, env=demo.environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def state(demo: Demo) -> dict[str, str]:
    """Every object of Fovea's in the namespace with the version of its last change."""
    found = demo.get(demo.namespace, "datasets,trainingjobs,runs")["items"]
    return {f"{each['kind']}/{each['metadata']['name']}": each["metadata"]["resourceVersion"] for each in found}


def test_upgrade_uninstall_and_install_again(demo: Demo) -> None:
    values = helm(demo, "get", "values", "fovea", "--output", "yaml")
    before = state(demo)
    assert len(before) >= 4

    helm(
        demo, "upgrade", "fovea", str(ROOT / "charts" / "fovea"), "--reuse-values", "--force-conflicts",
        "--set", "operator.logLevel=DEBUG", "--wait", "--timeout", "3m",
    )  # fmt: skip
    shown = demo.kubectl("-n", SYSTEM, "get", "deployment", "fovea", "-o", "yaml")
    assert "DEBUG" in shown
    assert state(demo) == before, "an operator that starts anew writes nothing where nothing has changed"

    helm(demo, "uninstall", "fovea", "--wait", "--timeout", "3m")
    try:
        assert not demo.kubectl(*OPERATOR).strip()
        assert state(demo) == before
    finally:
        install(demo, values)
    assert state(demo) == before
    assert demo.ready("trainingjob", NAME) == ("True", "Succeeded")


def install(demo: Demo, values: str) -> None:
    command = ["helm", "upgrade", "--install", "fovea", str(ROOT / "charts" / "fovea"), "--namespace", SYSTEM]
    command += ["--values", "-", "--force-conflicts", "--wait", "--timeout", "3m"]
    subprocess.run(command, env=demo.environment, input=values, text=True, check=True, timeout=300)
