"""How a report shows masks."""

from __future__ import annotations

import numpy as np
from fovea_serving.pipeline import Prediction, SemanticSegmentation, decode, decode_mask
from numpy.typing import NDArray

from fovea_trainer.data.version import Sample
from fovea_trainer.report import base


def draw_labels(sample: Sample) -> base.Image:
    """The image with its mask drawn; the first class is left clear."""
    image, _ = base.fit(decode(sample.image_bytes, sample.name), base.PICTURE_PIXELS)
    mask = decode_mask(sample.mask_bytes or b"", sample.name)
    return base.draw_mask(image, _fit_mask(mask, image), first=1)


def side_by_side(sample: Sample, prediction: Prediction) -> base.Image:
    """The image with its mask beside the image with the predicted mask."""
    assert isinstance(prediction, SemanticSegmentation)
    image, _ = base.fit(decode(sample.image_bytes, sample.name), base.PICTURE_PIXELS)
    predicted = base.draw_mask(image, _fit_mask(prediction.mask, image), first=1)
    return base.beside(draw_labels(sample), predicted)


def _fit_mask(mask: NDArray[np.uint8], image: base.Image) -> NDArray[np.uint8]:
    rows = np.arange(image.shape[0]) * mask.shape[0] // image.shape[0]
    columns = np.arange(image.shape[1]) * mask.shape[1] // image.shape[1]
    return mask[np.ix_(rows, columns)]
