"""The 8-bit model beside the one in floating point, and which of the two is delivered."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from fovea_api.trainingjob import Quantization
from fovea_serving.bundle import MODEL, MODELS

from fovea_trainer.export import LayerSensitivity, QuantizableModel, calibrated, dynamic, exporter
from fovea_trainer.training.quantization_aware import fine_tuned
from fovea_trainer.training.trained import CHOICE_IMAGES, Measured, Trained

FLOATING_SHARES = (0.05, 0.1, 0.2, 0.4)
"""Shares of the layers, the most sensitive ones, that are left in floating point in turn until the metric holds. With
more of them the conversions between the two would cost what the 8-bit layers gain."""
SENSITIVITY_IMAGES, SENSITIVITY_SECONDS = 4, 300.0
"""Train images on which every layer is quantized by itself, more of which change the order of the layers little; and
the time after which the layers that are left stay in 8 bits. A ResNet50 takes about a minute."""
NO_LAYERS = (
    "FP32 is delivered: dynamic quantization is for products of matrices, of which the network has none; use Static."
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether the 8-bit model is delivered, and why, in words for the report."""

    quantized: bool
    reason: str


def choose(
    metric: str,
    before: float | None,
    after: float | None,
    max_drop: float,
    floating: str = "",
    even: str = "",
    how: str = "",
) -> Choice:
    """The 8-bit model if the metric (higher is better) drops by at most `max_drop`, otherwise FP32.

    A metric that has no value, as where no image shows an object, proves nothing: FP32 then.

    Args:
        metric: Its name.
        before: Its value in FP32.
        after: Its value in 8-bit integers.
        max_drop: The drop that is allowed.
        floating: What to add where the 8-bit model is delivered, such as which layers are left in floating point.
        even: What to add where FP32 is delivered.
        how: What to add of how the 8-bit model was made.
    """
    if before is None or after is None:
        return Choice(False, f"FP32 is delivered: {metric} has no value to compare 8-bit integers by.")
    change = f"{metric} is {after:.4f} with 8-bit integers{how} and {before:.4f} in FP32"
    if before - after <= max_drop:
        return Choice(True, f"INT8 is delivered: {change}, within the allowed drop of {max_drop:g}{floating}.")
    return Choice(False, f"FP32 is delivered: {change}, more than the allowed drop of {max_drop:g}{even}.")


@dataclass(frozen=True, slots=True)
class Quantized:
    """The 8-bit model, or None where FP32 is delivered; and why, as a sentence."""

    measured: Measured | None
    reason: str


def quantize(full: Measured, folder: Path) -> Quantized:
    """Writes the 8-bit model beside the other one, and keeps it if it is good enough.

    Where it is not, the layers that suffer most are left in floating point, more and more of them; then the network is
    fine-tuned with the rounding of 8 bits, where the recipe says so, and all is tried once more. The choice is made on
    the validation split, or on train images where there is none; never on the test split. It goes by the primary
    metric; by the task's usual one where that is the loss, which no exported model has.

    Args:
        full: The model in floating point.
        folder: For what fine-tuning writes; what is in it is deleted.
    """
    trained, settings = full.trained, full.trained.recipe.compression.quantization
    assert settings is not None
    split = "validation" if trained.samples("validation") else "train"
    limit = None if split in full.evaluations else CHOICE_IMAGES
    evaluated = full.evaluations.get(split) or trained.evaluate(full.model, split, limit)
    reference = _Reference(split, limit, evaluated.primary, evaluated.metric(evaluated.primary))
    result = _attempt(full, trained, full.model, reference)
    epochs = settings.fine_tune_epochs
    if result.measured is None and reference.value is not None and epochs:
        log.info(result.reason)
        aware = fine_tuned(trained, epochs, folder)
        exporter("ONNX").write(aware.exportable, folder / MODEL)
        how = f" after {epochs} epoch{'s' if epochs > 1 else ''} of quantization-aware fine-tuning"
        result = _attempt(full, aware, folder / MODEL, reference, how)
    return result


@dataclass(frozen=True, slots=True)
class _Reference:
    """What the model in floating point reaches: the value of a metric on a split, or on so many of its images."""

    split: str
    limit: int | None
    metric: str
    value: float | None


def _attempt(full: Measured, trained: Trained, model: Path, reference: _Reference, how: str = "") -> Quantized:
    """The 8-bit variants of a model, until one is good enough.

    Args:
        full: The model in floating point that is delivered otherwise; the 8-bit one is written beside it.
        trained: The network of `model`.
        model: What is quantized.
        reference: What the 8-bit model is held against.
        how: What to add of how the network was trained.
    """
    settings, small = trained.recipe.compression.quantization, full.model.with_name(MODELS["INT8"])
    assert settings is not None
    with _quantizable(trained, settings, model) as ready:
        if not ready.layers:
            return Quantized(None, NO_LAYERS)
        name, made = f"{reference.split}/{reference.metric}", ready.scope + how
        left: Sequence[LayerSensitivity] = ()
        for left in _variants(ready, trained):
            ready.write(small, [layer.node for layer in left])
            after = trained.evaluate(small, reference.split, reference.limit).metric(reference.metric)
            choice = choose(name, reference.value, after, settings.max_metric_drop, *_words(left, ready), made)
            if choice.quantized or reference.value is None or after is None:
                break
    if not choice.quantized:
        small.unlink()
        return Quantized(None, choice.reason)
    trained = trained.with_threshold(small)
    evaluations = {split: trained.evaluate(small, split) for split in full.evaluations}
    measured = trained.measured(small, evaluations)
    return Quantized(replace(measured, floating=tuple(layer.layer for layer in left)), choice.reason)


def _quantizable(trained: Trained, settings: Quantization, model: Path) -> AbstractContextManager[QuantizableModel]:
    if settings.mode == "Dynamic":
        return dynamic(model)
    batches = trained.calibration(settings.calibration_images)
    return calibrated(model, batches, for_tensorrt="TensorRT" in trained.recipe.export.deferred)


def _variants(ready: QuantizableModel, trained: Trained) -> Iterator[Sequence[LayerSensitivity]]:
    """The layers to leave in floating point: none, then more and more of the most sensitive ones."""
    yield ()
    total = len(ready.layers)
    counts = sorted({math.ceil(share * total) for share in FLOATING_SHARES} - {total})
    if not counts:
        return
    log.info("the metric drops too much with 8-bit integers: each of the %d layers is quantized by itself", total)
    ranked = ready.sensitivities(trained.batch("train", 0, SENSITIVITY_IMAGES), SENSITIVITY_SECONDS)
    if len(ranked) < total:
        log.info(
            "after %.0f minutes %d of the %d layers were compared, those whose weights lose most; the others stay in "
            "8 bits",
            SENSITIVITY_SECONDS / 60, len(ranked), total,
        )  # fmt: skip
    for layer in ranked[: counts[-1]]:
        log.info("quantized by itself, %s leaves the outputs %.1f dB above their error", layer.layer, layer.decibels)
    for count in sorted({min(count, len(ranked)) for count in counts}):
        yield ranked[:count]


def _words(left: Sequence[LayerSensitivity], ready: QuantizableModel) -> tuple[str, str]:
    """What to say of the layers that are left in floating point, where the 8-bit model is delivered and where not."""
    if not left:
        return "", ""
    some = f"{len(left)} of {len(ready.layers)} layers"
    names = ", ".join(layer.layer for layer in left)
    return f"; {some} stay in floating point: {names}", f", even with the most sensitive {some} in floating point"
