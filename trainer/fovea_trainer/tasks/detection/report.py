"""What a report of a detector shows beside what all reports show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fovea_serving.pipeline import Detection, Prediction, decode

from fovea_trainer.data.version import Sample
from fovea_trainer.evaluation.result import EvaluationResult, Mistake
from fovea_trainer.report import base
from fovea_trainer.tasks.detection.errors import ERRORS

CROP_PIXELS = 64
"""Width of the smallest piece of an image that is shown around a mistake."""


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
    weakest = sorted(curves, key=lambda curve: evaluation.metric("AP50", curve.name) or 0.0)
    for index, curve in enumerate(weakest[: base.CLASSES_IN_FIGURES]):
        color = base.color(evaluation.classes.index(curve.name))
        axes.plot(curve.x, curve.y, color=color, label=curve.name, linewidth=1.8, zorder=3 + index)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="Recall", ylabel="Precision")
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    lead = "How many detections are right, over how many objects are detected, at IoU 0.5."
    if len(curves) > base.CLASSES_IN_FIGURES:
        lead += f" The {base.CLASSES_IN_FIGURES} of {len(curves)} classes with the lowest AP."
    return [base.Section("Precision and recall", base.embed_figure(figure), lead)]


def threshold_section(evaluation: EvaluationResult) -> list[base.Section]:
    """Precision, recall and F1 over the confidence threshold, with the one that the bundle has."""
    curves = [curve for curve in evaluation.curves if curve.kind == "threshold"]
    if not curves or evaluation.threshold is None:
        return []
    figure, axes = base.new_figure(5.6, 3.0)
    for index, curve in enumerate(curves):
        name = curve.name.capitalize()
        axes.plot(curve.x, curve.y, color=base.color(index), label=name, linewidth=1.8, zorder=3 + index)
    axes.axvline(evaluation.threshold, color=base.MUTED, linewidth=1.1, linestyle=(0, (4, 3)))
    axes.annotate(
        f" {evaluation.threshold:.2f}", (evaluation.threshold, 1.0), color=base.MUTED, fontsize=8, va="bottom"
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="Confidence threshold")
    axes.legend(frameon=False, fontsize=8, loc="lower center", ncols=len(curves))
    lead = (
        f"The line is the recommended threshold, {evaluation.threshold:.2f}: the best F1 on the validation split. It "
        "is in the bundle; `fovea predict --confidence` sets another."
    )
    return [base.Section("Confidence threshold", base.embed_figure(figure), lead)]


def mistakes(evaluation: EvaluationResult, samples: Sequence[Sample]) -> list[base.Section]:
    """Pieces of the images around the most confident wrong detections and the largest missed objects."""
    titles = {
        "FalsePositive": ("Worst false positives", "The wrong detections that the model is most sure of."),
        "Miss": ("Missed objects", "The largest of the objects that were not detected with their class."),
    }
    sections = []
    for kind, (title, lead) in titles.items():
        shown = [each for each in evaluation.mistakes if each.kind == kind]
        pictures = [base.picture(_crop(each, samples[each.index]), _caption(each), width=180) for each in shown]
        if pictures:
            sections.append(base.Section(title, base.gallery(pictures), lead))
    return sections


def _caption(mistake: Mistake) -> str:
    score = "" if mistake.score is None else f" {mistake.score:.2f}"
    return f"{mistake.class_name}{score} · {mistake.image}"


def _crop(mistake: Mistake, sample: Sample) -> base.Image:
    """The box with as much around it as it is large, at least CROP_PIXELS wide."""
    image = decode(sample.image_bytes, sample.name)
    left, top, right, bottom = mistake.box
    reach = max(right - left, bottom - top, CROP_PIXELS / 2)
    x, y = (left + right) / 2, (top + bottom) / 2
    x1, y1 = max(0, round(x - reach)), max(0, round(y - reach))
    x2, y2 = min(image.shape[1], round(x + reach) + 1), min(image.shape[0], round(y + reach) + 1)
    piece, scale = base.fit(np.ascontiguousarray(image[y1:y2, x1:x2]), base.PICTURE_PIXELS)
    box = [[(left - x1) * scale, (top - y1) * scale, (right - x1) * scale, (bottom - y1) * scale]]
    return base.draw_boxes(piece, box, [1 if mistake.kind == "Miss" else 0], ("", ""))


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
