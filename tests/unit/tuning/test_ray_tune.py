"""Trials on Ray Tune with two CPUs: several at a time, early stopping, and a worker that dies in mid-trial."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from fovea_trainer.local import tune_manifest
from fovea_trainer.tuning.journal import Phase
from fovea_trainer.tuning.ray_tune import _Searcher
from ray import cloudpickle
from studies import recipe, study
from test_tune_by_hand import journal, sweep


@pytest.fixture
def two_cpus() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("two_cpus")
def test_eight_trials_end_on_two_cpus_with_early_stopping(tmp_path: Path) -> None:
    """Tune with Ray Train's workers hangs here (ray#54305)."""
    resources = {"requests": {"cpu": "1"}}
    path = sweep(tmp_path, trials={"max": 8, "parallel": 2}, compute={"resources": resources})
    result = tune_manifest(path, str(tmp_path / "store"), ray=True)
    assert result.sweep is not None
    counts = result.sweep.trials
    assert (counts.succeeded, counts.stopped_early, counts.failed, counts.running) == (2, 6, 0, 0)
    assert sorted(entry.epochs for entry in journal(tmp_path / "store")) == [1] * 6 + [4] * 2
    assert all(entry.phase in (Phase.SUCCEEDED, Phase.STOPPED_EARLY) for entry in journal(tmp_path / "store"))
    assert result.sweep.best is not None


def test_tune_can_pickle_a_searcher_that_reports_to_a_cluster(tmp_path: Path) -> None:
    """The reporter of a pod has a lock and a connection; on a cluster no sweep would start."""
    lock = threading.Lock()
    cloudpickle.dumps(_Searcher(study(tmp_path, recipe()), lambda: lock.acquire() and None))
