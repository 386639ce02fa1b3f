"""Data in the store: old versions go, all of it goes with its object, and nothing else does."""

from __future__ import annotations

import copy

import pytest
from fovea_store import StorePath

from tests.cluster.conftest import Demo
from tests.kube import ROOT, documents

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.usefixtures("environment")]
NAME = "blood-cells-deleted"


def test_old_versions_go_and_the_rest_with_the_object(demo: Demo) -> None:
    dataset, _ = copy.deepcopy(documents(ROOT / "examples" / "blood-cells.yaml"))
    dataset["metadata"]["name"] = NAME
    dataset["spec"] |= {"retainVersions": 1, "deletionPolicy": "Delete"}
    folders = []
    for classes in (["RBC"], ["RBC", "WBC"], ["RBC", "WBC", "Platelets"]):
        dropped = {name: "" for name in ("RBC", "WBC", "Platelets") if name not in classes}
        dataset["spec"] |= {"classes": classes, "classMap": dropped}
        demo.apply(dataset, namespace=demo.namespace)
        folders.append(demo.wait_ready("dataset", NAME, 300)["status"]["artifact"])
    first, parent, newest = (demo.stored(uri) for uri in folders)
    demo.until(lambda: not holds(first), 400)
    assert holds(parent), "its splits are those of the newest version"
    assert holds(newest)

    demo.kubectl("-n", demo.namespace, "delete", "dataset", NAME)
    demo.until(lambda: not holds(newest) and not holds(parent), 400)
    demo.until(lambda: NAME not in demo.kubectl("-n", demo.namespace, "get", "runs"))
    assert holds(demo.stored(demo.object("dataset", "blood-cells")["status"]["artifact"]))


def holds(folder: StorePath) -> bool:
    return folder.exists() and bool(folder.files())
