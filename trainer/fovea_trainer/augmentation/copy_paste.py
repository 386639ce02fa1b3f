"""Parts of other images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from fovea_serving.pipeline import IGNORE

from fovea_trainer.augmentation.base import Combination, Context, Labelled, aligned, centred, register


@register
class CopyPaste(Combination):
    """Half of the objects of another image, with their pixels (Ghiasi et al., "Simple Copy-Paste", 2021); where pixels
    have classes and no objects, those of half of its classes (Olsson et al., "ClassMix", 2021)."""

    field = "copy_paste"

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        if not self.applies(context) or (item.mask is None and item.instances is None):
            return item
        other = centred(context.other(), item.size)
        return paste_classes(item, other, context) if item.instances is None else paste_objects(item, other, context)


def paste_classes(item: Labelled, other: Labelled, context: Context) -> Labelled:
    assert item.mask is not None
    assert other.mask is not None
    labels = other.mask.numpy()
    present = np.setdiff1d(np.unique(labels), [IGNORE])
    pasted = np.isin(labels, context.random.choice(present, (len(present) + 1) // 2, replace=False))
    pixels = np.where(pasted[..., None], other.pixels, item.pixels)
    mask = np.where(pasted, labels, item.mask.numpy())
    return replace(item.with_pixels(pixels), mask=torch.from_numpy(mask))


def paste_objects(item: Labelled, other: Labelled, context: Context) -> Labelled:
    count = len(other.labels)
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[torch.from_numpy(context.random.choice(count, (count + 1) // 2, replace=False))] = True
    other = other.with_objects(chosen)
    below, above = aligned([item, other])
    pasted = (above > 0).any(0)
    pixels = np.where(pasted.numpy()[..., None], other.pixels, item.pixels)
    return replace(
        item.with_pixels(pixels),
        boxes=torch.cat([item.boxes, other.boxes]),
        labels=torch.cat([item.labels, other.labels]),
        instances=torch.cat([torch.where(pasted, 0, below), above]),
    )
