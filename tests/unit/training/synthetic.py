"""Small datasets whose labels can be seen in the picture, so that learning them proves something."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import yaml
from fovea_api.common import Task
from fovea_api.version import DatasetVersion
from fovea_serving.pipeline.run_lengths import encode
from numpy.typing import NDArray
from pydantic import JsonValue

SIZE = 32


@dataclass(frozen=True)
class Sample:
    name: str
    image_bytes: bytes
    label: int = -1
    boxes: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    labels: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    difficult: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    mask_bytes: bytes | None = None
    masks: tuple[bytes, ...] = ()
    width: int = SIZE
    height: int = SIZE


@dataclass(frozen=True)
class Version:
    manifest: DatasetVersion
    samples: dict[str, list[Sample]]

    def split(self, name: str) -> Sequence[Sample]:
        return self.samples.get(name, [])


def png(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def squares(task: Task, train: int = 24, validation: int = 8) -> Version:
    """One bright square each: the class is its colour, red or blue; as an image, a box, a mask or an object."""
    random = np.random.default_rng(0)
    samples = []
    for index in range(train + validation):
        image = random.integers(0, 60, (SIZE, SIZE, 3)).astype(np.uint8)
        label = index % 2
        x, y = random.integers(2, SIZE // 2, 2)
        side = int(random.integers(8, 14))
        image[y : y + side, x : x + side, 2 * label] = 255
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[y : y + side, x : x + side] = label + 1
        boxes = np.array([[x, y, x + side, y + side]], np.float32)
        samples.append(
            Sample(
                f"{index}.png",
                png(image),
                label if task is Task.CLASSIFICATION else -1,
                boxes,
                np.array([label], np.int32),
                mask_bytes=png(mask),
                masks=(encode(mask > 0, 0, 0, SIZE, SIZE),),
            )
        )
    splits = {"train": samples[:train], "validation": samples[train:]}
    classes = ("nothing", "red", "blue") if task is Task.SEMANTIC_SEGMENTATION else ("red", "blue")
    manifest = DatasetVersion(
        task=task,
        classes=classes,
        splits={name: len(part) for name, part in splits.items()},
        images=len(samples),
        annotations=len(samples),
        shards=(),
        digest="sha256-" + "0" * 64,
    )
    return Version(manifest, splits)


def class_folders(
    folder: Path, splits: Mapping[str, int], pictures: Iterable[Sample], classes: Sequence[str]
) -> dict[str, JsonValue]:
    """Writes so many pictures of each split into folders of splits and classes; the spec of a Dataset of them."""
    left = iter(pictures)
    for split, count in splits.items():
        for picture in islice(left, count):
            file = folder / split / classes[picture.label] / picture.name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture.image_bytes)
    return {
        "task": "Classification",
        "sources": [{"name": "lab", "uri": f"file://{folder}", "format": "ImageFolder"}],
        "splits": {"method": "FromSource", "keepNearDuplicatesTogether": False},
    }


def manifest(folder: Path, splits: Mapping[str, int], **spec: JsonValue) -> Path:
    """Pictures in folders of splits and classes, and the manifest to train on them."""
    pictures = squares(Task.CLASSIFICATION, sum(splits.values()), 0).samples["train"]
    dataset = class_folders(folder / "pictures", splits, pictures, ("red", "blue"))
    job: dict[str, JsonValue] = {
        "datasetRef": {"name": "squares"},
        "model": {
            "architecture": "resnet18",
            "options": {"width": 0.125, "stem": "Small"},
            "pretrained": {"weights": "None"},
        },
        "input": {"size": {"width": 32, "height": 32}, "augmentations": []},
        "training": {"epochs": 2, "batchSize": 8, "precision": "FP32", "optimizer": {"learningRate": 0.01}},
        **spec,
    }
    objects = [
        {"apiVersion": "fovea.dev/v1alpha1", "kind": kind, "metadata": {"name": "squares"}, "spec": content}
        for kind, content in (("Dataset", dataset), ("TrainingJob", job))
    ]
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump_all(objects))
    return path
