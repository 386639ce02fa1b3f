"""A kind of the tests' own, registered and reconciled on a real API server: no file of the operator knows it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fovea_api import names
from fovea_api.schema import custom_resource_definition
from fovea_operator.kinds import builtin
from fovea_operator.objects import RAY_JOB, RUN, TRAINING_JOB
from fovea_operator.rights import operator_rights

from tests.controlplane.conftest import ControlPlane
from tests.controlplane.showcase import CONFIG_MAP, ENTRY, SHOWCASE, Showcase
from tests.controlplane.test_operator import (
    VERSION,
    World,
    built,
    dataset,
    kuberay_crds,
    started,
    world,
)

__all__ = ["kuberay_crds", "world"]  # fixtures
NEWER = f"sha256-{'6' * 64}"
REGISTRY = builtin().extended(ENTRY)


@pytest.fixture
def showcases(control_plane: ControlPlane, tmp_path: Path) -> Iterator[None]:
    """The CRD of the tests' kind, made from its model."""
    crd = custom_resource_definition(Showcase)
    (tmp_path / "showcases.yaml").write_text(yaml.safe_dump(crd))
    control_plane.install_crds(tmp_path / "showcases.yaml")
    yield
    control_plane.kubectl("delete", "crd", crd["metadata"]["name"])
    for _ in range(50):  # `kubectl get fovea` of later tests goes by what kubectl remembers; this makes it ask anew
        if "showcases" not in control_plane.kubectl("api-resources", "--api-group=fovea.dev"):
            return
        time.sleep(0.2)
    raise AssertionError("the API server still offers showcases")


def showcase(title: str = "Cells") -> dict[str, Any]:
    spec = {"datasetRef": {"name": "blood-cells"}, "trainingJobRef": {"name": "blood-cells"}, "title": title}
    metadata = {"name": "display"}
    return {"apiVersion": names.API_VERSION, "kind": "Showcase", "metadata": metadata, "spec": spec}


def test_the_operators_rights_follow_from_the_entry() -> None:
    rights = operator_rights(REGISTRY)
    assert any("showcases" in rule.resources and "watch" in rule.verbs for rule in rights)
    assert any("showcases/status" in rule.resources and rule.verbs == ("patch",) for rule in rights)
    assert any(rule.group == "" and "configmaps" in rule.resources and "patch" in rule.verbs for rule in rights)


async def test_a_kind_of_ones_own_is_reconciled(world: World, showcases: None) -> None:
    def config_map() -> Any:
        found = world.plane.core.list_namespaced_config_map(world.namespace, field_selector="metadata.name=display")
        return found.items[0] if found.items else None

    def status() -> dict[str, Any]:
        return dict((world.get(SHOWCASE, "display") or {}).get("status", {}))

    def condition(type: str) -> str:
        return next((each["status"] for each in status().get("conditions", []) if each["type"] == type), "")

    def requested() -> dict[str, Any]:
        entries = (world.get(TRAINING_JOB, "blood-cells") or {}).get("status", {}).get("requestedRuns", [])
        return dict(entries[0]) if entries else {}

    async with world.operator(registry=REGISTRY) as operator:
        await world.apply(showcase())
        await world.until(lambda: condition("Reconciling") == "True")
        await built(world)
        first = await started(world)
        await asyncio.to_thread(lambda: world.trained(first, test__mAP50=0.9))
        await world.until(config_map)  # woken by the TrainingJob that it refers to
        assert config_map().data == {"title": "Cells", "bundle": "s3://fovea/bundle/"}
        await world.until(lambda: (condition("Ready"), condition("Reconciling")) == ("True", "False"))

        # The child is applied when it differs, and only then; what others set is theirs.
        world.writes.clear()
        await world.apply(showcase("Blood cells"))
        await world.until(lambda: config_map().data["title"] == "Blood cells")
        change = {"data": {"title": "by hand", "note": "kept"}}
        await asyncio.to_thread(world.plane.core.patch_namespaced_config_map, "display", world.namespace, change)
        await world.until(lambda: "left-to-others" in str(config_map().metadata.annotations))
        assert config_map().data == {"title": "by hand", "note": "kept", "bundle": "s3://fovea/bundle/"}
        await asyncio.to_thread(world.plane.core.delete_namespaced_config_map, "display", world.namespace)
        await world.until(lambda: config_map() and config_map().data["title"] == "Blood cells")
        applied = len([kind for _, kind in world.writes if kind == CONFIG_MAP.name])
        await asyncio.sleep(1)
        assert len([kind for _, kind in world.writes if kind == CONFIG_MAP.name]) == applied

        # A new dataset version, which the job itself ignores: the showcase asks the job for a run.
        await world.apply(dataset(quality={"minImagesPerClass": 3}))
        await world.until(lambda: len(world.builds()) == 2)
        await asyncio.to_thread(world.dataset_is_ready, NEWER)
        await world.until(lambda: requested().get("run"))
        second = requested()["run"]
        run = next(each for each in world.all(RUN) if each["metadata"]["name"] == second)
        assert second != first
        assert run["spec"]["recipe"]["training"]["epochs"] == 2
        assert run["spec"]["request"] == {
            "kind": "Showcase", "name": "display", "cause": NEWER, "recipe": {"training": {"epochs": 2}},
        }  # fmt: skip
        assert run["spec"]["inputs"]["dataset"]["version"] == NEWER != VERSION
        assert run["metadata"]["ownerReferences"][0]["kind"] == "TrainingJob"
        await world.until(lambda: status().get("run") == second)
        assert (condition("Ready"), condition("Reconciling")) == ("True", "True")
        assert world.ready(TRAINING_JOB)["status"] == "True"
        await world.until(lambda: any(each["metadata"]["name"] == f"{second}-1" for each in world.all(RAY_JOB)))
        await asyncio.to_thread(lambda: world.trained(second, test__mAP50=0.95))
        await world.until(lambda: requested().get("phase") == "Succeeded")
        await world.until(lambda: (condition("Ready"), condition("Reconciling")) == ("True", "False"))

    # A restart asks for nothing again, and writes nothing.
    world.writes.clear()
    async with world.operator(registry=REGISTRY):
        await asyncio.sleep(2)
        assert world.writes == []
        trainings = [each for each in world.all(RUN) if each["spec"]["type"] == "Training"]
        assert len(trainings) == 2
    text = operator.metrics.registry.get_sample_value("showcase_models_shown_total")
    assert text == 1
