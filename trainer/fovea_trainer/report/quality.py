"""Sections of the training report on the quality of one split: what is weak, confusion, slices, images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fovea_serving.predictor import Predictor
from markupsafe import Markup

from fovea_trainer.data.version import Sample
from fovea_trainer.evaluation.result import Confusion, EvaluationResult, ImageScore
from fovea_trainer.report import base
from fovea_trainer.report.base import Section
from fovea_trainer.report.outcome import NAMES
from fovea_trainer.tasks import definition

PICTURES = 6
"""Best and worst images shown of a split."""


def sections(evaluation: EvaluationResult) -> list[Section]:
    """What is weak, the classes, the confusion, what the task adds, and the slices."""
    images = f"{evaluation.images:,} images of the {evaluation.split} split"
    task = definition(evaluation.task)
    words = evaluation.error_analysis or (
        "Nothing stands out: no class, size or confusion is much worse than the rest.",
    )
    shade = "Rows are the labels, columns the predictions; the shade is the share of the row."
    return [
        Section("Error analysis", base.bullets(words), f"What the model does worst on the {images}."),
        Section("Classes", _per_class(evaluation), f"Per class, on the {images}."),
        Section("Confusion", _confusion(evaluation), f"{shade} {task.confusion_note(evaluation)}".strip()),
        *task.sections(evaluation),
        *_slices(evaluation),
    ]


def _slices(evaluation: EvaluationResult) -> list[Section]:
    if len(evaluation.slices) < 2:
        return []
    rows = [(part.by, part.name, part.images, part.value) for part in evaluation.slices]
    name = NAMES.get(evaluation.primary, evaluation.primary)
    body = base.table(["Slice by", "Value", "Images", name], rows)
    return [Section("Slices", body, "The primary metric on parts of the split.")]


def _per_class(evaluation: EvaluationResult) -> Markup:
    task = definition(evaluation.task)
    totals = evaluation.confusion.counts.sum(1)
    rows = [
        (
            Markup('<i class="dot" style="color:{}">■</i> {}').format(base.color(index), name),
            int(totals[index]),
            *(base.rounded(evaluation.metric(metric, name)) for metric in task.class_metrics),
        )
        for index, name in enumerate(evaluation.classes)
    ]
    titles = (NAMES.get(metric, metric).split(",")[0] for metric in task.class_metrics)
    return base.table(["Class", task.unit.capitalize(), *titles], rows)


def _confusion(evaluation: EvaluationResult) -> Markup:
    confusion = _shortened(evaluation.confusion)
    shares = confusion.counts / np.maximum(confusion.counts.sum(1, keepdims=True), 1)
    size = 1.5 + 0.62 * len(confusion.columns)
    figure, axes = base.new_figure(size + 0.6, 1.0 + 0.5 * len(confusion.rows))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xticks(range(len(confusion.columns)), confusion.columns, rotation=30, ha="left")
    axes.set_yticks(range(len(confusion.rows)), confusion.rows)
    axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
    axes.set_xticks(np.arange(-0.5, len(confusion.columns)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(confusion.rows)), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    for row, column in np.ndindex(*confusion.counts.shape):
        text = _compact(int(confusion.counts[row, column]))
        shade = "white" if shares[row, column] > 0.55 else base.INK
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=shade)
    return base.embed_figure(figure)


def _shortened(confusion: Confusion) -> Confusion:
    """The rows and columns with the most errors, where there are too many for a figure."""
    if len(confusion.rows) <= base.CLASSES_IN_FIGURES:
        return confusion
    count = min(len(confusion.rows), len(confusion.columns))
    square = confusion.counts[:count, :count].copy()
    np.fill_diagonal(square, 0)
    chosen = np.sort(np.argsort(-(square.sum(0) + square.sum(1)), kind="stable")[: base.CLASSES_IN_FIGURES])
    names = tuple(confusion.rows[index] for index in chosen)
    return Confusion(names, names, confusion.counts[np.ix_(chosen, chosen)])


def _compact(value: int) -> str:
    for limit, suffix in ((10**6, "M"), (10**4, "k")):
        if value >= limit:
            return f"{value / (10**6 if suffix == 'M' else 10**3):.3g}{suffix}"
    return str(value)


# --- Images -------------------------------------------------------------------------------------------------


def images(evaluation: EvaluationResult, samples: Sequence[Sample], predictor: Predictor) -> list[Section]:
    """The worst and the best images, with labels and predictions."""
    ordered = evaluation.worst
    half = min(PICTURES, max(1, len(ordered) // 2)) if len(ordered) > 1 else 1
    worst, best = ordered[:half], tuple(reversed(ordered))[:half]
    legend = base.legend(evaluation.classes[: base.CLASSES_IN_FIGURES])
    lead = f"Of the {evaluation.split} split. {definition(evaluation.task).how_to_read(evaluation)}"
    worst_body = base.join(legend, _gallery(evaluation, worst, samples, predictor))
    shown = [Section("Worst images", worst_body, lead)]
    if len(ordered) > 1:
        shown.append(Section("Best images", _gallery(evaluation, best, samples, predictor), lead))
    return [*definition(evaluation.task).image_sections(evaluation, samples), *shown]


def _gallery(
    evaluation: EvaluationResult, chosen: Sequence[ImageScore], samples: Sequence[Sample], predictor: Predictor
) -> Markup:
    task = definition(evaluation.task)
    shown = [samples[image.index] for image in chosen]
    predictions = predictor.predict([sample.image_bytes for sample in shown])
    pictures = []
    for image, sample, prediction in zip(chosen, shown, predictions, strict=True):
        note = f"{image.name} · {image.score:.2f}" + (f" · {image.note}" if image.note else "")
        drawn, width = task.draw_prediction(sample, prediction, evaluation)
        pictures.append(base.picture(drawn, note, width=width))
    return base.gallery(pictures)
