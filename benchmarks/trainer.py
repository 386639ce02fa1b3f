"""How fast the trainer is, against a bare PyTorch loop with the same network, batch and images, and its loader against
torchvision's ImageFolder. The images are those of examples/.

python benchmarks/trainer.py                       blood cells, RetinaNet on EfficientNet-Lite0
python benchmarks/trainer.py --steps 60 --json F   more steps; the figures as JSON, too

Both sides take turns, so that whatever else the machine does slows down both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from fovea_api import dataset as dataset_api
from fovea_api.presets import with_preset
from fovea_api.run import Progress
from fovea_api.trainingjob import Recipe
from fovea_api.version import DatasetVersion
from fovea_trainer.augmentation import Augment
from fovea_trainer.data.build import build_dataset
from fovea_trainer.data.version import OpenVersion, Sample, open_version
from fovea_trainer.models.registry import registry
from fovea_trainer.tasks import definition
from fovea_trainer.training.context import SingleProcess
from fovea_trainer.training.dataset import Collate, SplitDataset, preprocessing
from fovea_trainer.training.fitting import fitted
from fovea_trainer.training.loading import TrainingBatches
from fovea_trainer.training.loop import Plan, fit
from fovea_trainer.training.network import make_network
from fovea_trainer.training.order import Order
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

CELLS = Path(__file__).resolve().parent.parent / "examples/data/bccd/BCCD"
ROUNDS = 3


@dataclass(frozen=True)
class Comparison:
    """Images a second of ours and of what it is held against: medians over the rounds."""

    name: str
    ours: float
    bare: float

    @property
    def share(self) -> float:
        return self.ours / self.bare


@dataclass(frozen=True)
class Version:
    """The first images of a version's train split, in whole batches."""

    manifest: DatasetVersion
    train: Sequence[Sample]

    @classmethod
    def of(cls, version: OpenVersion, images: int) -> Version:
        train = version.split("train")[:images]
        return cls(version.manifest.model_copy(update={"splits": {"train": len(train)}}), train)

    def split(self, name: str) -> Sequence[Sample]:
        return self.train if name == "train" else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="retinanet-efficientnet-lite0", help="a detector")
    parser.add_argument("--steps", type=int, default=20, help="steps of a round (%(default)s)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fovea-benchmark-") as folder:
        found = list(measure(given.architecture, given.steps, Path(folder)))
    for each in found:
        print(f"{each.name}: {each.ours:.1f} images/s, bare {each.bare:.1f}: {each.share:.2f}")
    if given.json is not None:
        figures = [asdict(each) | {"share": each.share} for each in found]
        given.json.write_text(json.dumps({"machine": machine(), "comparisons": figures}, indent=1) + "\n")


def machine() -> Mapping[str, object]:
    """What the figures were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    load = [round(value, 1) for value in os.getloadavg()]
    return {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), "gpu": gpu,
            "torch": torch.__version__, "load": load}  # fmt: skip


def measure(architecture: str, steps: int, folder: Path) -> Iterator[Comparison]:
    """The comparisons, one after the other."""
    recipe = with_preset(Recipe.model_validate({"model": {"architecture": architecture}}))
    version = Version.of(cells(folder), steps * recipe.training.batch_size)
    recipe = fitted(recipe, version)
    yield compared("training", lambda: our_loop(recipe, version, folder), lambda: bare_loop(recipe, version))
    pictures = folder / "pictures"
    (pictures / "cells").mkdir(parents=True)
    for file in sorted((CELLS / "JPEGImages").glob("*.jpg"))[: len(version.train)]:
        (pictures / "cells" / file.name).symlink_to(file)
    yield compared(
        "loader", lambda: our_loader(recipe, version, folder), lambda: image_folder(recipe, pictures, folder)
    )


def compared(name: str, ours: Callable[[], float], bare: Callable[[], float]) -> Comparison:
    """The medians of some rounds in turn, the first of which only warms up."""
    rounds = [(ours(), bare()) for _ in range(ROUNDS + 1)][1:]
    return Comparison(name, *(statistics.median(side) for side in zip(*rounds, strict=True)))


def cells(folder: Path) -> OpenVersion:
    """The blood cells of examples/ as a dataset version: all of them in the train split."""
    recipe = dataset_api.Recipe.model_validate({
        "task": "Detection", "classes": ["RBC", "WBC", "Platelets"], "quality": {"nearDuplicates": "Ignore"},
        "sources": [{"name": "lab", "uri": f"file://{CELLS}", "format": "PascalVOC"}],
        "splits": {"ratios": {"train": 1.0, "validation": 0.0, "test": 0.0}, "keepNearDuplicatesTogether": False},
    })  # fmt: skip
    made = build_dataset(recipe, name="cells", store_root=str(folder / "store"), work_dir=folder / "work")
    return open_version(made.artifact, folder / "cache")


# --- Training --------------------------------------------------------------------------------------------------------


def our_loop(recipe: Recipe, version: Version, folder: Path) -> float:
    """Images a second within an epoch of the trainer's loop; checkpoint and validation are not among it."""
    speeds: list[float] = []

    def listen(progress: Progress) -> None:
        if progress.images_per_second and (progress.epoch or 0) < 1:
            speeds.append(progress.images_per_second)

    training = recipe.training.model_copy(update={"epochs": 1})
    with tempfile.TemporaryDirectory(dir=folder) as checkpoints:
        fit(
            recipe.model_copy(update={"training": training}),
            version,
            SingleProcess(Path(checkpoints), 1, listen),
            Plan(),
        )
    return speeds[-1]


def bare_loop(recipe: Recipe, version: Version) -> float:
    """Images a second of a loop with nothing around it: no average of the weights, no clipping, no schedule."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = make_network(recipe, version).to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), recipe.training.optimizer.learning_rate)
    dataset = train_split(recipe, version)
    batches = DataLoader(dataset, recipe.training.batch_size, shuffle=True, collate_fn=Collate(dataset.task))
    began = time.perf_counter()
    for images, targets, _ in batches:
        loss = torch.stack(list(network.loss(network(images.to(device)), targets.to(device)).values())).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return len(dataset) / (time.perf_counter() - began)


def train_split(recipe: Recipe, version: Version) -> SplitDataset:
    preprocess = preprocessing(registry()[recipe.model.architecture].architecture, recipe.input)
    return SplitDataset(version.train, definition(version.manifest.task), preprocess, Augment(()))


# --- Loading ---------------------------------------------------------------------------------------------------------


def our_loader(recipe: Recipe, version: Version, folder: Path) -> float:
    """Images a second that the trainer's loader prepares."""
    dataset, batch = train_split(recipe, version), recipe.training.batch_size
    context = SingleProcess(folder, 1, lambda progress: None)
    batches = TrainingBatches(dataset, Order(torch.ones(len(dataset)).double().numpy(), batch, seed=0), context)
    return speed(batches.epoch(0, 0))


def image_folder(recipe: Recipe, pictures: Path, folder: Path) -> float:
    """Images a second of torchvision's ImageFolder in a DataLoader, brought to the same size and normalized."""
    size = recipe.input.size
    assert size is not None
    prepare = transforms.Compose([
        transforms.Resize((size.height, size.width)), transforms.ToTensor(),
        transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ])  # fmt: skip
    processes = SingleProcess(folder, 1, lambda progress: None).loader_processes
    dataset = ImageFolder(str(pictures), prepare)
    return speed(iter(DataLoader(dataset, recipe.training.batch_size, shuffle=True, num_workers=processes)))


def speed(batches: Iterator[tuple[torch.Tensor, ...]]) -> float:
    began = time.perf_counter()
    count = sum(len(images) for images, *_ in batches)
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
