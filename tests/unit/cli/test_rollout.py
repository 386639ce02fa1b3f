"""`fovea rollout`: what a person sees and decides. A stand-in answers for kubectl, and notes what it is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fovea_api.errors import InvalidInput
from fovea_cli.rollout import command

CANDIDATE = {"name": "r-2", "bundle": "s3://models/2", "phase": "Canary", "weight": 25, "step": 2}
STABLE = {"name": "r-1", "bundle": "s3://models/1"}
GATE = {
    "metric": "errorRate",
    "outcome": "Inconclusive",
    "message": "errorRate, is 0.001 (0 to 0.02), must be at most 0.01",
}
FAILED = {"name": "r-2", "bundle": "s3://models/2", "reason": "GateFailed", "message": "errorRate, is 0.4"}
STALLED = {
    "type": "Stalled",
    "status": "True",
    "reason": "RolledBack",
    "message": "",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}


class Cluster:
    """A ModelDeployment behind a kubectl that gives it and carries annotations out."""

    def __init__(self, folder: Path) -> None:
        self.file, self.asked = folder / "deployment.json", folder / "asked"
        self.asked.touch()
        (folder / "kubectl").write_text(
            f'#!/bin/sh\ncase "$*" in *annotate*) echo "$@" >> {self.asked};; *) cat {self.file};; esac\n'
        )
        (folder / "kubectl").chmod(0o755)

    def has(self, annotations: dict[str, str] | None = None, **status: Any) -> None:
        self.file.write_text(
            json.dumps(
                {
                    "apiVersion": "fovea.dev/v1alpha1",
                    "kind": "ModelDeployment",
                    "metadata": {"name": "cells", "annotations": annotations or {}},
                    "spec": {"model": {"uri": "s3://models/2"}},
                    "status": {"stable": STABLE, **status},
                }
            )
        )

    def fovea(self, *arguments: str) -> Result:
        return CliRunner().invoke(command, [*arguments, "-n", "team"])

    def annotated(self) -> list[str]:
        return [line.split()[4] for line in self.asked.read_text().splitlines()]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return Cluster(tmp_path)


@pytest.mark.parametrize("verb", ["pause", "promote", "abort"])
def test_a_command_names_the_candidate(cluster: Cluster, verb: str) -> None:
    cluster.has(candidate=CANDIDATE)
    assert cluster.fovea(verb, "cells").exit_code == 0
    assert cluster.annotated() == [f"fovea.dev/rollout={verb}/r-2"]
    assert "--namespace team" in cluster.asked.read_text()


@pytest.mark.parametrize("verb", ["pause", "resume", "promote", "abort", "retry"])
def test_without_anything_to_act_on_it_is_refused(cluster: Cluster, verb: str) -> None:
    cluster.has()
    error = cluster.fovea(verb, "cells").exception
    assert isinstance(error, InvalidInput)
    assert "fovea rollout status cells" in str(error)
    assert cluster.annotated() == []


def test_resume_ends_the_pause_of_a_person_and_of_nobody_else(cluster: Cluster) -> None:
    paused = CANDIDATE | {"phase": "Paused", "pause": "Requested"}
    cluster.has({"fovea.dev/rollout": "pause/r-2"}, candidate=paused)
    assert cluster.fovea("resume", "cells").exit_code == 0
    assert cluster.annotated() == ["fovea.dev/rollout-"]
    cluster.has(candidate=paused | {"pause": "Failed"})
    assert "paused by its gates" in str(cluster.fovea("resume", "cells").exception)
    cluster.has(candidate=CANDIDATE)
    assert "is not paused" in str(cluster.fovea("resume", "cells").exception)
    cluster.has(candidate=paused)
    assert "is paused already" in str(cluster.fovea("pause", "cells").exception)


@pytest.mark.parametrize(
    "status", [{"rolledBack": FAILED}, {"candidate": CANDIDATE | {"phase": "Paused", "pause": "Failed"}}]
)
def test_retry_gives_a_new_value_each_time(cluster: Cluster, status: dict[str, Any]) -> None:
    cluster.has(**status)
    assert "r-2 starts again" in cluster.fovea("retry", "cells").output
    (annotation,) = cluster.annotated()
    assert annotation.startswith("fovea.dev/retry=20")
    cluster.has(rolledBack=FAILED, candidate=CANDIDATE | {"name": "r-3"})
    assert isinstance(cluster.fovea("retry", "cells").exception, InvalidInput), "another one is tried now"


def test_status_shows_shares_and_gates_and_ends_with_3_after_a_rollback(cluster: Cluster) -> None:
    cluster.has(candidate=CANDIDATE | {"analysis": [GATE], "counts": {"candidate/total": 1234}}, phase="Progressing")
    shown = cluster.fovea("status", "cells")
    assert shown.exit_code == 0
    for words in (
        "r-1   ###############..... 75 %",
        "r-2   #####............... 25 %",
        "5 [25] 50",
        "1,234 of at least",
    ):
        assert words in shown.output
    assert "? errorRate, is 0.001" in shown.output
    assert json.loads(cluster.fovea("status", "cells", "-o", "json").output)["candidate"]["weight"] == 25
    cluster.has(rolledBack=FAILED, conditions=[STALLED])
    shown = cluster.fovea("status", "cells", "--watch")
    assert (shown.exit_code, "GateFailed" in shown.output) == (3, True)
    cluster.has(rolledBack=FAILED)
    assert cluster.fovea("status", "cells", "--watch").exit_code == 0, "another version was promoted since"
