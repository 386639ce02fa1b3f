"""Small datasets whose labels can be seen in the picture, so that learning them proves something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from fovea_api.common import Task
from fovea_api.version import DatasetVersion
from numpy.typing import NDArray

SIZE = 32


@dataclass(frozen=True)
class Sample:
    name: str
    image_bytes: bytes
    label: int = -1
    boxes: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    labels: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    mask_bytes: bytes | None = None


@dataclass(frozen=True)
class Version:
    manifest: DatasetVersion
    samples: dict[str, list[Sample]]

    def split(self, name: str) -> Sequence[Sample]:
        return self.samples.get(name, [])


def png(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def squares(task: Task, train: int = 24, validation: int = 8) -> Version:
    """One bright square each: the class is its colour, red or blue; as an image, a box or a mask."""
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
                png(mask),
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
