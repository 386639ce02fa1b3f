"""What a model predicts: a file for each task, with its way from the outputs, its JSON form, words and drawing."""

from fovea_serving.pipeline.predictions.base import (
    DecodingSettings,
    NamedPrediction,
    Prediction,
    prediction_type,
    register,
)
from fovea_serving.pipeline.predictions.classification import Classification, softmax
from fovea_serving.pipeline.predictions.detection import ONE_OBJECT_IOU, Detection, nms
from fovea_serving.pipeline.predictions.instance_segmentation import InstanceSegmentation, pasted
from fovea_serving.pipeline.predictions.semantic_segmentation import SemanticSegmentation

__all__ = [
    "ONE_OBJECT_IOU",
    "Classification",
    "DecodingSettings",
    "Detection",
    "InstanceSegmentation",
    "NamedPrediction",
    "Prediction",
    "SemanticSegmentation",
    "nms",
    "pasted",
    "prediction_type",
    "register",
    "softmax",
]
