"""The 8-bit model beside the one in floating point, and which of the two is delivered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fovea_serving.bundle import MODELS

from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.export import quantize_static
from fovea_trainer.training.trained import CHOICE_IMAGES, Trained


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether the 8-bit model is delivered, and why, in words for the report."""

    quantized: bool
    reason: str


def choose(metric: str, before: float | None, after: float | None, max_drop: float) -> Choice:
    """The 8-bit model if the metric (higher is better) drops by at most `max_drop`, otherwise FP32.

    A metric that has no value, as where no image shows an object, proves nothing: FP32 then.
    """
    if before is None or after is None:
        return Choice(False, f"FP32 is delivered: {metric} has no value to compare 8-bit integers by.")
    change = f"{metric} is {after:.4f} with 8-bit integers and {before:.4f} in FP32"
    if before - after <= max_drop:
        return Choice(True, f"INT8 is delivered: {change}, within the allowed drop of {max_drop:g}.")
    return Choice(False, f"FP32 is delivered: {change}, more than the allowed drop of {max_drop:g}.")


@dataclass(frozen=True, slots=True)
class Delivered:
    """The exported model that is served, what it was measured to be, and the metrics before compression, if any."""

    trained: Trained
    model: Path
    evaluations: Mapping[str, EvaluationResult]
    before: Mapping[str, float]
    quantized: bool
    reason: str


def quantize(trained: Trained, model: Path, evaluations: Mapping[str, EvaluationResult]) -> Delivered:
    """Writes the 8-bit model beside the other one, and keeps it if it is good enough.

    The choice is made on the validation split, or on train images where there is none; never on the test split. It
    goes by the primary metric; by the task's usual one where that is the loss, which no exported model has.
    """
    recipe = trained.recipe
    settings = recipe.compression.quantization
    assert settings is not None
    small = model.with_name(MODELS["INT8"])
    batches = trained.calibration(settings.calibration_images)
    quantize_static(model, small, batches, for_tensorrt="TensorRT" in recipe.export.deferred)
    split = "validation" if trained.samples("validation") else "train"
    limit = None if split in evaluations else CHOICE_IMAGES
    full = evaluations.get(split) or trained.evaluate(model, split, limit)
    tried = trained.evaluate(small, split, limit)
    metric = full.primary
    choice = choose(f"{split}/{metric}", full.metric(metric), tried.metric(metric), settings.max_metric_drop)
    if not choice.quantized:
        small.unlink()
        return Delivered(trained, model, evaluations, {}, False, choice.reason)
    before, trained = trained.metrics(model, evaluations), trained.with_threshold(small)
    after = {name: trained.evaluate(small, name) for name in evaluations}
    return Delivered(trained, small, after, before, True, choice.reason)
