"""What compression costs and gains, on real data: 8 bits, pruning and distillation, each as a manifest asks for it.

python benchmarks/compression.py                              all experiments whose data is at hand (see EXPERIMENTS)
python benchmarks/compression.py resnet50-int8 --json F       some of them; the figures as JSON, too
python benchmarks/compression.py student --set training.minSteps=20    with fields of all TrainingJobs as given here

Latencies are medians of the exported model on one core. An experiment that is in the --store is not made again, and an
interrupted training goes on where it was. Minutes are those of the trainings alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from accuracy import SETS, dataset_object
from fovea_api.run import RunResult
from fovea_trainer.local import train_manifest
from pydantic import JsonValue
from scipy import stats

SEEDS = (0, 1, 2)
TRAIN_IMAGES, TEST_IMAGES = 10_000, 5_000
"""Of Fashion-MNIST, the first ones: a student that has few images of its own has a use for a teacher."""
Job = Mapping[str, JsonValue]


@dataclass(frozen=True)
class Stages:
    """An experiment of one training: the model before and after the last stage of its compression.

    Args:
        name: Of the experiment and its TrainingJob.
        set: One of the sets of `accuracy.py`.
        job: What the TrainingJob says beside its dataset.
    """

    name: str
    set: str
    job: Job


INT8: JsonValue = {"quantization": {"calibrationImages": 128, "maxMetricDrop": 0.01}}
UNTRAINED: JsonValue = {"weights": "None"}
STAGES = (
    Stages("resnet50-int8", "fashion-mnist", {
        "model": {"architecture": "resnet50", "pretrained": UNTRAINED}, "input": {"size": {"width": 96, "height": 96}},
        "training": {"epochs": 1, "batchSize": 32}, "compression": INT8,
    }),
    Stages("yolo-int8", "blood-cells", {"model": {"architecture": "yolo"}, "compression": INT8}),
    Stages("yolo-pruned", "blood-cells", {
        "model": {"architecture": "yolo"}, "compression": {"pruning": {"sparsity": 0.35, "fineTuneEpochs": 24}},
    }),
    Stages("unet-pruned", "membranes", {
        "model": {"architecture": "unet-efficientnet-lite0"},
        "compression": {"pruning": {"sparsity": 0.35, "fineTuneEpochs": 60}},
    }),
)  # fmt: skip
STUDENT_SET = "fashion-mnist"
DISTILLATION: JsonValue = {"teacherRef": {"name": "teacher"}, "weight": 0.5, "temperature": 4}


def small_resnet(width: float, seed: int, **compression: JsonValue) -> Job:
    """A ResNet18 for pictures of 28 x 28 pixels; students have a quarter of the teacher's width."""
    options: JsonValue = {"width": width, "stem": "Small"}
    return {
        "model": {"architecture": "resnet18", "options": options, "pretrained": UNTRAINED},
        "input": {"size": {"width": 28, "height": 28}},
        "training": {"epochs": 12, "seed": seed},
        "compression": compression,
    }


@dataclass(frozen=True)
class Compressed:
    """A model before and after its compression.

    Args:
        stages: Rows of the table: the primary metric of the test split, median latency, size, multiply-accumulates.
            Empty: 8 bits lost more than is allowed, and FP32 is delivered.
        drop: What the metric lost.
        speedup: Latency before over latency after.
        macs: Share of the multiply-accumulates that is left.
        vnni: Whether the CPU multiplies 8-bit integers by instructions of its own.
        load: Of the machine, at the end.
        settings: What was given by --set.
    """

    name: str
    stages: Sequence[Mapping[str, JsonValue]]
    drop: float | None
    speedup: float | None
    macs: float | None
    vnni: bool
    minutes: float
    load: float
    settings: Sequence[str] = ()


@dataclass(frozen=True)
class Distilled:
    """Students of several seeds, with a teacher and alone.

    Args:
        metric: Of the test split.
        gain: Mean over the seeds of what the student with a teacher has more.
        interval: Its 95 % interval, by Student's t of the paired differences.
    """

    name: str
    metric: str
    teacher: float
    alone: Sequence[float]
    distilled: Sequence[float]
    gain: float
    interval: Sequence[float]
    minutes: float
    load: float
    settings: Sequence[str] = ()


def main() -> None:
    stages = {each.name: each for each in STAGES}
    experiments = (*stages, "student")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", help=f"some of {', '.join(experiments)}")
    parser.add_argument("--store", type=Path, default=Path("compression-store"))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="settings")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    figures: list[Compressed | Distilled] = []
    for name in given.experiments or at_hand(experiments):
        figures.append(
            student(given.store, given.settings) if name == "student"
            else in_stages(stages[name], given.store, given.settings)
        )  # fmt: skip
        print(figures[-1], flush=True)
        if given.json is not None:
            given.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")


def at_hand(names: Iterable[str]) -> list[str]:
    """The experiments whose data lies here."""
    sets = {each.name: each.set for each in STAGES} | {"student": STUDENT_SET}
    return [name for name in names if (folder := SETS[sets[name]].folder) is not None and folder.is_dir()]


def in_stages(experiment: Stages, store: Path, settings: Sequence[str]) -> Compressed:
    """The figures of an experiment of one training."""
    summary = trained(experiment.name, experiment.set, experiment.job, store, settings).training
    assert summary is not None
    drop = speedup = macs = None
    if summary.compression:
        before, after = summary.compression[0], summary.compression[-1]
        drop = round((before.value or 0.0) - (after.value or 0.0), 4)
        speedup = round(before.latency_milliseconds / after.latency_milliseconds, 2)
        macs = round(after.giga_macs / before.giga_macs, 3)
    return Compressed(
        experiment.name, [stage.to_dict() for stage in summary.compression], drop, speedup, macs, has_vnni(),
        round(summary.seconds / 60, 1), round(os.getloadavg()[0], 1), tuple(settings),
    )  # fmt: skip


def student(store: Path, settings: Sequence[str]) -> Distilled:
    """The figures of a student with and without its teacher."""
    metric = f"test/{SETS[STUDENT_SET].metric}"
    teacher = trained("teacher", STUDENT_SET, small_resnet(0.5, 0), store, settings)
    results: dict[str, list[RunResult]] = {"alone": [], "distilled": []}
    for seed in SEEDS:
        jobs = {
            "alone": small_resnet(0.125, seed),
            "distilled": small_resnet(0.125, seed, distillation=DISTILLATION),
        }
        for name, job in jobs.items():
            results[name].append(trained(f"{name}-{seed}", STUDENT_SET, job, store, settings))
    alone, distilled = ([round(run.metrics[metric], 4) for run in results[name]] for name in results)
    gains = [other - one for one, other in zip(alone, distilled, strict=True)]
    gain = statistics.mean(gains)
    half = stats.t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / math.sqrt(len(gains))
    runs = [teacher, *results["alone"], *results["distilled"]]
    seconds = sum(run.training.seconds for run in runs if run.training is not None)
    return Distilled(
        "student", metric, round(teacher.metrics[metric], 4), alone, distilled, round(gain, 4),
        (round(gain - half, 4), round(gain + half, 4)), round(seconds / 60, 1), round(os.getloadavg()[0], 1),
        tuple(settings),
    )  # fmt: skip


def trained(name: str, of_set: str, job: Job, store: Path, settings: Sequence[str]) -> RunResult:
    """The result of a TrainingJob on a set, whose manifest lies in the store."""
    folder = SETS[of_set].folder
    assert folder is not None
    store.mkdir(parents=True, exist_ok=True)
    if of_set == "fashion-mnist":
        folder = first_images(folder, store / of_set)
    objects = [
        dataset_object(of_set, folder),
        {"kind": "TrainingJob", "metadata": {"name": name}, "spec": {"datasetRef": {"name": of_set}, **job}},
    ]
    manifest = store / f"{name}.yaml"
    manifest.write_text(yaml.safe_dump_all({"apiVersion": "fovea.dev/v1alpha1"} | each for each in objects))
    return train_manifest(manifest, str(store), settings=settings)


def first_images(folder: Path, target: Path) -> Path:
    """A folder with the first images of Fashion-MNIST, in the form of the whole."""
    target.mkdir(exist_ok=True)
    for split, count in (("train", TRAIN_IMAGES), ("t10k", TEST_IMAGES)):
        for kind, header, size in (("images-idx3", 16, 28 * 28), ("labels-idx1", 8, 1)):
            name = f"{split}-{kind}-ubyte.gz"
            content = gzip.decompress((folder / name).read_bytes())
            first = content[:4] + count.to_bytes(4, "big") + content[8 : header + count * size]
            (target / name).write_bytes(gzip.compress(first, mtime=0))
    return target


def has_vnni() -> bool:
    """Whether the CPU has VNNI (AVX-512 or AVX), by what Linux says of it."""
    words = Path("/proc/cpuinfo").read_text().split()
    return "avx512_vnni" in words or "avx_vnni" in words


if __name__ == "__main__":
    main()
