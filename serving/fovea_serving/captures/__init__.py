"""Answers and images that a deployment keeps, and the labels that come to them later."""

from fovea_serving.captures.records import Answered, Capture, ImageAnswer, Label, is_right_answer
from fovea_serving.captures.store import CaptureStore

__all__ = ["Answered", "Capture", "CaptureStore", "ImageAnswer", "Label", "is_right_answer"]
