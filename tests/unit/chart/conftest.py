"""The chart rendered by the real helm."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

Manifest = dict[str, Any]
Render = Callable[..., dict[str, Manifest]]

CHARTS = Path(__file__).parents[3] / "charts"


@pytest.fixture(scope="session")
def document() -> ModuleType:
    """charts/document.py as a module."""
    spec = importlib.util.spec_from_file_location("document", CHARTS / "document.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def helm(document: ModuleType) -> str:
    """Path of the helm program."""
    try:
        return str(document.helm())
    except SystemExit as missing:
        pytest.fail(str(missing))


@pytest.fixture(scope="session")
def render(helm: str) -> Render:
    """`render("replicas=2", ...)`: objects by `Kind/name` (`namespace/Kind/name` outside the release's)."""

    def run(*values: str) -> dict[str, Manifest]:
        sets = [argument for value in values for argument in ("--set-json", value)]
        command = [helm, "template", "fovea", str(CHARTS / "fovea"), "--namespace", "fovea-system", *sets]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(done.stderr)
        objects = [one for one in yaml.safe_load_all(done.stdout) if one]
        assert len({name(one) for one in objects}) == len(objects), "two objects have one name"
        return {name(one): one for one in objects}

    return run


def name(manifest: Manifest) -> str:
    namespace = manifest["metadata"].get("namespace", "fovea-system")
    prefix = "" if namespace == "fovea-system" else f"{namespace}/"
    return f"{prefix}{manifest['kind']}/{manifest['metadata']['name']}"
