"""Pre- and post-processing in plain numpy and OpenCV: the same code in training, evaluation and serving."""

from fovea_serving.pipeline.decode import DecodedImage, decode, decode_image, decode_mask, is_heic
from fovea_serving.pipeline.geometry import Geometry
from fovea_serving.pipeline.postprocess import (
    OUTPUTS,
    Classification,
    Detection,
    Postprocess,
    Prediction,
    SemanticSegmentation,
    nms,
    softmax,
)
from fovea_serving.pipeline.preprocess import IGNORE, Preprocess

__all__ = [
    "IGNORE",
    "OUTPUTS",
    "Classification",
    "DecodedImage",
    "Detection",
    "Geometry",
    "Postprocess",
    "Prediction",
    "Preprocess",
    "SemanticSegmentation",
    "decode",
    "decode_image",
    "decode_mask",
    "is_heic",
    "nms",
    "softmax",
]
