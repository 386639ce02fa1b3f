"""Random changes of training images, with boxes and masks moving along: a file a transform, which registers itself.

OpenCV works on the bytes as they were decoded, which takes a fraction of what torchvision's transforms take.
"""

from fovea_trainer.augmentation.base import (
    FILL,
    MIN_VISIBILITY,
    TRANSFORMS,
    Augment,
    Combination,
    Context,
    Labelled,
    Step,
    Transform,
    register,
    warp,
)

__all__ = [
    "FILL",
    "MIN_VISIBILITY",
    "TRANSFORMS",
    "Augment",
    "Combination",
    "Context",
    "Labelled",
    "Step",
    "Transform",
    "register",
    "warp",
]
