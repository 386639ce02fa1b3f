"""Server-side apply: when an object is written again, and what of it is left to others."""

from __future__ import annotations

from typing import Any

import pytest
from fovea_operator.ownership import differs, parse_path, to_apply

CONTAINER = {"name": "main", "image": "a:1", "resources": {"requests": {"cpu": "1000m"}}, "env": []}
MANIFEST: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "d", "labels": {"app": "d"}},
    "spec": {"replicas": 1, "template": {"spec": {"containers": [CONTAINER]}}},
}


def live(**changes: Any) -> dict[str, Any]:
    """What the API server has after an apply: defaults filled in, quantities in its own spelling, a status."""
    container = {**CONTAINER, "resources": {"requests": {"cpu": "1"}}, "imagePullPolicy": "Always"} | changes
    container.pop("env", None)
    sidecar = {"name": "injected", "image": "mesh:1"}
    spec = {"replicas": changes.pop("replicas", 1), "paused": False}
    applied = to_apply(MANIFEST)
    metadata = applied["metadata"] | {"uid": "u", "labels": {"app": "d", "team": "x"}}  # type: ignore[operator]
    template = {"spec": {"containers": [sidecar, container], "dnsPolicy": "ClusterFirst"}}
    return {**applied, "metadata": metadata, "spec": spec | {"template": template}, "status": {"replicas": 1}}


def changed(**spec: Any) -> dict[str, Any]:
    return {**MANIFEST, "spec": {**MANIFEST["spec"], **spec}}


def without(value: dict[str, Any], name: str) -> dict[str, Any]:
    return {**value, "spec": {key: part for key, part in value["spec"].items() if key != name}}


LEFT = to_apply(MANIFEST, (".spec.replicas",))
SITUATIONS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    # the object as it is, the manifest, whether it is applied again
    "nothing differs, whatever others added": (live(), MANIFEST, False),
    "it is of a list, whose items lack kind and version": (
        {name: part for name, part in live().items() if name not in ("apiVersion", "kind")},
        MANIFEST,
        False,
    ),
    "the manifest changed": (live(), changed(replicas=2), True),
    "the manifest lacks a field now": (live(), without(MANIFEST, "replicas"), True),
    "somebody changed a part": (live(image="b:1"), MANIFEST, True),
    "somebody removed a label": (
        {**live(), "metadata": {**live()["metadata"], "labels": {}}},
        MANIFEST,
        True,
    ),
    "somebody removed a container": ({**live(), "spec": {"replicas": 1, "template": {"spec": {}}}}, MANIFEST, True),
    "it was never applied": ({**live(), "metadata": {"name": "d", "labels": {"app": "d"}}}, MANIFEST, True),
    "a field that was left to others has their value": (
        {**live(), "metadata": {**live()["metadata"], **LEFT["metadata"]}, "spec": {**live()["spec"], "replicas": 7}},  # type: ignore[dict-item]
        MANIFEST,
        False,
    ),
    "a field beside it was changed": (
        {**live(image="b:1"), "metadata": {**live()["metadata"], **LEFT["metadata"]}},  # type: ignore[dict-item]
        MANIFEST,
        True,
    ),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_when_an_object_is_applied_again(name: str) -> None:
    found, manifest, expected = SITUATIONS[name]
    assert differs(found, manifest) is expected


def test_what_is_left_to_others_is_not_sent() -> None:
    image = '.spec.template.spec.containers[name="main"].image'
    sent: dict[str, Any] = to_apply(MANIFEST, (".spec.replicas", image))
    assert "replicas" not in sent["spec"]
    (container,) = sent["spec"]["template"]["spec"]["containers"]
    assert container == {name: part for name, part in CONTAINER.items() if name != "image"}
    assert MANIFEST["spec"]["replicas"] == 1
    assert sent["metadata"]["annotations"]["fovea.dev/left-to-others"].splitlines() == [".spec.replicas", image]
    whole: dict[str, Any] = to_apply(MANIFEST, ('.spec.template.spec.containers[name="main"]', ".spec.other.field"))
    assert whole["spec"]["template"]["spec"]["containers"] == []


def test_paths_as_the_api_server_writes_them() -> None:
    assert parse_path('.data.a-b[k="x.y]"].z') == ("data", "a-b", ("k", "x.y]"), "z")
    assert parse_path(".ports[containerPort=80].name") == ("ports", ("containerPort", "80"), "name")
