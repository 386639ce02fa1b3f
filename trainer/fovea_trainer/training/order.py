"""Which image is trained on when: a pure function of the seed, so that any position can be restored.

The order of an epoch depends on seed and epoch alone. Every step takes the next images, in one batch or several, and
each of W workers every W-th image of a batch. A position is therefore just a number of steps: it is exact after a
resume, and it keeps its meaning when the number of workers changes, which the state of a per-worker loader does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOW_SHARDS = 4
"""Shards whose images are mixed with each other. A build puts images into shards by their digests, which is at random:
a window of up to 16,384 images is as good a mixture as the whole, and no more shards have to be on the disk at once."""
POOL = 32
"""Images, at least, that an image may be combined with by Mosaic and the like; an epoch may have fewer."""
MAX_REPEATS = 10.0
"""An image of a rare class is shown at most this often in an epoch: beyond it, it would be learnt by heart."""

RESAMPLED = ("Oversample", "RepeatFactors", "Undersample")
"""Values of `spec.input.balance` that change how often an image is shown."""


@dataclass(frozen=True, slots=True)
class Order:
    """The order of training images.

    Args:
        repeat_factors: How often each image is shown in an epoch, on average; 1 for all: plain shuffling.
        batch_size: Images in a batch, over all workers.
        seed: Seed of the shuffling.
        accumulated: Batches in a step, whose gradients are added up.
        shards: Images in each shard of the split. More than WINDOW_SHARDS are trained on in windows of so many, whose
            members change from epoch to epoch.
    """

    repeat_factors: NDArray[np.float64]
    batch_size: int
    seed: int
    accumulated: int = 1
    shards: tuple[int, ...] = ()

    @property
    def images_per_step(self) -> int:
        """Images that a step goes by, over all workers."""
        return self.batch_size * self.accumulated

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch; the last one is filled up with images of the epoch."""
        return max(1, -(-round(float(self.repeat_factors.sum())) // self.images_per_step))

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """Indices of the images [steps, images_per_step] of an epoch, counted from 0."""
        random = np.random.default_rng([self.seed, epoch])
        whole = np.floor(self.repeat_factors)
        counts = (whole + (random.random(len(self.repeat_factors)) < self.repeat_factors - whole)).astype(int)
        index = random.permutation(np.repeat(np.arange(len(self.repeat_factors)), counts))
        if len(index) == 0:
            index = np.arange(len(self.repeat_factors))
        if len(self.shards) > WINDOW_SHARDS:
            shard = np.searchsorted(np.cumsum(self.shards), index, "right")
            window = random.permutation(len(self.shards))[shard] // WINDOW_SHARDS
            index = index[np.argsort(window, kind="stable")]
            size = self.images_per_step  # filled up from its end: those of other windows' shards may have left
            missing = max(0, self.steps_per_epoch * size - len(index))
            index = np.concatenate([index, np.resize(index[-max(size, missing) :], missing)])
        return np.resize(index, (self.steps_per_epoch, self.images_per_step)).astype(np.int64)

    def pool(self, images: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        """Indices of the images that those of a step may be combined with: of the step, and of those around it where
        it has fewer than POOL. So their shards are at hand, whatever the size of the split.

        Args:
            images: Those of the epoch, [steps, images_per_step].
            step: Counted from 0.
        """
        end = max((step + 1) * self.images_per_step, POOL)
        return images.ravel()[max(0, end - max(POOL, self.images_per_step)) : end]


@dataclass(frozen=True, slots=True)
class Draw:
    """One image of a step.

    Args:
        index: Of the image.
        seed: Of its augmentation.
        epoch: Counted from 0.
        step_seed: The same for all images of the step, over all workers.
        pool: Indices of the images that it may be combined with, as `Order.pool` has them.
    """

    index: int
    seed: int
    epoch: int = 0
    step_seed: int = 0
    pool: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerBatches:
    """A worker's batches of one epoch, from a given step on: the batch sampler of its data loader."""

    order: Order
    epoch: int
    first_step: int
    rank: int
    workers: int

    def __iter__(self) -> Iterator[list[Draw]]:
        size, epoch = self.order.batch_size, self.order.epoch(self.epoch)
        for step, images in enumerate(epoch[self.first_step :], self.first_step):
            step_seed, pool = mix(self.order.seed, self.epoch, step), tuple(self.order.pool(epoch, step).tolist())
            for start in range(0, self.order.images_per_step, size):
                yield [
                    Draw(int(images[place]), mix(self.order.seed, self.epoch, step, place), self.epoch, step_seed, pool)
                    for place in range(start + self.rank, start + size, self.workers)
                ]

    def __len__(self) -> int:
        return (self.order.steps_per_epoch - self.first_step) * self.order.accumulated

    def positions(self, combined: bool) -> list[NDArray[np.int64]]:
        """Indices of the images that each batch needs: its own, and those of its step's pool if they are combined."""
        epoch, accumulated = self.order.epoch(self.epoch), self.order.accumulated
        own = epoch[self.first_step :].reshape(-1, self.order.batch_size)[:, self.rank :: self.workers]
        if not combined:
            return list(own)
        pools = [self.order.pool(epoch, step) for step in range(self.first_step, len(epoch))]
        return [np.concatenate([images, pools[number // accumulated]]) for number, images in enumerate(own)]


def mix(*numbers: int) -> int:
    """A seed of 63 bits from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def repeat_factors(classes: Sequence[Sequence[int]], balance: str) -> NDArray[np.float64]:
    """How often each image is shown in an epoch.

    Oversample repeats images of rare classes until these are as frequent as the most frequent one; RepeatFactors by the
    square root of that (Gupta et al., "LVIS", 2019, with the most frequent class for the threshold); Undersample shows
    images of frequent classes only as often as the rarest.

    Args:
        classes: For each image the class indices that occur in it.
        balance: As in `spec.input.balance`.
    """
    result = np.ones(len(classes))
    if balance not in RESAMPLED or not any(classes):
        return result
    counts = np.bincount([label for labels in classes for label in set(labels)]).astype(float)
    occurring = counts[counts > 0]
    for index, labels in enumerate(classes):
        if labels:
            rarest = min(counts[label] for label in labels)
            ratio = (occurring.min() if balance == "Undersample" else occurring.max()) / rarest
            result[index] = min(MAX_REPEATS, ratio**0.5 if balance == "RepeatFactors" else ratio)
    return result
