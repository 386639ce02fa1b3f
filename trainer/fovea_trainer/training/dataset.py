"""From stored samples to batches of tensors, by the preprocessing that serving uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from fovea_api.architectures import Architecture
from fovea_api.errors import InvalidInput
from fovea_api.trainingjob import Input, Recipe, Resize
from fovea_serving.pipeline import Geometry, Preprocess, decode
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from fovea_trainer.augmentation import Augment, Labelled, Step
from fovea_trainer.data.version import Split
from fovea_trainer.models.registry import input_size
from fovea_trainer.tasks import Sample, Targets, TaskDefinition
from fovea_trainer.training.fitting import PLAIN_MULTIPLE
from fovea_trainer.training.image_cache import ImageCache, Slots
from fovea_trainer.training.order import RESAMPLED, Draw, Order, repeat_factors


def preprocessing(architecture: Architecture, given: Input) -> Preprocess:
    """The deterministic preprocessing of a recipe."""
    size = input_size(architecture, given)
    mean = architecture.mean if given.normalize is None else given.normalize.mean
    std = architecture.std if given.normalize is None else given.normalize.std
    return Preprocess(size.width, size.height, given.resize, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def augmentation(architecture: Architecture, recipe: Recipe) -> Augment:
    """The random changes of a recipe whose epochs are known."""
    multiple = architecture.multiple if architecture.multiple > 1 else PLAIN_MULTIPLE
    return Augment(recipe.input.augmentations, recipe.training.epochs, multiple)


@dataclass(frozen=True, slots=True)
class Example:
    """A prepared image with its labels, and the way back to the original."""

    labelled: Labelled
    geometry: Geometry


class SplitDataset(Dataset[Example]):
    """The samples of a split at the input size; indexed by a number, or by a `Draw` to augment.

    Args:
        samples: The split.
        task: What the labels are.
        preprocess: Brings images to the input size; what normalizes them is `Normalize`, batch by batch.
        augment: Changes those that are drawn.
        cache: Keeps images at the input size, or None; as many as it has room for.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        task: TaskDefinition,
        preprocess: Preprocess,
        augment: Augment,
        cache: ImageCache | None = None,
    ) -> None:
        self.samples = samples
        self.task = task
        self.preprocess = preprocess
        self.augment = augment
        self._kept: Slots | None = None
        if cache is not None and len(samples):
            sizes = [self._fitting(width, height) for width, height in _sizes(samples)]
            self._kept = cache.reserve([(fit.height, fit.width) for fit in sizes])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: int | Draw) -> Example:
        index = draw if isinstance(draw, int) else draw.index
        item, geometry = self._prepared(index, isinstance(draw, Draw))
        if isinstance(draw, Draw):
            size = self.preprocess.width, self.preprocess.height
            item = self.augment(item, draw.seed, Step(draw.epoch, draw.step_seed, draw.pool, size, self._load))
        return Example(item, geometry)

    def _load(self, index: int) -> Labelled:
        return self._prepared(index, augmented=True)[0]

    def _prepared(self, index: int, augmented: bool) -> tuple[Labelled, Geometry]:
        """An image with its labels at the input size; `augmented`: as the first augmentation takes it."""
        sample = self.samples[index]
        preprocess = self._fitting(sample.width, sample.height) if augmented else self.preprocess
        kept = self._kept if augmented or not self.augment.whole else None
        pixels = None if kept is None else kept.read(index)
        if pixels is not None:
            geometry = preprocess.geometry(sample.width, sample.height)
        else:
            decoded = decode(sample.image_bytes, sample.name)
            pixels, geometry = preprocess.fit(decoded)
            if kept is not None:
                kept.write(index, pixels)
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
        return self.task.annotate(sample, image, preprocess, geometry), geometry

    def _fitting(self, width: int, height: int) -> Preprocess:
        """What is done to an image of this size that is augmented; a whole picture is not yet cut or surrounded, and
        no larger than its file where it is larger than the input."""
        if not self.augment.whole:
            return self.preprocess
        geometry = self.preprocess.geometry(width, height)
        detail = max(1.0, min(self.augment.whole, 1 / max(geometry.scale)))
        scaled = (
            max(1, round(side * scale * detail)) for side, scale in zip(geometry.original, geometry.scale, strict=True)
        )
        across, down = scaled
        return replace(self.preprocess, width=across, height=down, resize=Resize.STRETCH)


def _sizes(samples: Sequence[Sample]) -> Iterator[tuple[int, int]]:
    """Width and height of each image."""
    if isinstance(samples, Split):
        yield from zip(samples.column("width"), samples.column("height"), strict=True)
    else:
        yield from ((sample.width, sample.height) for sample in samples)


Batch = tuple[Tensor, Targets, list[Geometry]]
"""Images uint8 [N, 3, H, W] in the memory format channels_last, targets, geometries."""


@dataclass(frozen=True, slots=True)
class Collate:
    """Makes a batch of examples of a task; can be pickled for loader processes."""

    task: TaskDefinition

    def __call__(self, examples: list[Example]) -> Batch:
        images = torch.stack([example.labelled.image.permute(1, 2, 0) for example in examples]).permute(0, 3, 1, 2)
        targets = self.task.collate([example.labelled for example in examples])
        return images, targets, [example.geometry for example in examples]


class Normalize:
    """Normalizes batches on the device: what travels between processes and to a GPU are bytes.

    It computes what `Preprocess.normalize` does, to the last bit.

    Args:
        preprocess: Mean and standard deviation.
        device: Where the network is.
    """

    def __init__(self, preprocess: Preprocess, device: torch.device) -> None:
        std = np.array(preprocess.std, np.float32)
        factor, shift = 1 / (255 * std), np.array(preprocess.mean, np.float32) / std
        self._device = device
        self._factor, self._shift = (torch.from_numpy(part).view(1, 3, 1, 1).to(device) for part in (factor, shift))

    def __call__(self, images: Tensor) -> Tensor:
        """float32 [N, 3, H, W] on the device, of images uint8 [N, 3, H, W]."""
        return images.to(self._device, non_blocking=True).float().mul_(self._factor).sub_(self._shift)


def class_counts(samples: Sequence[Sample], task: TaskDefinition, num_classes: int) -> NDArray[np.int64]:
    """Annotations of each class in each image, [N, C]."""
    counts = np.stack([task.class_counts(sample, num_classes) for sample in samples])
    if isinstance(samples, Split):
        samples.forget()  # masks were read
    return counts


def class_weights(counts: NDArray[np.int64]) -> tuple[float, ...]:
    """Weight of each class, inverse to its number of annotations [N, C] (images, objects, pixels) and 1 on average over
    them all, so that a loss keeps its size: scikit-learn's "balanced". A class that does not occur has 1."""
    of_class = counts.sum(0)
    balanced = of_class.sum() / ((of_class > 0).sum().clip(1) * np.maximum(of_class, 1))
    return tuple(np.where(of_class > 0, balanced, 1.0).tolist())


def training_order(recipe: Recipe, train: SplitDataset, num_classes: int, workers: int) -> Order:
    """The order in which the images of a split are trained on. Raises InvalidInput: a worker would have no image."""
    training, balance = recipe.training, recipe.input.balance
    if workers > training.batch_size:
        raise InvalidInput(
            f"a batch of {training.batch_size} cannot be shared by {workers} workers",
            "spec.training.batchSize",
            "use fewer workers or larger batches",
        )
    factors = np.ones(len(train))
    if balance in RESAMPLED:
        counts = class_counts(train.samples, train.task, num_classes)
        factors = repeat_factors([np.flatnonzero(image).tolist() for image in counts], balance)
    samples = train.samples
    shards = tuple(shard.rows for shard in samples.shards) if isinstance(samples, Split) else ()
    return Order(factors, training.batch_size, training.seed, training.gradient_accumulation_steps, shards)
