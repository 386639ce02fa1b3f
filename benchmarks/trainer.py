"""How fast the trainer is: its loop against a bare PyTorch loop with the same network, batches and arithmetic, its
loader against torchvision's ImageFolder in a DataLoader, one worker against two, and the time until the first step.

python benchmarks/trainer.py                                     blood cells, RetinaNet on EfficientNet-Lite0
python benchmarks/trainer.py --only training loader --json F     some of it; the figures as JSON, too
python benchmarks/trainer.py --architecture resnet50 --weights None --batch 256 --side 224 --image-side 500 --steps 40
                                                                 a classifier, as on a GPU

Both sides of a comparison take turns, so that whatever else the machine does slows down both; given are the medians and
their ratio. Ray is not needed. On a GPU the precision is BF16 unless --precision says otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import torch
from fovea_api import dataset as dataset_api
from fovea_api.architectures import catalogue
from fovea_api.common import Task
from fovea_api.presets import with_preset
from fovea_api.trainingjob import Recipe
from fovea_api.version import DatasetVersion
from fovea_trainer.augmentation import Augment
from fovea_trainer.data.build import build_dataset
from fovea_trainer.data.version import OpenVersion, Sample, open_version
from fovea_trainer.models.registry import entry_of
from fovea_trainer.tasks import definition
from fovea_trainer.training.context import SingleProcess
from fovea_trainer.training.dataset import Collate, Normalize, SplitDataset, augmentation, preprocessing
from fovea_trainer.training.fitting import fitted
from fovea_trainer.training.image_cache import ImageCache
from fovea_trainer.training.loading import TrainingBatches
from fovea_trainer.training.loop import Plan, fit
from fovea_trainer.training.memory import kept_memory
from fovea_trainer.training.network import make_network
from fovea_trainer.training.order import Order, WorkerBatches
from fovea_trainer.training.precision import choose_precision
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

CELLS = Path(__file__).resolve().parent.parent / "examples/data/bccd/BCCD"
WARM_UP_STEPS = 3
"""Steps of a round that do not count: memory is allocated, kernels are chosen, loader processes start."""


@dataclass(frozen=True)
class Comparison:
    """Ours and what it is held against: medians over the rounds."""

    name: str
    ours: float
    other: float
    unit: str = "images/s"

    @property
    def ratio(self) -> float:
        return self.ours / self.other


class Repeated(Sequence[Sample]):
    """The images of a split again and again, up to a number."""

    def __init__(self, samples: Sequence[Sample], count: int) -> None:
        self._samples, self._count = samples, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._samples[index % len(self._samples)]


@dataclass(frozen=True)
class Version:
    """A version whose train split is as long as a round, and which has no other."""

    manifest: DatasetVersion
    train: Sequence[Sample]

    @classmethod
    def of(cls, version: OpenVersion, images: int) -> Version:
        train = Repeated(version.split("train"), images)
        return cls(version.manifest.model_copy(update={"splits": {"train": images}}), train)

    def split(self, name: str) -> Sequence[Sample]:
        return self.train if name == "train" else []


class Stopwatch(SingleProcess):
    """Notes when the steps end; with `first_only` it ends the training after the first one."""

    def __init__(self, folder: Path, processes: int | None, steps: int) -> None:
        super().__init__(folder, 1, lambda progress: None)
        self._steps, self._ends = steps, list[float]()
        if processes is not None:
            self.loader_processes = processes

    def stopping(self) -> bool:
        self._ends.append(now(self.device) if len(self._ends) + 1 in (WARM_UP_STEPS, self._steps) else 0.0)
        return False

    def steps_per_second(self) -> float:
        return (self._steps - WARM_UP_STEPS) / (self._ends[-1] - self._ends[WARM_UP_STEPS - 1])


def now(device: torch.device) -> float:
    """Seconds, when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass(frozen=True)
class Setting:
    """What is trained, on what, and how."""

    recipe: Recipe
    version: Version
    pictures: Path
    folder: Path
    steps: int
    processes: int | None

    @property
    def batch(self) -> int:
        return self.recipe.training.batch_size

    def stopwatch(self) -> Stopwatch:
        return Stopwatch(Path(tempfile.mkdtemp(dir=self.folder)), self.processes, self.steps)

    def train_split(self) -> SplitDataset:
        recipe = self.recipe
        architecture = entry_of(recipe.model.architecture).architecture
        preprocess, augment = preprocessing(architecture, recipe.input), augmentation(architecture, recipe)
        return SplitDataset(self.version.train, definition(self.version.manifest.task), preprocess, augment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="what to measure (all)")
    parser.add_argument("--architecture", default="retinanet-efficientnet-lite0", choices=sorted(catalogue()))
    parser.add_argument("--weights", default="ImageNet", help="to start from; None where nothing can be fetched")
    parser.add_argument("--precision", default="Auto", help="Auto, FP32, BF16 or FP16 (%(default)s)")
    parser.add_argument("--batch", type=int, help="images of a step (the preset's)")
    parser.add_argument("--side", type=int, help="sides of the input in pixels (what follows from the images)")
    parser.add_argument("--image-side", type=int, help="classifiers: longer side of the JPEG files (as they are)")
    parser.add_argument("--steps", type=int, default=12, help="steps of a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each side, after one that only warms up")
    parser.add_argument("--processes", type=int, help="loader processes (the trainer's default)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--until-first-step", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.until_first_step is not None:
        first_step(given.until_first_step)
        return
    found = []
    with tempfile.TemporaryDirectory(prefix="fovea-benchmark-") as folder:
        setting = prepare(given, Path(folder))
        size = setting.recipe.input.size
        assert size is not None
        print(f"{given.architecture}, batch {setting.batch}, {size.width} x {size.height} pixels, {given.steps} steps; "
              f"{json.dumps(machine())}", flush=True)  # fmt: skip
        for part in given.only:
            for each in PARTS[part](setting, given.rounds):
                print(
                    f"{each.name}: {each.ours:.1f} against {each.other:.1f} {each.unit}: {each.ratio:.3f}", flush=True
                )
                found.append(each)
    if given.json is not None:
        figures = [asdict(each) | {"ratio": each.ratio} for each in found]
        what = {"architecture": given.architecture, "batch": setting.batch, "size": [size.width, size.height]}
        given.json.write_text(json.dumps({"machine": machine(), **what, "comparisons": figures}, indent=1) + "\n")


def machine() -> Mapping[str, object]:
    """What the figures were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    load = [round(value, 1) for value in os.getloadavg()]
    return {"cpu": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0)),
            "threads": torch.get_num_threads(), "gpu": gpu, "torch": torch.__version__, "load": load}  # fmt: skip


def prepare(given: argparse.Namespace, folder: Path) -> Setting:
    """The blood cells of examples/ as a dataset version, all of them in the train split; for classifiers as pictures of
    two classes."""
    recipe = with_preset(
        Recipe.model_validate({
            "model": {"architecture": given.architecture, "pretrained": {"weights": given.weights}},
            "training": {"precision": given.precision, **({"batchSize": given.batch} if given.batch else {})},
            "input": {"size": {"width": given.side, "height": given.side}} if given.side else {},
        })
    )  # fmt: skip
    task = catalogue()[given.architecture].task
    if task not in (Task.CLASSIFICATION, Task.DETECTION):
        raise SystemExit("the blood cells have no masks: take a classifier or a detector")
    pictures = write_pictures(folder / "pictures", given.image_side)
    sources = {
        Task.DETECTION: {"name": "lab", "uri": f"file://{CELLS}", "format": "PascalVOC"},
        Task.CLASSIFICATION: {"name": "lab", "uri": f"file://{pictures}", "format": "ImageFolder"},
    }
    dataset = dataset_api.Recipe.model_validate({
        "task": task, "sources": [sources[task]], "quality": {"nearDuplicates": "Ignore"},
        "splits": {"ratios": {"train": 1.0, "validation": 0.0, "test": 0.0}, "keepNearDuplicatesTogether": False},
    })  # fmt: skip
    made = build_dataset(dataset, name="cells", store_root=str(folder / "store"), work_dir=folder / "work")
    opened = open_version(made.artifact, folder / "cache")
    version = Version.of(opened, given.steps * recipe.training.batch_size)
    recipe = fitted(recipe, version)
    (folder / "first.json").write_text(json.dumps({"artifact": made.artifact, "recipe": recipe.to_dict()}))
    return Setting(recipe, version, pictures, folder, given.steps, given.processes)


def write_pictures(folder: Path, side: int | None) -> Path:
    """The images in folders of two classes, as ImageFolder has them; enlarged or shrunk to a longer side."""
    for number, file in enumerate(sorted((CELLS / "JPEGImages").glob("*.jpg"))):
        target = folder / f"class{number % 2}" / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if side is None:
            target.symlink_to(file)
            continue
        image = cv2.imread(str(file))
        assert image is not None
        scale = side / max(image.shape[:2])
        cv2.imwrite(str(target), cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC))
    return folder


def compared(name: str, ours: Callable[[], float], other: Callable[[], float], rounds: int) -> Comparison:
    """The medians of some rounds in turn, the first of which only warms up."""
    values = [(ours(), other()) for _ in range(rounds + 1)][1:]
    return Comparison(name, *(statistics.median(side) for side in zip(*values, strict=True)))


# --- Training --------------------------------------------------------------------------------------------------------


def training(setting: Setting, rounds: int) -> Iterator[Comparison]:
    """Our loop against a bare one; on a GPU also against the steps alone, of a batch that stays there."""
    yield compared("training", lambda: our_loop(setting), lambda: bare_loop(setting), rounds)
    if torch.cuda.is_available():
        yield compared("training / steps alone", lambda: our_loop(setting), lambda: bare_steps(setting), rounds)


def our_loop(setting: Setting) -> float:
    """Images a second of the trainer's loop, without validation and checkpoint."""
    once = setting.recipe.training.model_copy(update={"epochs": 1})
    stopwatch = setting.stopwatch()
    fit(setting.recipe.model_copy(update={"training": once}), setting.version, stopwatch, Plan(checkpoint_seconds=1e9))
    return stopwatch.steps_per_second() * setting.batch


def bare_loop(setting: Setting) -> float:
    """Images a second of a loop with nothing around it: no average of weights, no clipping, no schedule. Its memory is
    kept as ours is, so that what differs is the loop."""
    stopwatch, dataset = setting.stopwatch(), setting.train_split()
    order = Order(torch.ones(len(dataset)).double().numpy(), setting.batch, seed=0)
    processes = stopwatch.loader_processes
    batches = DataLoader(
        dataset, batch_sampler=WorkerBatches(order, 0, 0, 0, 1), collate_fn=Collate(dataset.task),
        num_workers=processes, pin_memory=torch.cuda.is_available(), worker_init_fn=one_thread,
    )  # type: ignore[arg-type]  # fmt: skip
    with kept_memory(stopwatch.device):
        step = bare_step(setting, stopwatch.device)
        for images, targets, _ in batches:
            step(images, targets)
            stopwatch.stopping()
    return stopwatch.steps_per_second() * setting.batch


def bare_steps(setting: Setting) -> float:
    """Images a second of the steps alone."""
    stopwatch, dataset = setting.stopwatch(), setting.train_split()
    images, targets, _ = Collate(dataset.task)([dataset[index] for index in range(setting.batch)])
    images, targets = images.to(stopwatch.device), targets.to(stopwatch.device)
    step = bare_step(setting, stopwatch.device)
    for _ in range(setting.steps):
        step(images, targets)
        stopwatch.stopping()
    return stopwatch.steps_per_second() * setting.batch


def bare_step(setting: Setting, device: torch.device) -> Callable[..., None]:
    recipe = setting.recipe
    network = make_network(recipe, setting.version).to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), recipe.training.optimizer.learning_rate)
    precision = choose_precision(recipe.training.precision, device)
    normalize = Normalize(setting.train_split().preprocess, device)

    def step(images: torch.Tensor, targets: object) -> None:
        with precision.autocast():
            parts = network.loss(network(normalize(images)), targets.to(device))  # type: ignore[attr-defined]
        optimizer.zero_grad()
        torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def one_thread(number: int) -> None:
    cv2.setNumThreads(1)


# --- Loading ---------------------------------------------------------------------------------------------------------


def loader(setting: Setting, rounds: int) -> Iterator[Comparison]:
    """Our loader against ImageFolder, which has no other epochs than first ones: both bring images to the same size and
    normalize them, neither augments."""
    for epoch, name in enumerate(("first epoch", "later epochs")):
        ours = partial(our_loader, setting, epoch)
        yield compared(f"loader, {name}", ours, lambda: image_folder(setting), rounds)


def our_loader(setting: Setting, epoch: int) -> float:
    """Images a second that the trainer's loader prepares in an epoch; the first one fills the cache of images."""
    dataset, stopwatch = setting.train_split(), setting.stopwatch()
    dataset = SplitDataset(dataset.samples, dataset.task, dataset.preprocess, Augment(()), ImageCache(setting.folder))
    order = Order(torch.ones(len(dataset)).double().numpy(), setting.batch, seed=0)
    normalize = Normalize(dataset.preprocess, torch.device("cpu"))
    batches = TrainingBatches(dataset, order, stopwatch)
    for before in range(epoch):
        speed(images for images, *_ in batches.epoch(before, 0))
    return speed(normalize(images) for images, *_ in batches.epoch(epoch, 0))


def image_folder(setting: Setting) -> float:
    """Images a second of torchvision's ImageFolder in a DataLoader."""
    size, normalize = setting.recipe.input.size, setting.train_split().preprocess
    assert size is not None
    prepare = transforms.Compose([
        transforms.Resize((size.height, size.width)), transforms.ToTensor(),
        transforms.Normalize(normalize.mean, normalize.std),
    ])  # fmt: skip
    dataset = ImageFolder(str(setting.pictures), prepare)
    indices = [index % len(dataset) for index in torch.randperm(len(setting.version.train)).tolist()]
    batches = DataLoader(
        dataset, setting.batch, sampler=indices, num_workers=setting.stopwatch().loader_processes,
        pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    return speed(images for images, _ in batches)


def speed(batches: Iterator[torch.Tensor]) -> float:
    began = time.perf_counter()
    count = sum(len(images) for images in batches)
    return count / (time.perf_counter() - began)


# --- Workers and start-up --------------------------------------------------------------------------------------------


def workers(setting: Setting, rounds: int) -> Iterator[Comparison]:
    """Two workers with a thread each against one with one thread; on CPUs only."""
    if torch.cuda.is_available():
        return
    yield compared(
        "two workers / one", lambda: distributed(setting, 2), lambda: distributed(setting, 1), min(rounds, 2)
    )


class Worker(Stopwatch):
    def __init__(self, folder: Path, steps: int, rank: int, count: int) -> None:
        super().__init__(folder / str(rank), None, steps)
        self.rank, self.workers = rank, count


def distributed(setting: Setting, count: int) -> float:
    """Images a second of workers that talk by gloo."""
    folder = Path(tempfile.mkdtemp(dir=setting.folder))
    torch.multiprocessing.spawn(work, (setting, folder, count), count)
    return float((folder / "speed").read_text()) * setting.batch


def work(rank: int, setting: Setting, folder: Path, count: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=count)
    once = setting.recipe.training.model_copy(update={"epochs": 1})
    stopwatch = Worker(folder, setting.steps, rank, count)
    fit(setting.recipe.model_copy(update={"training": once}), setting.version, stopwatch, Plan(checkpoint_seconds=1e9))
    if rank == 0:
        (folder / "speed").write_text(str(stopwatch.steps_per_second()))
    torch.distributed.destroy_process_group()


def start(setting: Setting, rounds: int) -> Iterator[Comparison]:
    """Seconds from the start of a process to the end of its first step, against those to `import torch` alone."""
    file = str(setting.folder / "first.json")
    yield Comparison(
        "process to first step / import of torch",
        *(statistics.median(side) for side in zip(*(
            (run([__file__, "--until-first-step", file]), run(["-c", "import torch, torchvision, timm"]))
            for _ in range(min(rounds, 2))
        ), strict=True)),
        unit="s",
    )  # fmt: skip


def run(words: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - began


class FirstStep(Exception):
    """The first step has been done."""


class UntilFirstStep(SingleProcess):
    def stopping(self) -> bool:
        now(self.device)
        raise FirstStep


def first_step(file: Path) -> None:
    """Opens a version with an empty cache and trains one step."""
    given = json.loads(file.read_text())
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        version = open_version(given["artifact"], Path(folder) / "cache")
        try:
            fit(Recipe.model_validate(given["recipe"]), version, UntilFirstStep(Path(folder), 1, lambda progress: None))
        except FirstStep:
            return


PARTS: Mapping[str, Callable[[Setting, int], Iterator[Comparison]]] = {
    "training": training,
    "loader": loader,
    "workers": workers,
    "start": start,
}

if __name__ == "__main__":
    main()
