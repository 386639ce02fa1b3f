"""What of a recipe follows from the dataset: how long training takes, how long its rate rises, how large the input is.

A pure function of recipe and dataset version, which both are part of a run's identity: every process of a run, and
every run of the same identity, comes to the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from fovea_api.architectures import Architecture, find
from fovea_api.trainingjob import Augmentation, Recipe, Size, Sizing, Training
from fovea_api.version import DatasetVersion
from numpy.typing import NDArray

from fovea_trainer.tasks import Sample

IMAGES = 500
"""Images, spread evenly over the train split, whose sizes are looked at."""
MAX_ASPECT = 3.0
"""Width over height that counts as this at most, and as its inverse at least."""
SMALL_OBJECTS = 0.25
"""Share of the objects that may be smaller than `objectPixels`."""
FINE_TUNING_RATE = 0.5
"""Share of the learning rate that a pruned network is fine-tuned with."""
PLAIN_MULTIPLE = 32
"""Sides are multiples of this where an architecture takes all: the stride of the usual bodies."""
MUCH_ENLARGED, MUCH_SHRUNK = 2.5, 0.25
"""Input over image, beyond which it is said: time is spent on pixels that show nothing, or objects vanish."""


class Version(Protocol):
    """What is read of a dataset version."""

    @property
    def manifest(self) -> DatasetVersion: ...
    def split(self, name: str) -> Sequence[Sample]: ...


@dataclass(frozen=True, slots=True)
class Images:
    """Sizes in a train split, of a part of its images.

    Args:
        sizes: Width and height of each image in pixels, [N, 2].
        objects: Size (square root of the area) of each box over the longer side of its image, [B].
    """

    sizes: NDArray[np.float64]
    objects: NDArray[np.float64]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Images:
        """Those of a split that is not empty."""
        chosen = np.unique(np.linspace(0, len(samples) - 1, min(len(samples), IMAGES)).round().astype(int))
        sizes, objects = [], [np.zeros(0)]
        for index in chosen:
            sample = samples[int(index)]
            sizes.append((sample.width, sample.height))
            extent = (sample.boxes[:, 2:] - sample.boxes[:, :2]).astype(np.float64).clip(0)
            objects.append(np.sqrt(extent.prod(1)) / max(sample.width, sample.height))
        return cls(np.array(sizes, np.float64), np.concatenate(objects))

    @property
    def longer_side(self) -> float:
        """Of the median image, in pixels."""
        return float(np.median(self.sizes.max(1)))


def fitted(recipe: Recipe, version: Version) -> Recipe:
    """The recipe with what follows from a dataset version spelled out; one that leaves nothing open as it is."""
    training = long_enough(recipe.training, version.manifest.splits.get("train", 0))
    result = recipe if training is recipe.training else recipe.model_copy(update={"training": training})
    given = recipe.input
    if given.size is not None or given.sizing is None:
        return result
    size = fit_size(given.sizing, Images.of(version.split("train")), find(recipe.model.architecture))
    augmentations = tuple(_within(item, size) for item in given.augmentations)
    update: Mapping[str, object] = {"size": size, "sizing": None, "augmentations": augmentations}
    return result.model_copy(update={"input": given.model_copy(update=update)})


def total_epochs(recipe: Recipe, pruned_after: int = 0) -> int:
    """Epochs of a fitted recipe, those of fine-tuning included; `pruned_after`: those before it, where it has begun."""
    pruning = recipe.compression.pruning
    return (pruned_after or recipe.training.epochs) + (pruning.fine_tune_epochs if pruning is not None else 0)


def fine_tuning(training: Training, epochs: int, share_of_rate: float = FINE_TUNING_RATE) -> Training:
    """How a compressed network is trained: as it was before, in fewer epochs.

    The learning rate rises and falls once more, to a share of its peak: to begin where training ended, at
    nearly 0, recovers less (Renda et al., "Comparing Rewinding and Fine-tuning in Neural Network Pruning", 2020).
    """
    rate = training.optimizer.learning_rate * share_of_rate
    optimizer = training.optimizer.model_copy(update={"learning_rate": rate})
    return shortened(training, epochs).model_copy(update={"optimizer": optimizer})


def shortened(training: Training, epochs: int) -> Training:
    """The training in fewer epochs, one at least, with the whole rise and fall of its learning rate."""
    share = epochs / training.epochs
    schedule = training.schedule.model_copy(update={"warmup_epochs": training.schedule.warmup_epochs * share})
    if schedule.step_epochs is not None:
        schedule = schedule.model_copy(update={"step_epochs": max(1, round(schedule.step_epochs * share))})
    return training.model_copy(update={"epochs": max(1, epochs), "schedule": schedule})


def long_enough(training: Training, images: int) -> Training:
    """The training with its epochs, and those in which its rate rises, for a train split of so many images."""
    schedule = training.schedule
    if training.min_steps == 0 and schedule.warmup_share is None:
        return training
    per_epoch = max(1, math.ceil(images / (training.batch_size * training.gradient_accumulation_steps)))
    epochs = max(training.epochs, math.ceil(training.min_steps / per_epoch))
    if schedule.warmup_share is not None:
        update = {"warmup_epochs": schedule.warmup_share * epochs, "warmup_share": None}
        schedule = schedule.model_copy(update=update)
    return training.model_copy(update={"epochs": epochs, "min_steps": 0, "schedule": schedule})


def fit_size(sizing: Sizing, images: Images, architecture: Architecture) -> Size:
    """The size of the input: no larger than the images show anything in, in their shape."""
    most = images.longer_side * sizing.enlarge
    longer = min(float(sizing.longer_side), most)
    if sizing.object_pixels and len(images.objects):
        small = max(float(np.quantile(images.objects, SMALL_OBJECTS)), 1e-6)
        longer = max(longer, min(float(sizing.largest), most, sizing.object_pixels / small))
    longer = max(longer, float(sizing.smallest))
    ratios = np.log(images.sizes[:, 0] / images.sizes[:, 1])
    aspect = math.exp(ratios.clip(-math.log(MAX_ASPECT), math.log(MAX_ASPECT)).mean())
    step = architecture.multiple if architecture.multiple > 1 else PLAIN_MULTIPLE
    width, height = (longer, longer / aspect) if aspect >= 1 else (longer * aspect, longer)
    return Size(width=_rounded(width, step), height=_rounded(height, step))


def _rounded(pixels: float, step: int) -> int:
    return max(1, math.floor(pixels / step + 0.5)) * step


def _within(item: Augmentation, size: Size) -> Augmentation:
    """The augmentation; a random window is no larger than the input."""
    if (window := item.random_crop) is None:
        return item
    sides = {"width": min(window.width, size.width), "height": min(window.height, size.height)}
    return item.model_copy(update={"random_crop": window.model_copy(update=sides)})


def scale_notes(images: Images, size: Size) -> tuple[str, ...]:
    """A sentence where most images are much smaller or much larger than the input."""
    width, height = (round(float(side)) for side in np.median(images.sizes, 0))
    scale = min(size.width / width, size.height / height)
    words = (
        f"The input of {size.width} x {size.height} pixels is {{}} the images of the train split ({width} x {height})"
    )
    if scale > MUCH_ENLARGED:
        return (f"{words.format(f'{scale:.1f} times as large as')}: training takes {scale**2:.0f} times as long as at "
                "their own size, and sees no more in them; a smaller input.size may be as good.",)  # fmt: skip
    if scale < MUCH_SHRUNK:
        return (f"{words.format(f'{1 / scale:.1f} times smaller than')}: what is small in them is lost; a larger "
                "input.size, or tiles of the images, show it.",)  # fmt: skip
    return ()
