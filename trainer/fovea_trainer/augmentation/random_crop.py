"""Windows of images."""

from __future__ import annotations

from fovea_trainer.augmentation.base import Context, Labelled, Transform, register, window


@register
class RandomCrop(Transform):
    """A window of the given size anywhere in the picture; a smaller picture is surrounded evenly."""

    field = "random_crop"
    whole = 1.0

    def __call__(self, item: Labelled, context: Context) -> Labelled:
        size = self.options.width, self.options.height
        top, left = (
            int(context.random.integers(max(0, given - wished) + 1)) - max(0, wished - given) // 2
            for given, wished in zip(item.size[::-1], size[::-1], strict=True)
        )
        return window(item, left, top, size)
