"""The API as a user meets it on a real API server: what is accepted, defaulted, explained and shown."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from fovea_api.schema import KINDS

from tests.controlplane.conftest import ControlPlane, Refused, good

EXAMPLES = ("dataset", "trainingjob", "tuningsweep", "modeldeployment")
MODELS = {kind.__name__.lower(): kind for kind in KINDS}
RUN = "r-0123456789"
DIGEST = "sha256-" + "0" * 64


def get(plane: ControlPlane, kind: str, name: str, namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plane.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
    return found


def set_status(plane: ControlPlane, kind: str, namespace: str, status: dict[str, Any]) -> None:
    patch = json.dumps({"status": status})
    arguments = ("--subresource=status", "--type=merge", "-p", patch)
    plane.kubectl("patch", kind, "blood-cells", "-n", namespace, *arguments)


def condition(type: str, status: str, reason: str) -> dict[str, str]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"type": type, "status": status, "reason": reason, "message": "", "lastTransitionTime": now}


def contains(whole: object, part: object) -> bool:
    """Whether everything in `part` stands unchanged in `whole`."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    return whole == part


@pytest.mark.parametrize("kind", EXAMPLES)
class TestNorthStar:
    def test_is_accepted_and_comes_back_unchanged(self, kind: str, control_plane: ControlPlane, namespace: str) -> None:
        manifest = good(kind)
        control_plane.apply(manifest, namespace=namespace)
        stored = get(control_plane, kind, "blood-cells", namespace)
        assert contains(stored["spec"], manifest["spec"])

    def test_server_and_models_fill_in_the_same_defaults(
        self, kind: str, control_plane: ControlPlane, namespace: str
    ) -> None:
        manifest = good(kind)
        control_plane.apply(manifest, namespace=namespace)
        stored = get(control_plane, kind, "blood-cells", namespace)
        model = MODELS[kind]
        ours = model.model_validate(manifest).to_dict()["spec"]
        assert contains(ours, stored["spec"])  # less than all: what must not mix with a later apply is not stored
        theirs = model.model_validate({"metadata": manifest["metadata"], "spec": stored["spec"]})
        assert theirs.to_dict()["spec"] == ours

    def test_a_repeated_apply_changes_nothing(self, kind: str, control_plane: ControlPlane, namespace: str) -> None:
        def applied() -> dict[str, Any]:
            control_plane.apply(good(kind), namespace=namespace)
            return get(control_plane, kind, "blood-cells", namespace)

        first, second, third = applied(), applied(), applied()
        assert first["status"]["observedGeneration"] == -1, (
            "nobody takes it for current before the operator has seen it"
        )
        assert first["metadata"]["generation"] == second["metadata"]["generation"]
        # The second apply stores the default of the status, where no operator has written one.
        assert second["metadata"]["resourceVersion"] == third["metadata"]["resourceVersion"]


MINIMAL: dict[str, Any] = {
    "apiVersion": "fovea.dev/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "blood-cells"},
    "spec": {"datasetRef": {"name": "blood-cells"}, "model": {"architecture": "resnet18"}},
}


def test_defaults_of_a_minimal_training_job(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.apply(MINIMAL, namespace=namespace)
    spec = get(control_plane, "trainingjob", "blood-cells", namespace)["spec"]
    assert spec["training"]["optimizer"] == {"layerDecay": 1, "momentum": 0.9, "nesterov": False}
    assert not {"epochs", "batchSize", "ema"} & spec["training"].keys(), "they are up to the preset"
    assert "augmentations" not in spec["input"]
    assert "pretrained" not in spec["model"]
    assert spec["export"]["formats"] == ["ONNX"]
    assert spec["runPolicy"]["retries"] == 3
    assert "earlyStopping" not in spec["training"]


BUNDLE = "s3://models/base/"
ADDED_LATER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # a TrainingJob's fields at the second apply, what is stored of them
    "a choice": (
        {"model": {"architecture": "resnet18", "pretrained": {"uri": BUNDLE}}},
        {"model": {"pretrained": {"uri": BUNDLE}}},
    ),
    "limits below the default requests": (
        {"compute": {"resources": {"limits": {"cpu": "1"}}}},
        {"compute": {"resources": {"requests": {}, "limits": {"cpu": "1"}}}},
    ),
}


@pytest.mark.parametrize("server_side", [True, False], ids=["server-side", "client-side"])
@pytest.mark.parametrize("added", ADDED_LATER)
def test_what_was_left_out_can_be_added(
    added: str, server_side: bool, control_plane: ControlPlane, namespace: str
) -> None:
    """Defaults of the first apply do not stand in the way of the second, nor mix with it."""
    fields, expected = ADDED_LATER[added]
    flags = ("--server-side", "--field-manager=tests") if server_side else ()
    for manifest in (MINIMAL, {**MINIMAL, "spec": {**MINIMAL["spec"], **fields}}):
        control_plane.kubectl("apply", *flags, "-n", namespace, "-f", "-", input=json.dumps(manifest))
    spec = get(control_plane, "trainingjob", "blood-cells", namespace)["spec"]
    for block, value in expected.items():
        for name, stored in value.items():
            assert spec[block][name] == stored


def test_a_retraining_recipe_gets_no_defaults(control_plane: ControlPlane, namespace: str) -> None:
    manifest = good("modeldeployment")
    control_plane.apply(manifest, namespace=namespace)
    stored = get(control_plane, "modeldeployment", "blood-cells", namespace)
    assert stored["spec"]["retraining"]["recipe"] == manifest["spec"]["retraining"]["recipe"]


def test_task_is_immutable(control_plane: ControlPlane, namespace: str) -> None:
    manifest = good("dataset")
    control_plane.apply(manifest, namespace=namespace)
    manifest["spec"]["task"] = "Classification"
    with pytest.raises(Refused, match="task is immutable; make a Dataset of another name"):
        control_plane.apply(manifest, namespace=namespace)


def run_manifest() -> dict[str, Any]:
    return {
        "apiVersion": "fovea.dev/v1alpha1",
        "kind": "Run",
        "metadata": {"name": RUN},
        "spec": {
            "type": "Training",
            "owner": {"kind": "TrainingJob", "name": "blood-cells"},
            "identity": DIGEST,
            "recipe": {"model": {"architecture": "resnet18", "options": {"width": 0.5}}},
            "store": "s3://fovea/haematology",
        },
    }


def test_run_keeps_its_recipe_and_is_immutable(control_plane: ControlPlane, namespace: str) -> None:
    manifest = run_manifest()
    control_plane.apply(manifest, namespace=namespace)
    stored = get(control_plane, "runs", RUN, namespace)
    assert stored["spec"]["recipe"] == manifest["spec"]["recipe"]
    manifest["spec"]["recipe"]["model"]["architecture"] = "resnet50"
    with pytest.raises(Refused, match="the spec of a Run is immutable"):
        control_plane.apply(manifest, namespace=namespace)


def test_run_status_takes_progress_and_result(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.apply(run_manifest(), namespace=namespace)
    status = {
        "progress": {"stage": "Training", "epoch": 4, "epochs": 8, "percent": 52, "eta": "3m10s"},
        "result": {
            "completedAt": "2026-11-24T20:00:00Z",
            "artifact": "s3://fovea/haematology/trainingjob/blood-cells/bundles/x",
            "digest": DIGEST,
            "metrics": {"test/mAP50": 0.896, "test/AP/RBC": 0.51},
            "training": {"bestEpoch": 7, "epochs": 8, "seconds": 360.5},
        },
    }
    body = {**run_manifest(), "status": status}
    del body["spec"]
    arguments = ("apply", "--server-side", "--subresource=status", "--field-manager=fovea-run", "-f", "-")
    control_plane.kubectl(*arguments, "-n", namespace, input=json.dumps(body))
    stored = get(control_plane, "runs", RUN, namespace)["status"]
    assert contains(stored, status)


class TestShown:
    def test_get_shows_what_matters(self, control_plane: ControlPlane, namespace: str) -> None:
        control_plane.apply(good("trainingjob"), namespace=namespace)
        progress = {
            "epoch": 4,
            "epochs": 8,
            "percent": 52,
            "eta": "3m10s",
            "best": {"name": "validation/mAP", "value": 0.45, "epoch": 3},
            "metrics": {"train/loss": 0.51},
        }
        conditions = [condition("Ready", "False", "Training")]
        set_status(
            control_plane,
            "trainingjob",
            namespace,
            {"phase": "Running", "run": RUN, "progress": progress, "conditions": conditions},
        )
        shown = control_plane.kubectl("get", "tj", "-n", namespace).splitlines()
        assert shown[0].split() == (
            ["NAME", "PHASE", "PROGRESS", "EPOCH", "METRIC", "BEST", "ETA", "RESULT", "ELIGIBLE", "REASON", "AGE"]
        )
        assert shown[1].split()[:7] == [
            "blood-cells",
            "Running",
            "52",
            "4",
            "validation/mAP",
            "0.45",
            "3m10s",
        ]
        wide = control_plane.kubectl("get", "tj", "-n", namespace, "-o", "wide")
        assert RUN in wide
        assert "0.51" in wide

    def test_category_lists_all_kinds(self, control_plane: ControlPlane, namespace: str) -> None:
        control_plane.apply(*map(good, EXAMPLES), namespace=namespace)
        names = control_plane.kubectl("get", "fovea", "-n", namespace, "-o", "name").split()
        assert sorted(name.split(".")[0] for name in names) == sorted(EXAMPLES)

    @pytest.mark.parametrize(("short", "kind"), list(zip(("dset", "tj", "sweep", "md"), EXAMPLES, strict=True)))
    def test_short_name(self, short: str, kind: str, control_plane: ControlPlane, namespace: str) -> None:
        control_plane.apply(good(kind), namespace=namespace)
        shown = control_plane.kubectl("get", short, "-n", namespace, "-o", "name")
        assert shown.strip() == f"{kind}.fovea.dev/blood-cells"

    @pytest.mark.parametrize("kind", EXAMPLES)
    def test_wait_for_ready(self, kind: str, control_plane: ControlPlane, namespace: str) -> None:
        control_plane.apply(good(kind), namespace=namespace)
        arguments = ("wait", f"{kind}/blood-cells", "-n", namespace, "--for=condition=Ready")
        with pytest.raises(Refused, match="timed out"):
            control_plane.kubectl(*arguments, "--timeout=1s")
        ready = {"observedGeneration": 1, "conditions": [condition("Ready", "True", "Done")]}
        set_status(control_plane, kind, namespace, ready)
        control_plane.kubectl(*arguments, "--timeout=20s")

    def test_scale(self, control_plane: ControlPlane, namespace: str) -> None:
        control_plane.apply(good("modeldeployment"), namespace=namespace)
        control_plane.kubectl("scale", "md/blood-cells", "-n", namespace, "--replicas=3")
        stored = get(control_plane, "md", "blood-cells", namespace)
        assert stored["spec"]["scaling"]["replicas"] == 3


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of a schema with its path."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields(field, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from fields(schema[key], path)


@pytest.fixture(scope="module")
def published(control_plane: ControlPlane) -> dict[str, Any]:
    """What the API server itself publishes, and kubectl explain reads."""
    text = control_plane.kubectl("get", "--raw", "/openapi/v3/apis/fovea.dev/v1alpha1")
    schemas: dict[str, Any] = json.loads(text)["components"]["schemas"]
    return schemas


class TestExplained:
    @pytest.mark.parametrize("kind", [kind.__name__ for kind in KINDS])
    def test_every_field_has_text(self, kind: str, published: dict[str, Any]) -> None:
        schema = published[f"dev.fovea.v1alpha1.{kind}"]
        assert schema["description"]
        ours = {part: schema["properties"][part] for part in ("spec", "status")}
        found = list(fields({"properties": ours}, kind))
        assert len(found) > 30
        assert [path for path, field in found if not field.get("description")] == []

    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ("trainingjob.spec.training.batchSize", "across all workers. Default: the preset"),
            ("dataset.spec.splits.groupBy.pattern", "named group"),
            ("tuningsweep.spec.parameters.logUniform.min", "Smallest value."),
            ("modeldeployment.spec.rollout.gates.ifUnmeasured", "too little is measured"),
            ("run.status.attempts.outcome", "How the attempt ended."),
        ],
    )
    def test_kubectl_explain(self, path: str, text: str, control_plane: ControlPlane) -> None:
        assert text in " ".join(control_plane.kubectl("explain", path).split())


def test_items_of_two_managers_are_merged(control_plane: ControlPlane, namespace: str) -> None:
    """List-map keys: another manager adds a source without touching those that are there."""
    control_plane.apply(good("dataset"), namespace=namespace)
    extra = {
        "apiVersion": "fovea.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": "blood-cells", "namespace": namespace},
        "spec": {
            "sources": [{"name": "clinic", "uri": "pvc://clinic/x", "format": "YOLO"}],
            "task": "Detection",
        },
    }
    result: subprocess.CompletedProcess[str] = control_plane.try_kubectl(
        "apply", "--server-side", "--field-manager=other", "-f", "-", input=json.dumps(extra)
    )
    assert result.returncode == 0, result.stderr
    names = [item["name"] for item in get(control_plane, "dset", "blood-cells", namespace)["spec"]["sources"]]
    assert sorted(names) == ["clinic", "hospital-b", "lab", "line-camera", "production", "simulated"]
