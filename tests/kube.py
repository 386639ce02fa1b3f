"""A cluster as kubectl sees it: for the tests with an API server alone and for those with nodes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DEVCLUSTER = ROOT / "devcluster" / "devcluster"
_HOME_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CACHE = Path(os.environ.get("FOVEA_CACHE") or _HOME_CACHE / "fovea")
BINARIES = CACHE / "bin"


class Refused(Exception):
    """kubectl failed; the message is its own."""


@dataclass(frozen=True)
class Kube:
    """A running cluster."""

    kubeconfig: Path

    def kubectl(self, *arguments: str, input: str | None = None, timeout: float = 120) -> str:
        """Runs kubectl; returns what it prints. Raises Refused with its words if it fails."""
        result = self.try_kubectl(*arguments, input=input, timeout=timeout)
        if result.returncode != 0:
            raise Refused(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def try_kubectl(
        self, *arguments: str, input: str | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        command = [_kubectl(), f"--kubeconfig={self.kubeconfig}", *arguments]
        return subprocess.run(command, input=input, capture_output=True, text=True, timeout=timeout)

    def get(self, namespace: str, *what: str) -> Any:
        """An object or a list as kubectl gives it; None where it does not exist."""
        found = self.try_kubectl("-n", namespace, "get", *what, "-o", "json")
        if "NotFound" in found.stderr:
            return None
        if found.returncode != 0:
            raise Refused(found.stderr.strip())
        return json.loads(found.stdout)

    def apply(self, *manifests: dict[str, Any], namespace: str) -> str:
        """Server-side apply as field manager `tests`, in the given namespace."""
        documents = [
            {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}} for manifest in manifests
        ]
        arguments = ("apply", "--server-side", "--field-manager=tests", "-f", "-")
        return self.kubectl(*arguments, input=yaml.safe_dump_all(documents))


def devcluster(*arguments: str) -> str:
    """Runs the development cluster's program; gives what it prints."""
    return subprocess.run([DEVCLUSTER, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def documents(file: Path) -> Sequence[dict[str, Any]]:
    """The manifests of a file."""
    return list(yaml.safe_load_all(file.read_text()))


def _kubectl() -> str:
    found = shutil.which("kubectl", path=f"{BINARIES}{os.pathsep}{os.environ.get('PATH', '')}")
    assert found, "kubectl is missing: run `devcluster/devcluster up --control-plane`"
    return found
