"""What a retraining goes by, out of a snapshot."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from fovea_api.modeldeployment import ModelDeployment
from fovea_api.trainingjob import TrainingJob
from fovea_operator.kinds.modeldeployment.retraining_inputs import observed_of
from fovea_operator.kinds.modeldeployment.snapshot import DeploymentSnapshot
from fovea_operator.objects import parse
from fovea_operator.store import StoreConfig

DIGEST, VERSION = f"sha256-{'b' * 64}", f"sha256-{'2' * 64}"
NOW = datetime(2026, 11, 26, tzinfo=UTC)
JOB = {
    "metadata": {"name": "cells-winner", "namespace": "ns"},
    "spec": {"datasetRef": {"name": "cells"}, "model": {"architecture": "retinanet-efficientnet-lite0"}},
}


def snapshot(bundle: str, model: dict[str, Any] | None = None, **event: str) -> DeploymentSnapshot:
    """A version serves whose Run is not there any more."""
    history = {"cause": "c", "trigger": "Schedule", "time": "2026-11-25T00:00:00Z", "served": "r-00000f"} | event
    value = {
        "metadata": {"name": "cells", "namespace": "ns"},
        "spec": {"model": model or {"trainingJobRef": {"name": "cells-winner"}}},
        "status": {
            "stable": {"name": "r-000001", "run": "r-000001", "bundle": bundle},
            "retraining": {"history": [history]},
        },
    }
    store = StoreConfig("s3://fovea/ns", "fovea-store")
    return DeploymentSnapshot(
        deployment=parse(ModelDeployment, value), job=parse(TrainingJob, JOB), store=store, now=NOW
    )


@pytest.mark.parametrize(
    ("event", "version"),
    [({"served": "r-000001"}, None), ({"run": "r-000001", "datasetVersion": VERSION}, VERSION)],
)
def test_a_served_model_is_known_when_retrainings_have_pushed_its_run_out_of_the_history(
    event: dict[str, str], version: str | None
) -> None:
    """Each model that was not better is a Run more; the served one's is the oldest."""
    found = observed_of(snapshot(f"s3://models/bundles/{DIGEST}", **event)).champion
    assert found is not None
    assert (found.run, found.bundle.digest, found.version) == ("r-000001", DIGEST, version)


def test_the_model_of_another_job_or_of_an_unknown_digest_is_no_champion() -> None:
    assert observed_of(snapshot(f"s3://models/bundles/{DIGEST}", served="r-00000f")).champion is None
    assert observed_of(snapshot("s3://models/bundles/cells", served="r-000001")).champion is None


def test_the_job_of_a_sweeps_winner_is_the_one_that_is_asked() -> None:
    model = {"tuningSweepRef": {"name": "cells"}}
    assert observed_of(snapshot(f"s3://models/bundles/{DIGEST}", model)).job == "cells-winner"
