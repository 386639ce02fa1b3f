"""Trials on Ray Tune with two CPUs: several at a time, early stopping, and a worker that dies in mid-trial."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from fovea_api.errors import Interrupted
from fovea_trainer.local import tune_manifest
from fovea_trainer.tuning.errors import TakenOver
from fovea_trainer.tuning.journal import Phase
from fovea_trainer.tuning.ray_tune import _Searcher, _Watch, carry_out
from fovea_trainer.tuning.trial import Outcome
from ray import cloudpickle, tune
from studies import recipe, study
from test_tune_by_hand import journal, sweep


@pytest.fixture
def two_cpus() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("two_cpus")
@pytest.mark.slow
@pytest.mark.timeout(1500)  # workers of Ray yield to what CI builds beside the tests
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


class _Tuner:
    """Takes what Ray Tune is given, begins one trial and returns as Tune does after Ctrl-C."""

    given: Any = None

    def __init__(self, trainable: Any, *, tune_config: tune.TuneConfig, run_config: tune.RunConfig) -> None:
        _Tuner.given = run_config
        self._searcher: Any = tune_config.search_alg

    def fit(self) -> None:
        assert self._searcher.suggest("first")["job"].number == 1


def test_after_ctrl_c_the_sweep_goes_on_another_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "Tuner", _Tuner)
    for _ in range(4):
        made = study(tmp_path, recipe())
        with pytest.raises(Interrupted):
            carry_out(made, lambda: None)
    (entry,) = study(tmp_path, recipe()).entries
    assert (entry.phase, entry.started) == (Phase.RUNNING, 0)


def test_tune_keeps_no_checkpoints_and_counts_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that Tune is given is in one pod alone; the workers of a cluster do not see it."""
    monkeypatch.setattr(tune, "Tuner", _Tuner)
    made, heard = study(tmp_path, recipe()), []
    with pytest.raises(Interrupted):
        carry_out(made, lambda: heard.append(made.progress()))
    heard.clear()
    checkpoints = _Tuner.given.checkpoint_config
    assert (checkpoints.checkpoint_at_end, checkpoints.checkpoint_frequency) == (False, 0)
    made._ticked, made._kept = made._ticked - 40, made._kept - 40
    (watch,) = _Tuner.given.callbacks
    watch.on_step_end(1, [])
    assert heard, "the time that a long trial takes is reported meanwhile"
    assert study(tmp_path, recipe())._clock.seconds >= 40
    cloudpickle.dumps(watch)


def test_a_pod_that_is_asked_to_stop_waits_for_no_trial_and_breaks_off_no_write(tmp_path: Path) -> None:
    """What a signal interrupted would be half a write, and Tune makes a text of an error in a trial's callback."""
    made = study(tmp_path, recipe())
    searcher, stop = _Searcher(made, lambda: None), threading.Event()
    watch = _Watch(made, searcher, stop, lambda: None)
    watch.on_step_end(1, [])
    stop.set()
    with pytest.raises(Interrupted, match="asked to stop"):
        watch.on_step_end(2, [])


def test_sigterm_ends_the_trials_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(_Tuner):
        def fit(self) -> None:
            super().fit()
            os.kill(os.getpid(), signal.SIGTERM)
            (watch,) = _Tuner.given.callbacks
            watch.on_step_end(1, [])

    monkeypatch.setattr(tune, "Tuner", Asked)
    with pytest.raises(Interrupted, match="asked to stop"):
        carry_out(study(tmp_path, recipe()), lambda: None)


def test_trials_at_work_end_when_another_process_has_taken_over(tmp_path: Path) -> None:
    made = study(tmp_path, recipe())
    searcher = _Searcher(made, lambda: None)
    watch = _Watch(made, searcher, threading.Event(), lambda: None)
    assert searcher.suggest("first")["job"].number == 1
    study(tmp_path, recipe())
    searcher.on_trial_complete("first", {"outcome": Outcome()})
    with pytest.raises(TakenOver):
        watch.on_step_end(1, [])
