"""Trials on Ray Tune with two CPUs: several at a time, early stopping, and a worker that dies in mid-trial."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from fovea_api.common import Resources
from fovea_api.errors import Interrupted
from fovea_api.names import RAY_TRIAL
from fovea_api.run import Execution
from fovea_trainer.local import MOST_AT_ONCE, _ray, tune_manifest
from fovea_trainer.tuning.errors import TakenOver
from fovea_trainer.tuning.journal import Phase
from fovea_trainer.tuning.ray_tune import MOST_JOBS, _Search, _Searcher, _Watch, carry_out, room_for
from fovea_trainer.tuning.trial import Outcome
from ray import cloudpickle, tune
from ray.util import placement_group_table
from ray.util.state import list_actors
from studies import recipe, study
from test_tune_by_hand import journal, sweep
from test_tune_by_hand import tune as tune_by_hand


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


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_trials_of_two_workers_each_end_on_two_cpus_after_a_kill(tmp_path: Path) -> None:
    """Two trials may work at once, but there are CPUs for the workers of one. The process is killed in the second one,
    then a worker of Ray Train is."""
    compute = {"workers": 2, "resources": {"requests": {"cpu": "1"}}}
    path = sweep(tmp_path, epochs=2, trials={"max": 2, "parallel": 2}, compute=compute)
    store = tmp_path / "store"
    process = tune_by_hand(path, store, "--ray")
    wait_until(lambda: [each.phase for each in journal(store)] == [Phase.PAUSED, Phase.RUNNING], process)
    process.kill()
    process.communicate()
    first, _ = journal(store)
    ray.init(num_cpus=2, resources={RAY_TRIAL: 2}, log_to_driver=False)
    try:
        with ThreadPoolExecutor(1) as pool:
            sweeping = pool.submit(tune_manifest, path, str(store), ray=True)
            kill_a_worker()
            result = sweeping.result()
        assert {group["state"] for group in placement_group_table().values()} <= {"REMOVED"}
        assert ray.available_resources()["CPU"] == 2
    finally:
        ray.shutdown()
    assert result.sweep is not None
    counts = result.sweep.trials
    assert (counts.succeeded, counts.stopped_early, counts.failed, counts.running) == (1, 1, 0, 0)
    entries = journal(store)
    assert entries[0].curve[:1] == first.curve, "what was known is not made again"
    assert sorted(entry.epochs for entry in entries) == [1, 2]
    assert all(entry.usage.cpu_hours == pytest.approx(2 * entry.seconds / 3600) for entry in entries)
    assert not list(store.rglob("state.pt"))


def wait_until(what: Callable[[], bool], process: subprocess.Popen[str] | None = None, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill_a_worker() -> None:
    """Kills the process of a worker of Ray Train, as soon as there is one."""
    workers: list[int] = []

    def found() -> bool:
        here = ray.get_runtime_context().gcs_address  # a cluster on this machine may have Ray, too
        actors = list_actors(here, filters=[("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")])
        workers.extend(actor.pid for actor in actors)
        return bool(workers)

    wait_until(lambda: ray.is_initialized() and found())
    os.kill(workers[0], signal.SIGKILL)


@pytest.mark.parametrize("started", [False, True])
def test_a_ray_that_was_started_on_this_machine_is_connected_to(started: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses resources that a Ray of one's own is started with."""
    calls: list[Any] = []

    def init(resources: Any = None, **options: Any) -> None:
        if started and resources is not None:
            raise ValueError("When connecting to an existing cluster, resources must not be provided.")
        calls.append(resources)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    with _ray(True):
        assert calls == ([None] if started else [{RAY_TRIAL: MOST_AT_ONCE}])
    assert calls[-1] == "shutdown"


def test_no_more_trials_begin_than_there_is_room_for(tmp_path: Path) -> None:
    """One that waits for its workers would count against the budget."""
    execution = Execution(workers=2, resources=Resources(requests={"cpu": "2"}, limits={"nvidia.com/gpu": "1"}))
    assert room_for(execution, {"CPU": 12.0, "GPU": 5.0, "memory": 1.0}) == 2
    assert room_for(execution, {"CPU": 12.0}) == 0
    burstable = Execution(workers=1, resources=Resources(requests={"cpu": "500m"}, limits={"cpu": "2"}))
    assert room_for(burstable, {"CPU": 3.0}) == 1  # KubeRay's num-cpus is the limit too
    searcher = _Searcher(study(tmp_path, recipe(trials={"max": 4, "parallel": 4})), lambda: None, lambda: 2)
    assert [searcher.suggest(name) is not None for name in "abc"] == [True, True, False]


def test_an_autoscaler_is_told_of_what_waits_and_workers_that_nothing_waits_for_may_leave(tmp_path: Path) -> None:
    room, requested = 1, list[int]()
    made = study(tmp_path, recipe(trials={"max": 4}, stopping={"scheduler": "None"}), parallel=3)
    searcher = _Searcher(made, lambda: None, lambda: room, requested.append)
    search = _Search(searcher, 3)
    search._total_samples = MOST_JOBS
    assert searcher.suggest("a")
    assert searcher.suggest("b") is None, "what waits is not begun before there is a worker"
    assert requested == [3]
    assert not search.is_finished()
    room = 3
    assert searcher.suggest("b")
    assert searcher.suggest("c")
    assert requested[-2:] == [3, 0], "what is at work keeps its workers"
    ended = {"outcome": Outcome(ended=True, curve=[{"validation/accuracy": 0.5}], total=1)}
    searcher.on_trial_complete("a", ended)
    assert requested[-1] == 3, "the fourth one waits"
    assert searcher.suggest("d")
    searcher.on_trial_complete("b", ended)
    assert requested[-1] == 0
    assert search.is_finished(), "so Tune keeps no actor on a worker that is not needed"
    searcher.on_trial_complete("c")
    assert requested[-1] == 2, "one whose process died waits to begin again"
    assert not search.is_finished()
    assert searcher.suggest("e")
    for name in "de":
        searcher.on_trial_complete(name, ended)
    assert not search.is_finished(), "the searcher itself says that it is over"
    assert searcher.suggest("f") == tune.search.Searcher.FINISHED


def test_tune_can_pickle_a_searcher_that_reports_to_a_cluster(tmp_path: Path) -> None:
    """The reporter of a pod has a lock and a connection; on a cluster no sweep would start."""
    lock = threading.Lock()
    cloudpickle.dumps(_Searcher(study(tmp_path, recipe()), lambda: lock.acquire() and None))


class _Tuner:
    """Takes what Ray Tune is given, begins one trial and returns as Tune does after Ctrl-C."""

    given: Any = None

    def __init__(self, trainable: Any, *, tune_config: tune.TuneConfig, run_config: tune.RunConfig) -> None:
        _Tuner.given = run_config
        self._searcher: Any = tune_config.search_alg.searcher

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
