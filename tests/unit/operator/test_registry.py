"""The registry of kinds, and what follows from it: what is watched, who may do what, what is counted."""

from __future__ import annotations

from typing import Any

import pytest
from fovea_api.common import RunPolicy
from fovea_api.schema import KINDS
from fovea_api.trainingjob import Compute
from fovea_operator.kinds import builtin
from fovea_operator.metrics import Metrics
from fovea_operator.objects import DATASET, JOB, POD, RAY_CLUSTER, RAY_JOB, RUN, TRAINING_JOB, Key
from fovea_operator.registry import kind_of
from fovea_operator.rights import edit_rights, operator_rights, view_rights
from fovea_operator.runs.build import pods_digest

from tests.controlplane.showcase import CONFIG_MAP, ENTRY, SHOWCASE, SHOWN


def test_every_kind_that_users_write_is_registered_by_its_package() -> None:
    written = {model.__name__ for model in KINDS} - {"Run"}
    assert {kind.name for kind in builtin().primary} == written
    assert all(entry.kind == kind_of(entry.model) for entry in builtin().entries)


def test_children_are_watched_after_what_they_work_for() -> None:
    watched = builtin().watched
    assert {JOB, RAY_JOB, RAY_CLUSTER, POD} <= set(watched)
    assert watched.index(DATASET) < watched.index(RUN) < watched.index(JOB) < watched.index(POD)


def test_an_entry_is_all_that_a_kind_needs() -> None:
    registry = builtin().extended(ENTRY)
    assert {SHOWCASE, CONFIG_MAP} <= set(registry.watched)
    assert SHOWCASE not in builtin().watched
    labels = {"fovea.dev/kind": "Showcase", "fovea.dev/name": "display"}
    value: Any = {"metadata": {"namespace": "ns", "labels": labels}}
    assert registry.owner_of(value) == Key(SHOWCASE, "ns", "display")
    assert builtin().owner_of(value) is None
    spec = {"datasetRef": {"name": "cells"}, "trainingJobRef": {"name": "job"}}
    showcase: Any = {"metadata": {"name": "display", "namespace": "ns"}, "spec": spec}
    referred = set(registry.referred(SHOWCASE, showcase))
    assert referred == {Key(DATASET, "ns", "cells"), Key(TRAINING_JOB, "ns", "job")}
    metrics = Metrics(registry.metrics)
    metrics.count(SHOWN.name, ())
    assert metrics.registry.get_sample_value(SHOWN.name) == 1


def verbs(rights: Any, resource: str) -> set[str]:
    return {verb for rule in rights if resource in rule.resources for verb in rule.verbs}


def test_rights_follow_from_the_entries() -> None:
    registry = builtin().extended(ENTRY)
    operator, view, edit = operator_rights(registry), view_rights(registry), edit_rights(registry)
    assert verbs(operator, "showcases") == {"get", "list", "watch"}, "a user's object is never written"
    assert verbs(operator, "showcases/status") == {"patch"}
    assert {"create", "patch", "delete"} <= verbs(operator, "configmaps")
    assert verbs(operator, "rayclusters") == verbs(operator, "pods") == {"get", "list", "watch"}
    assert verbs(view, "showcases") == {"get", "list", "watch"}
    assert "delete" in verbs(edit, "showcases")
    assert verbs(edit, "runs") == {"get", "list", "watch"}, "users read Runs and never write them"


DIGESTS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    # compute, run policy, whether the digest is another one
    "nothing": ({}, {}, False),
    "a default that is spelled out": ({"workers": 1}, {}, False),
    "retries": ({}, {"retries": 9}, False),
    "the image": ({"image": "other"}, {}, True),
    "memory": ({"resources": {"limits": {"memory": "9Gi"}}}, {}, True),
    "the head's memory": ({"head": {"resources": {"limits": {"memory": "9Gi"}}}}, {}, True),
    "where pods run": ({"podTemplate": {"nodeSelector": {"gpu": "yes"}}}, {}, True),
    "the queue": ({}, {"queueName": "team"}, True),
}


@pytest.mark.parametrize("name", DIGESTS)
def test_what_makes_pods_others(name: str) -> None:
    compute, policy, other = DIGESTS[name]
    before = pods_digest(Compute(), RunPolicy())
    assert (pods_digest(Compute.model_validate(compute), RunPolicy.model_validate(policy)) != before) is other
