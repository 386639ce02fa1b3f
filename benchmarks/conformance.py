"""What every architecture does from end to end, on real images of this repository: it is trained from a manifest for
some minutes, pruned and fine-tuned, exported, held against PyTorch, quantized, evaluated through the serving code and
stored as a bundle; how large and how fast it is with its default options and input is measured beside it.

python benchmarks/conformance.py                        all that the file of the figures does not have yet
python benchmarks/conformance.py yolo unet --json F     some of them, anew

`make conformance` keeps the figures beside this file and writes the table of docs/models.md. The trainings are short:
their metrics compare the architectures after so many images, and are not what these reach.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml
from fovea_api.architectures import Architecture, catalogue
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_api.figures import figures
from fovea_api.run import RunResult
from fovea_serving.bundle import MODELS
from fovea_serving.pipeline import Postprocess, Preprocess
from fovea_serving.predictor import Device, Predictor
from fovea_store import StorePath
from fovea_trainer.local import train_manifest
from pydantic import JsonValue

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))
from membrane_cells import write_windows  # noqa: E402

IMAGES = 240
"""Images that a training sees, and a quarter as many while it is fine-tuned after pruning."""
SPARSITY = 0.3
KEPT = Path(__file__).with_suffix(".json")
DOCS = EXAMPLES.parent / "docs/models.md"
MARKS = "<!-- conformance: made by benchmarks/conformance.py -->", "<!-- end -->"
HEADER = (
    "| name | data | metric | trained | pruned (MACs left) | 8 bits | MB | CPU ms | billion MACs | minutes |",
    "|---|---|---|---|---|---|---|---|---|---|",
)
TIMED, WARM_UP = 15, 3
SMEARS = EXAMPLES / "data/bccd/BCCD"
MEMBRANES = EXAMPLES / "data/membrane"
OF_ONE_BLOCK: Mapping[str, JsonValue] = {
    "splits": {
        "ratios": {"train": 0.67, "validation": 0.0, "test": 0.33},
        "seed": 1,
        "groupBy": {"pattern": r"(?P<group>\d?)\d(-\d+-\d+)?\.png$"},
        "keepNearDuplicatesTogether": False,
    },
    "quality": {"nearDuplicates": "Ignore"},
}
"""The sections follow each other in one block: neighbours show the same cells, so the last third is the test."""


@dataclass(frozen=True)
class Data:
    """Images of a task.

    Args:
        words: What they are.
        train: Images in the train split.
        write: Brings them into a folder.
        dataset: Spec of the Dataset without the place of its source.
    """

    words: str
    train: int
    write: Callable[[Path], None]
    dataset: Mapping[str, JsonValue]


def write_cells(folder: Path) -> None:
    """Crops of cells by their class, 32 of each from other smears than the 16 of the test."""
    written: dict[tuple[str, str], int] = {}
    for index, file in enumerate(sorted((SMEARS / "Annotations").glob("*.xml"))):
        split, most = ("test", 16) if index % 3 == 0 else ("train", 32)
        image = cv2.imread(str(SMEARS / f"JPEGImages/{file.stem}.jpg"))
        assert image is not None, file
        for name, (x1, y1, x2, y2) in objects(file):
            number = written.get((split, name), 0)
            if number < most and x2 - x1 > 8 and y2 - y1 > 8:
                written[split, name] = number + 1
                path = folder / split / name / f"{file.stem}-{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), image[max(0, y1) : y2, max(0, x1) : x2])


def objects(file: Path) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Classes and boxes xyxy in pixels of a file of labels in the format of PASCAL VOC."""
    for each in ET.parse(file).getroot().iter("object"):
        x1, y1, x2, y2 = (int(each.findtext(f"bndbox/{side}", "0")) for side in ("xmin", "ymin", "xmax", "ymax"))
        yield str(each.findtext("name")), (x1, y1, x2, y2)


def write_smears(folder: Path) -> None:
    """The first 72 smears."""
    for file in sorted((SMEARS / "Annotations").glob("*.xml"))[:72]:
        for part in (Path("Annotations") / file.name, Path("JPEGImages") / f"{file.stem}.jpg"):
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            (folder / part).write_bytes((SMEARS / part).read_bytes())


def write_membranes(folder: Path) -> None:
    """The 30 sections with their membranes."""
    for file in sorted(MEMBRANES.glob("*/*.png")):
        target = folder / file.relative_to(MEMBRANES)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())


def write_nerve_cells(folder: Path) -> None:
    """Each cell of 120 windows of the sections."""
    write_windows(MEMBRANES, folder)


RANDOM: Mapping[str, JsonValue] = {
    "splits": {"ratios": {"train": 0.67, "validation": 0.0, "test": 0.33}, "seed": 1},
}
DATA = {
    Task.CLASSIFICATION: Data(
        "crops of blood cells, 3 classes", 96, write_cells,
        {
            "source": {"format": "ImageFolder"}, "quality": {"nearDuplicates": "Ignore"},
            "splits": {
                "method": "FromSource", "ratios": {"train": 1.0, "validation": 0.0, "test": 0.0},
                "keepNearDuplicatesTogether": False,
            },
        },
    ),
    Task.DETECTION: Data(
        "blood smears, 3 classes", 48, write_smears, {"source": {"format": "PascalVOC"}, **RANDOM}
    ),
    Task.SEMANTIC_SEGMENTATION: Data(
        "membranes of nerve cells, 2 classes", 20, write_membranes,
        {
            "source": {"format": "Masks", "maskValues": {"boundary": 0, "cell": 255}},
            "classes": ["cell", "boundary"], **OF_ONE_BLOCK,
        },
    ),
    Task.INSTANCE_SEGMENTATION: Data(
        "nerve cells, 1 class", 80, write_nerve_cells,
        {"source": {"format": "COCO"}, "classes": ["cell"], **OF_ONE_BLOCK},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """What an architecture came to.

    Args:
        name: Of the architecture.
        data: Images that it was trained and measured on.
        images: Images that the training saw, repetitions included.
        minutes: CPU time of training, pruning, export and evaluation.
        metric: What the values are of.
        value: In FP32, before any compression.
        pruned: After channels were removed and the rest was fine-tuned; None: they cannot be.
        share: Of the multiply-accumulates, what pruning left.
        int8: With 8-bit integers, after pruning; None: FP32 was kept.
        megabytes: Size of the ONNX file that is served.
        milliseconds: CPU time of the served network for an image, on one core.
        machine: What that was measured on.
    """

    name: str
    data: str
    images: int
    minutes: float
    metric: str
    value: float | None
    pruned: float | None
    share: float | None
    int8: float | None
    megabytes: float
    milliseconds: float
    machine: str

    def row(self) -> str:
        """As a line of the table."""
        pruned = "-" if self.pruned is None else f"{self.pruned:.3f} ({self.share or 0:.0%})"
        int8 = "FP32 kept" if self.int8 is None else f"{self.int8:.3f}"
        value = "-" if self.value is None else f"{self.value:.3f}"
        return (
            f"| `{self.name}` | {self.data} | {self.metric} | {value} | {pruned} | {int8} | {self.megabytes:.1f} | "
            f"{self.milliseconds:.0f} | {figures()[self.name].giga_macs:.2f} | {self.minutes:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="architectures (all that the file does not have)")
    parser.add_argument("--json", type=Path, default=KEPT, help="the figures (%(default)s)")
    parser.add_argument("--store", type=Path, help="folder of datasets and bundles (one that is deleted)")
    given = parser.parse_args()
    known = json.loads(given.json.read_text("utf-8")) if given.json.exists() else []
    found = {item["name"]: Figure(**item) for item in known}
    with tempfile.TemporaryDirectory(prefix="fovea-conformance-") as temporary:
        store = (given.store or Path(temporary)).absolute()
        store.mkdir(parents=True, exist_ok=True)
        for name in given.names or [name for name in catalogue() if name not in found]:
            found[name] = measured(catalogue()[name], store)
            print(found[name], flush=True)
            given.json.write_text(json.dumps([asdict(found[each]) for each in sorted(found)], indent=1) + "\n")
    if given.json == KEPT:
        document(sorted(found.values(), key=lambda figure: (catalogue()[figure.name].task, figure.name)))


def document(found: Sequence[Figure]) -> None:
    """Writes the table of docs/models.md."""
    text, (begin, end) = DOCS.read_text("utf-8"), MARKS
    head, rest = text.split(begin)
    table = [begin, *HEADER, *(figure.row() for figure in found), end]
    DOCS.write_text(head + "\n".join(table) + rest.split(end, 1)[1])


def measured(architecture: Architecture, store: Path) -> Figure:
    """What an architecture came to, after it went all the way."""
    data = DATA[architecture.task]
    folder = store / "data" / architecture.task
    if not folder.exists():
        data.write(folder)
    began = time.process_time()
    try:
        result = trained(architecture, folder, store, prune=True)
    except InvalidInput as error:
        if error.location != "spec.compression.pruning":
            raise
        result = trained(architecture, folder, store, prune=False)
    minutes = (time.process_time() - began) / 60
    assert result.training is not None
    assert result.artifact is not None
    stages = {stage.name: stage for stage in result.training.compression}
    pruned, int8 = stages.get("Pruned"), stages.get("Quantized")
    first, *_, last = stages.values()
    model = StorePath.parse(result.artifact).local_path() / MODELS["FP32" if int8 is None else "INT8"]
    return Figure(
        name=architecture.name, data=data.words, images=epochs(data) * data.train, minutes=round(minutes, 1),
        metric=str(first.metric), value=first.value, pruned=None if pruned is None else pruned.value,
        share=None if pruned is None else round(pruned.giga_macs / first.giga_macs, 3),
        int8=None if int8 is None else int8.value, megabytes=round(last.megabytes, 2),
        milliseconds=cpu_milliseconds(model, architecture), machine=processor(),
    )  # fmt: skip


def epochs(data: Data) -> int:
    """Of a training."""
    return round(IMAGES / data.train)


def trained(architecture: Architecture, folder: Path, store: Path, *, prune: bool) -> RunResult:
    """The result of a training by a manifest, which lies in the store."""
    name, data = architecture.name, DATA[architecture.task]
    fields = dict(data.dataset)
    source = {"name": "images", "uri": "pvc://images", **fields.pop("source")}  # type: ignore[dict-item]
    pruning: JsonValue = {"sparsity": SPARSITY, "fineTuneEpochs": max(1, epochs(data) // 4)}
    job: dict[str, JsonValue] = {
        "datasetRef": {"name": architecture.task.lower()},
        "model": {
            "architecture": name,
            "pretrained": {"weights": "ImageNet" if architecture.packaged else "None"},
        },
        "input": {"size": {"width": architecture.width, "height": architecture.height}},
        "training": {"epochs": epochs(data), "batchSize": 8},
        "compression": {"quantization": {"maxMetricDrop": 0.05}, **({"pruning": pruning} if prune else {})},
        "evaluation": {"splits": ["test"]},
    }
    meta: dict[str, JsonValue] = {
        "name": architecture.task.lower(), "annotations": {"local.fovea.dev/images": str(folder)}
    }  # fmt: skip
    objects = [
        {"kind": "Dataset", "metadata": meta, "spec": {"task": architecture.task, **fields, "sources": [source]}},
        {"kind": "TrainingJob", "metadata": {"name": name}, "spec": job},
    ]
    manifest = store / f"{name}.yaml"
    manifest.write_text(
        yaml.safe_dump_all({"apiVersion": "fovea.dev/v1alpha1"} | json.loads(json.dumps(each)) for each in objects)
    )
    return train_manifest(manifest, str(store))


def cpu_milliseconds(model: Path, architecture: Architecture) -> float:
    """Median CPU time of an exported network for one image on one core; other work on the machine hardly changes it."""
    preprocess = Preprocess(architecture.width, architecture.height, mean=architecture.mean, std=architecture.std)
    predictor = Predictor(model, preprocess, Postprocess(architecture.task), threads=1, device=Device.CPU)
    batch = np.random.default_rng(0).normal(size=(1, 3, architecture.height, architecture.width)).astype(np.float32)
    times = []
    for _ in range(WARM_UP + TIMED):
        began = time.process_time()
        predictor.run(batch)
        times.append(1e3 * (time.process_time() - began))
    return round(statistics.median(times[WARM_UP:]), 1)


def processor() -> str:
    """The model of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
