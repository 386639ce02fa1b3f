"""Another input size in every step."""

from __future__ import annotations

import numpy as np

from fovea_trainer.augmentation.base import Context, Labelled, Transform, register, warp


@register
class MultiScale(Transform):
    """All images of a step at one random size: Redmon and Farhadi, "YOLO9000" (2017)."""

    field = "multi_scale"

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        factor = np.random.default_rng(context.step.seed).uniform(self.options.min, self.options.max)
        multiple = context.multiple
        width, height = (max(1, round(side * factor / multiple)) * multiple for side in item.size)
        if (width, height) == item.size:
            return item
        across, down = width / item.size[0], height / item.size[1]
        return warp(item, np.array([[across, 0, 0], [0, down, 0]]), (width, height))
