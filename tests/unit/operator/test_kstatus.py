"""How kstatus (Flux, Helm) and Argo CD read our objects."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from fovea_api.schema import custom_resource_definition
from fovea_api.trainingjob import TrainingJob
from fovea_operator.conditions import Assessment, conditions, progressing, ready, stalled, suspended
from lupa.lua51 import LuaRuntime  # the dialect of Argo CD

NOW = datetime(2026, 11, 24, 20, 0, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[3]


def thing(assessment: Assessment | None, observed: int = 2, suspend: bool = False) -> dict[str, Any]:
    """A TrainingJob of generation 2 as the API server shows it."""
    spec = {"runPolicy": {"suspend": True}} if suspend else {}
    status: dict[str, Any] = {"observedGeneration": observed}
    if assessment is not None:
        made = conditions(assessment, (), observed, NOW)
        status["conditions"] = [condition.to_dict() for condition in made]
    schema = custom_resource_definition(TrainingJob)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    unseen = schema["properties"]["status"]["default"]
    return {"metadata": {"generation": 2}, "spec": spec, "status": status if assessment is not None else unseen}


# An object, how kstatus reads it, and how Argo CD does.
SITUATIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "not seen by the operator": (thing(None), "InProgress", "Progressing"),
    "edited since": (thing(ready("Succeeded", "m"), observed=1), "InProgress", "Progressing"),
    "under way": (thing(progressing("Running", "m")), "InProgress", "Progressing"),
    "waits for a quota": (thing(progressing("WaitingForQuota", "m")), "InProgress", "Progressing"),
    "suspended": (thing(suspended("Suspended", "m"), suspend=True), "InProgress", "Suspended"),
    "suspending": (thing(progressing("Suspending", "m"), suspend=True), "InProgress", "Suspended"),
    "done, then suspended": (thing(ready("Succeeded", "m"), suspend=True), "Current", "Suspended"),
    "done": (thing(ready("Succeeded", "m")), "Current", "Healthy"),
    "failed": (thing(stalled("OOMKilled", "m")), "Failed", "Degraded"),
    "failed, and suspended": (thing(stalled("OOMKilled", "m"), suspend=True), "Failed", "Degraded"),
    "serves while a candidate is tried": (
        thing(ready("Serving", "m", meanwhile=progressing("Candidate", "m"))),
        "InProgress",
        "Progressing",
    ),
    "serves after a candidate failed": (
        thing(ready("Serving", "m", meanwhile=stalled("CandidateFailed", "m"))),
        "Failed",
        "Degraded",
    ),
}


def kstatus(value: dict[str, Any]) -> str:
    """`status.Compute` of sigs.k8s.io/cli-utils v0.37.2, for an object of a kind of which it knows nothing."""
    generation, status = value["metadata"]["generation"], value.get("status", {})
    if status.get("observedGeneration", generation) != generation:
        return "InProgress"
    states = [(each["type"], each["status"]) for each in status.get("conditions", ())]
    for condition in states:
        if condition == ("Reconciling", "True"):
            return "InProgress"
        if condition == ("Stalled", "True"):
            return "Failed"
    return next(
        ("Current" if holds == "True" else "InProgress" for type, holds in states if type == "Ready"), "Current"
    )


def argo_cd(value: dict[str, Any]) -> str:
    """The status that the script of our documentation gives."""
    page = (ROOT / "docs/operations.md").read_text()
    block = re.search(r"```yaml\n(data:\n  resource\.customizations\.health.*?)```", page, re.DOTALL)
    assert block is not None
    script = yaml.safe_load(block[1])["data"]["resource.customizations.health.fovea.dev_TrainingJob"]
    lua = LuaRuntime()
    lua.globals().obj = lua.table_from(value, recursive=True)
    return str(lua.execute(script)["status"])


@pytest.mark.parametrize("name", SITUATIONS)
def test_how_others_read_an_object(name: str) -> None:
    value, expected, in_argo_cd = SITUATIONS[name]
    assert (kstatus(value), argo_cd(value)) == (expected, in_argo_cd)


def test_an_object_without_a_status_would_be_taken_for_current() -> None:
    """That is why the API server gives every object an observed generation that is none."""
    assert kstatus({"metadata": {"generation": 1}}) == "Current"
