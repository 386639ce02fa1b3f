"""Pre- and post-processing in plain numpy and OpenCV: the same code in training, evaluation and serving."""

from fovea_serving.pipeline.decode import DecodedImage, decode, decode_image, decode_mask, is_heic
from fovea_serving.pipeline.geometry import Geometry
from fovea_serving.pipeline.postprocess import Postprocess
from fovea_serving.pipeline.predictions import (
    Classification,
    Detection,
    InstanceSegmentation,
    NamedPrediction,
    Prediction,
    SemanticSegmentation,
    nms,
    prediction_type,
    softmax,
)
from fovea_serving.pipeline.preprocess import IGNORE, Preprocess

__all__ = [
    "IGNORE",
    "Classification",
    "DecodedImage",
    "Detection",
    "Geometry",
    "InstanceSegmentation",
    "NamedPrediction",
    "Postprocess",
    "Prediction",
    "Preprocess",
    "SemanticSegmentation",
    "decode",
    "decode_image",
    "decode_mask",
    "is_heic",
    "nms",
    "prediction_type",
    "softmax",
]
