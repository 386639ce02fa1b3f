"""From stored samples to batches of tensors, by the preprocessing that serving uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from fovea_api.architectures import Architecture
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_api.trainingjob import Input
from fovea_serving.pipeline import IGNORE, Geometry, Preprocess, decode, decode_mask
from torch import Tensor
from torch.utils.data import Dataset

from fovea_trainer.augmentation import Augment, Labelled
from fovea_trainer.evaluation.result import LabelledSample
from fovea_trainer.models.network import Targets
from fovea_trainer.models.registry import input_size
from fovea_trainer.training.order import Draw


class Sample(LabelledSample, Protocol):
    """What is read of a stored sample; see the dataset version."""

    @property
    def image_bytes(self) -> bytes: ...


def preprocessing(architecture: Architecture, given: Input) -> Preprocess:
    """The deterministic preprocessing of a recipe."""
    size = input_size(architecture, given)
    mean = architecture.mean if given.normalize is None else given.normalize.mean
    std = architecture.std if given.normalize is None else given.normalize.std
    return Preprocess(size.width, size.height, given.resize, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


@dataclass(frozen=True, slots=True)
class Example:
    """A prepared image with its labels."""

    image: Tensor
    label: int
    boxes: Tensor
    labels: Tensor
    mask: Tensor | None
    geometry: Geometry


class SplitDataset(Dataset[Example]):
    """The samples of a split, prepared; indexed by a number, or by a `Draw` to augment.

    Args:
        samples: The split.
        task: What the labels are.
        preprocess: Brings images to the input size and normalizes them.
        augment: Changes those that are drawn.
    """

    def __init__(self, samples: Sequence[Sample], task: Task, preprocess: Preprocess, augment: Augment) -> None:
        self.samples = samples
        self.task = task
        self.preprocess = preprocess
        self.augment = augment

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: int | Draw) -> Example:
        sample = self.samples[draw if isinstance(draw, int) else draw.index]
        fitted, geometry = self.preprocess.fit(decode(sample.image_bytes, sample.name))
        pixels = torch.from_numpy(np.ascontiguousarray(fitted.transpose(2, 0, 1)))
        item = Labelled(pixels, *self._boxes(sample, geometry), self._mask(sample))
        if isinstance(draw, Draw):
            item = self.augment(item, draw.seed)
        image = self.preprocess.normalize(item.image.numpy().transpose(1, 2, 0))
        mask = None if item.mask is None else item.mask.long()
        return Example(torch.from_numpy(image), sample.label, item.boxes, item.labels, mask, geometry)

    def _boxes(self, sample: Sample, geometry: Geometry) -> tuple[Tensor, Tensor]:
        if self.task is not Task.DETECTION:
            return torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
        boxes = geometry.to_input(np.asarray(sample.boxes, np.float32).reshape(-1, 4))
        width, height = geometry.input
        boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
        seen = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
        labels = np.asarray(sample.labels, np.int64)
        return torch.from_numpy(boxes[seen]), torch.from_numpy(labels[seen])

    def _mask(self, sample: Sample) -> Tensor | None:
        if self.task is not Task.SEMANTIC_SEGMENTATION:
            return None
        if sample.mask_bytes is None:
            raise InvalidInput("the image has no mask", sample.name, "build the dataset again")
        return torch.from_numpy(self.preprocess.fit_mask(decode_mask(sample.mask_bytes, sample.name)).copy())


def collate(examples: list[Example]) -> tuple[Tensor, Targets, list[Geometry]]:
    """Images [N, 3, H, W], targets, geometries."""
    images = torch.stack([example.image for example in examples]).contiguous(memory_format=torch.channels_last)
    masks = [example.mask for example in examples if example.mask is not None]
    targets = Targets(
        labels=torch.tensor([example.label for example in examples]),
        boxes=tuple(example.boxes for example in examples),
        box_labels=tuple(example.labels for example in examples),
        masks=torch.stack(masks) if masks else None,
    )
    return images, targets, [example.geometry for example in examples]


def classes_of(samples: Sequence[Sample], task: Task) -> list[list[int]]:
    """For each image the classes of its annotations, one entry each; of a mask, one entry a class."""
    if task is Task.CLASSIFICATION:
        return [[sample.label] for sample in samples]
    if task is Task.DETECTION:
        return [[int(label) for label in sample.labels] for sample in samples]
    masks = (decode_mask(sample.mask_bytes or b"", sample.name) for sample in samples)
    return [[int(label) for label in np.unique(mask) if label != IGNORE] for mask in masks]


def class_weights(samples: Sequence[Sample], task: Task, classes: int) -> tuple[float, ...]:
    """Weight of each class, inverse to its frequency (of images, or of pixels), with mean 1."""
    counts = np.zeros(classes)
    for sample in samples:
        if task is Task.CLASSIFICATION:
            counts[sample.label] += 1
        else:
            mask = decode_mask(sample.mask_bytes or b"", sample.name)
            counts += np.bincount(mask[mask != IGNORE], minlength=classes)[:classes]
    weights = 1 / np.maximum(counts, 1)
    return tuple(float(weight) for weight in weights * classes / weights.sum())
