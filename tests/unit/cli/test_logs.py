"""`fovea logs` finds the log of every run where the run keeps it. A stand-in answers for kubectl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fovea_api.errors import InvalidInput
from fovea_cli.logs import command

RUN = "r-0123456789"


def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: dict[str, Any]) -> Result:
    spec = {
        "type": "Training",
        "owner": {"kind": "TrainingJob", "name": "cells"},
        "identity": f"sha256-{'1' * 64}",
        "recipe": {"model": {"architecture": "resnet18"}},
        "store": str(tmp_path / "store"),
    }
    run = {"apiVersion": "fovea.dev/v1alpha1", "kind": "Run", "metadata": {"name": RUN}, "spec": spec, "status": status}
    (tmp_path / "answer").write_text(json.dumps(run))
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f"#!/bin/sh\ncat {tmp_path}/answer\n")
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return CliRunner().invoke(command, [RUN])


@pytest.mark.parametrize(
    "status",
    [
        {"result": {"completedAt": "2030-01-01T00:00:00Z", "error": {"reason": "InvalidInput", "message": "bad"}}},
        {"phase": "Running"},
        {},
    ],
    ids=["failed", "going on", "killed"],
)
def test_the_log_of_a_run_that_did_not_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: dict[str, Any]
) -> None:
    file = tmp_path / "store/trainingjob/cells/runs" / RUN / "log.txt"
    file.parent.mkdir(parents=True)
    file.write_text("--- attempt 1 ---\n")
    assert logs(tmp_path, monkeypatch, status).output == "--- attempt 1 ---\n"


def test_a_run_that_has_stored_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = logs(tmp_path, monkeypatch, {}).exception
    assert isinstance(error, InvalidInput)
    assert f"the run {RUN} has stored no log yet (kubectl logs -l fovea.dev/run={RUN}" in str(error)
