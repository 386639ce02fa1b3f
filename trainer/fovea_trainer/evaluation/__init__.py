"""Evaluation of an exported model through the very code that serves it."""

from fovea_trainer.evaluation.evaluate import evaluate
from fovea_trainer.evaluation.latency import Latency, measure_latency, size_megabytes
from fovea_trainer.evaluation.result import Confusion, Curve, EvaluationResult, ImageScore, Slice

__all__ = [
    "Confusion",
    "Curve",
    "EvaluationResult",
    "ImageScore",
    "Latency",
    "Slice",
    "evaluate",
    "measure_latency",
    "size_megabytes",
]
