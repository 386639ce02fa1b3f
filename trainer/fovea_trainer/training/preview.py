"""A picture of what a training sees: the first images of its first epoch, augmented, with their labels."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from fovea_api.trainingjob import Recipe

from fovea_trainer.augmentation import Labelled
from fovea_trainer.data.version import OpenVersion
from fovea_trainer.models.registry import architecture_of
from fovea_trainer.report import base
from fovea_trainer.tasks import definition
from fovea_trainer.training.dataset import SplitDataset, augmentation, preprocessing
from fovea_trainer.training.fitting import fitted
from fovea_trainer.training.order import Order, WorkerBatches

IMAGES, COLUMNS = 16, 4
TILE_PIXELS = 320
"""Longer side of an image in the picture."""
GAP = 6
"""Pixels between two images."""


def augmented_images(recipe: Recipe, version: OpenVersion, count: int = IMAGES) -> base.Image:
    """RGB uint8 [H, W, 3]: images at the network's input size as a grid, without normalization.

    The order is that of the training, the augmentation drawn by the same seeds; only `balance` repeats nothing here.
    """
    recipe = fitted(recipe, version)
    samples, manifest = version.split("train"), version.manifest
    architecture = architecture_of(recipe.model)
    preprocess, augment = preprocessing(architecture, recipe.input), augmentation(architecture, recipe)
    dataset = SplitDataset(samples, definition(manifest.task), preprocess, augment)
    order = Order(np.ones(len(samples)), min(count, len(samples)), recipe.training.seed)
    step = next(iter(WorkerBatches(order, epoch=0, first_step=0, rank=0, workers=1)))
    drawn = [dataset[draw].labelled for draw in step]
    return grid([draw(item, manifest.classes) for item in drawn])


def draw(item: Labelled, classes: Sequence[str]) -> base.Image:
    """An image with the labels that it has."""
    image, scale = base.fit(item.pixels, TILE_PIXELS)
    if item.mask is not None:
        size = (image.shape[1], image.shape[0])
        mask = np.asarray(cv2.resize(item.mask.numpy(), size, interpolation=cv2.INTER_NEAREST), np.uint8)
        return base.draw_mask(image, mask, first=1)
    if item.instances is not None:
        masks = ((item.instances == number).any(0).numpy() for number in range(1, len(item.labels) + 1))
        return base.draw_objects(image, masks, item.labels.numpy())
    if item.classes:
        names = list(classes)
        most = max(item.classes, key=lambda label: item.classes[label])
        if len(item.classes) > 1:
            names[most] = " + ".join(f"{share:.2f} {classes[label]}" for label, share in item.classes.items())
        return base.draw_boxes(image, [[0, 0, image.shape[1] - 1, image.shape[0] - 1]], [most], names)
    return base.draw_boxes(image, item.boxes.numpy() * scale, item.labels.numpy(), classes)


def grid(images: Sequence[base.Image]) -> base.Image:
    """Images of one size in rows of COLUMNS, on white."""
    height, width = images[0].shape[:2]
    rows = -(-len(images) // COLUMNS)
    columns = min(COLUMNS, len(images))
    canvas = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for place, image in enumerate(images):
        top, left = place // COLUMNS * (height + GAP), place % COLUMNS * (width + GAP)
        canvas[top : top + height, left : left + width] = image
    return canvas
