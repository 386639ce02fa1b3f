"""Parts of other images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from fovea_serving.pipeline import IGNORE

from fovea_trainer.augmentation.base import Combination, Context, Labelled, centred, register


@register
class CopyPaste(Combination):
    """The pixels and labels of half of the classes of another image: Olsson et al., "ClassMix" (2021)."""

    field = "copy_paste"

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        if not self.applies(context) or item.mask is None:
            return item
        other = centred(context.other(), item.size)
        assert other.mask is not None
        labels = other.mask.numpy()
        present = np.setdiff1d(np.unique(labels), [IGNORE])
        pasted = np.isin(labels, context.random.choice(present, (len(present) + 1) // 2, replace=False))
        pixels = np.where(pasted[..., None], other.pixels, item.pixels)
        mask = np.where(pasted, labels, item.mask.numpy())
        return replace(item.with_pixels(pixels), mask=torch.from_numpy(mask))
