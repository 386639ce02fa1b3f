"""What a report of a detector shows beside what all reports show."""

from __future__ import annotations

from collections.abc import Sequence

from fovea_serving.pipeline import Detection, Prediction, decode

from fovea_trainer.data.version import Sample
from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.report import base
from fovea_trainer.tasks.detection.errors import ERRORS


def draw_labels(sample: Sample, classes: Sequence[str]) -> base.Image:
    """The image with its labelled boxes drawn."""
    image, scale = base.fit(decode(sample.image_bytes, sample.name), base.PICTURE_PIXELS)
    return base.draw_boxes(image, sample.boxes * scale, sample.labels, classes)


def side_by_side(sample: Sample, prediction: Prediction, evaluation: EvaluationResult) -> base.Image:
    """The image with its labelled boxes beside the image with the confident detections."""
    assert isinstance(prediction, Detection)
    image, scale = base.fit(decode(sample.image_bytes, sample.name), base.PICTURE_PIXELS)
    confident = prediction.above(0.5 if evaluation.threshold is None else evaluation.threshold)
    predicted = base.draw_boxes(image, confident.boxes * scale, confident.labels, evaluation.classes, confident.scores)
    return base.beside(draw_labels(sample, evaluation.classes), predicted)


def precision_recall(evaluation: EvaluationResult) -> list[base.Section]:
    """Precision over recall for each class."""
    curves = [curve for curve in evaluation.curves if curve.kind == "precisionRecall"]
    if not curves:
        return []
    figure, axes = base.new_figure(5.6, 3.4)
    for index, curve in enumerate(curves[: base.CLASSES_IN_FIGURES]):
        color = base.color(evaluation.classes.index(curve.name))
        axes.plot(curve.x, curve.y, color=color, label=curve.name, linewidth=1.8, zorder=3 + index)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="Recall", ylabel="Precision")
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    lead = "How many detections are right, over how many objects are detected, at IoU 0.5."
    return [base.Section("Precision and recall", base.embed_figure(figure), lead)]


def error_section(evaluation: EvaluationResult) -> list[base.Section]:
    """The wrong detections by kind."""
    if not evaluation.errors:
        return []
    figure, axes = base.new_figure(6.0, 2.4)
    names = [ERRORS[kind].capitalize() for kind in evaluation.errors]
    bars = axes.barh(names, list(evaluation.errors.values()), color=base.color(1), height=0.62)
    axes.bar_label(bars, fmt="{:,.0f}", padding=4, fontsize=8, color=base.MUTED)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    return [base.Section("Errors", base.embed_figure(figure), "What is wrong with the wrong ones, after TIDE.")]
