"""The training report: from the problem to the exported model's quality, in one HTML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
from fovea_api.bundle import Lineage
from fovea_api.common import Task, format_duration
from fovea_api.criteria import CriterionResult
from fovea_api.run import TrainingSummary
from fovea_api.version import DatasetVersion
from fovea_serving.pipeline import (
    Classification,
    Detection,
    Prediction,
    SemanticSegmentation,
    decode,
    decode_mask,
)
from fovea_serving.predictor import Predictor
from markupsafe import Markup
from pydantic import JsonValue

from fovea_trainer.data.version import Sample
from fovea_trainer.evaluation import Confusion, Curve, EvaluationResult, ImageScore
from fovea_trainer.report import base
from fovea_trainer.report.base import Fact, Section

PICTURES = 6
"""Best and worst images shown of a split."""
TRAIN_PICTURES = 4
PICTURE_PIXELS = 480
CLASSES_IN_FIGURES = 12
"""Classes that a figure shows; the tables show all."""
ERRORS = {
    "localisation": "Right class, box fits badly",
    "classification": "Wrong class, right place",
    "both": "Wrong class, box fits badly",
    "duplicate": "Second box for one object",
    "background": "Nothing labelled there",
    "missed": "Object not found",
}
NAMES = {
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "ece": "Expected calibration error",
    "mAP": "mAP (IoU 0.50 to 0.95)",
    "mAP50": "mAP at IoU 0.50",
    "mAP75": "mAP at IoU 0.75",
    "mAPSmall": "mAP of small objects (below 32² pixels)",
    "mAPMedium": "mAP of medium objects",
    "mAPLarge": "mAP of large objects (from 96² pixels)",
    "meanIoU": "Mean IoU of the matches",
    "scoreThreshold": "Score with the best F1",
    "dice": "Dice, mean over the classes",
    "iou": "IoU, mean over the classes",
    "pixelAccuracy": "Pixels right",
    "p50Milliseconds": "Latency, median (ms)",
    "p95Milliseconds": "Latency, 95th percentile (ms)",
    "megabytes": "Model file (MB)",
}


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What the report is made of.

    Args:
        name: Name of the TrainingJob.
        version: The dataset version.
        lineage: Recipe, base weights, library versions.
        training: Epochs and time.
        history: Metrics of each epoch by name, such as `train/loss`; the first is epoch 1.
        evaluations: Of the exported model, by split; the last one is the headline.
        metrics: All metrics of the exported model, latency and size included.
        before: The same of the model before compression; empty where what was trained is what is exported.
        criteria: The success criteria and how they were met.
        predictor: The exported model; predicts the images that are shown.
        samples: The evaluated splits' images, and those of `train`.
        notes: Sentences about what was decided on the way, such as a fallback from INT8.
    """

    name: str
    version: DatasetVersion
    lineage: Lineage
    training: TrainingSummary
    history: Sequence[Mapping[str, float]]
    evaluations: Sequence[EvaluationResult]
    metrics: Mapping[str, float]
    criteria: Sequence[CriterionResult]
    predictor: Predictor
    samples: Mapping[str, Sequence[Sample]]
    notes: Sequence[str] = field(default=())
    before: Mapping[str, float] = field(default_factory=dict)


def write_report(path: Path, report: TrainingReport) -> Path:
    """Writes the report as one self-contained HTML file."""
    path.write_text(render_training_report(report), encoding="utf-8")
    return path


def render_training_report(report: TrainingReport) -> str:
    """The report as HTML."""
    headline = report.evaluations[-1] if report.evaluations else None
    sections = [
        _problem(report),
        *_criteria(report),
        _metrics(report),
        *(_quality(headline) if headline else []),
        *(_images(report, headline) if headline else []),
        _learning(report),
        _data(report),
        _recipe(report),
        _lineage(report),
    ]
    return base.render(
        report.name,
        sections,
        kind="Training report",
        subtitle=report.version.problem.statement,
        facts=_facts(report, headline),
    )


def _facts(report: TrainingReport, headline: EvaluationResult | None) -> list[Fact]:
    facts = []
    if headline:
        for metric in _headline_metrics(headline):
            facts.append(Fact(f"{headline.metric(metric) or 0:.3f}", f"{headline.split} {metric}"))
    if (milliseconds := report.metrics.get("latency/p95Milliseconds")) is not None:
        facts.append(Fact(f"{milliseconds:.0f} ms", "latency p95, one image"))
    if (megabytes := report.metrics.get("size/megabytes")) is not None:
        facts.append(Fact(f"{megabytes:.1f} MB", "model file"))
    if report.criteria:
        met = sum(criterion.met for criterion in report.criteria)
        value = f"{met} of {len(report.criteria)}"
        facts.append(Fact(value, "success criteria met", "good" if met == len(report.criteria) else "bad"))
    return facts


def _headline_metrics(evaluation: EvaluationResult) -> tuple[str, ...]:
    return {
        Task.CLASSIFICATION: ("accuracy", "f1"),
        Task.DETECTION: ("mAP50", "mAP"),
        Task.SEMANTIC_SEGMENTATION: ("dice", "iou"),
    }[evaluation.task]


# --- Problem, criteria, metrics -----------------------------------------------------------------------------


def _problem(report: TrainingReport) -> Section:
    problem = report.version.problem
    words = (
        ("Task", str(report.version.task)),
        ("Why", problem.rationale),
        ("What counts as success", problem.outcome),
        ("Model", str(_at(report.lineage.recipe, "model", "architecture"))),
        ("Dataset", f"{report.lineage.dataset.name}, {report.version.images:,} images"),
    )
    return Section("Problem", base.table(["", ""], [(name, text) for name, text in words if text]))


def _criteria(report: TrainingReport) -> list[Section]:
    if not report.criteria:
        return []
    rows = [
        (
            Markup("<code>{}</code>").format(criterion.metric),
            _wanted(criterion),
            "not measured" if criterion.measured is None else f"{criterion.measured:.4g}",
            base.badge("met", "good") if criterion.met else base.badge("missed", "bad"),
        )
        for criterion in report.criteria
    ]
    missed = [criterion for criterion in report.criteria if not criterion.met]
    lead = (
        "The model meets every criterion and may be served."
        if not missed
        else f"{_count(len(missed), 'criterion is', 'criteria are')} missed: the model is not served by itself."
    )
    return [Section("Success criteria", base.table(["Metric", "Wanted", "Measured", ""], rows), lead)]


def _wanted(criterion: CriterionResult) -> str:
    bounds = [
        f"at least {criterion.min:g}" if criterion.min is not None else "",
        f"at most {criterion.max:g}" if criterion.max is not None else "",
    ]
    return ", ".join(filter(None, bounds))


def _metrics(report: TrainingReport) -> Section:
    shorts = dict.fromkeys(
        name.split("/", 1)[1] for name in report.metrics if name.count("/") == 1 and _split(name) in report.samples
    )
    splits = [evaluation.split for evaluation in report.evaluations]
    stages = [("", report.metrics), *([(" before compression", report.before)] if report.before else [])]
    rows = [
        (
            NAMES.get(short, short),
            *(_number(measured.get(f"{split}/{short}")) for split in splits for _, measured in stages),
        )
        for short in shorts
    ]
    cost = [
        (NAMES.get(name.split("/")[1], name), *(_number(measured.get(name)) for _, measured in stages))
        for name in report.metrics
        if _split(name) in ("latency", "size")
    ]
    titles = [split.capitalize() + words for split in splits for words, _ in stages]
    parts = [base.table(["Metric", *titles], rows)] if rows else []
    if cost:
        parts.append(base.table(["Cost", *("Measured" + words for words, _ in stages)], cost))
    lead = "Measured on the exported model, through the code that serves it."
    body = base.columns(*parts) if len(parts) > 1 else base.join(*parts)
    return Section("Metrics", base.join(body, *(base.paragraph(note) for note in report.notes)), lead)


def _number(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


# --- Quality of the headline split --------------------------------------------------------------------------


def _quality(evaluation: EvaluationResult) -> list[Section]:
    images = f"{evaluation.images:,} images of the {evaluation.split} split"
    words = evaluation.shortcomings or ("Nothing stands out: no class, size or confusion is much worse than the rest.",)
    sections = [Section("Shortcomings", base.bullets(words), f"What the model does worst on the {images}.")]
    sections.append(Section("Classes", _per_class(evaluation), f"Per class, on the {images}."))
    sections.append(Section("Confusion", _confusion(evaluation), _confusion_lead(evaluation)))
    curves = _curves(evaluation)
    if curves is not None:
        sections.append(curves)
    if evaluation.errors:
        sections.append(Section("Errors", _errors(evaluation), "What is wrong with the wrong ones, after TIDE."))
    if len(evaluation.slices) > 1:
        rows = [(part.by, part.name, part.images, part.value) for part in evaluation.slices]
        body = base.table(["Slice by", "Value", "Images", evaluation.primary], rows)
        sections.append(Section("Slices", body, "The primary metric on parts of the split."))
    return sections


def _per_class(evaluation: EvaluationResult) -> Markup:
    metrics = {
        Task.CLASSIFICATION: ("precision", "recall", "f1"),
        Task.DETECTION: ("AP", "AP50"),
        Task.SEMANTIC_SEGMENTATION: ("dice", "iou"),
    }[evaluation.task]
    totals = evaluation.confusion.counts.sum(1)
    rows = [
        (
            Markup('<i class="dot" style="color:{}">■</i> {}').format(base.color(index), name),
            int(totals[index]),
            *(_number(evaluation.metric(metric, name)) for metric in metrics),
        )
        for index, name in enumerate(evaluation.classes)
    ]
    unit = {Task.CLASSIFICATION: "Images", Task.DETECTION: "Objects"}.get(evaluation.task, "Pixels")
    return base.table(["Class", unit, *(NAMES.get(metric, metric).split(",")[0] for metric in metrics)], rows)


def _confusion_lead(evaluation: EvaluationResult) -> str:
    lead = "Rows are the truth, columns what was predicted; the shade is the share of the row."
    if evaluation.task is Task.DETECTION and evaluation.threshold is not None:
        lead += f" Counted from a score of {evaluation.threshold:.2f} on, where F1 is best."
    return lead


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
    if len(confusion.rows) <= CLASSES_IN_FIGURES:
        return confusion
    count = min(len(confusion.rows), len(confusion.columns))
    square = confusion.counts[:count, :count].copy()
    np.fill_diagonal(square, 0)
    chosen = np.sort(np.argsort(-(square.sum(0) + square.sum(1)), kind="stable")[:CLASSES_IN_FIGURES])
    names = tuple(confusion.rows[index] for index in chosen)
    return Confusion(names, names, confusion.counts[np.ix_(chosen, chosen)])


def _compact(value: int) -> str:
    for limit, suffix in ((10**6, "M"), (10**4, "k")):
        if value >= limit:
            return f"{value / (10**6 if suffix == 'M' else 10**3):.3g}{suffix}"
    return str(value)


def _curves(evaluation: EvaluationResult) -> Section | None:
    kinds = {curve.kind for curve in evaluation.curves}
    if "precisionRecall" in kinds:
        figure, axes = base.new_figure(5.6, 3.4)
        for index, curve in enumerate(evaluation.curves[:CLASSES_IN_FIGURES]):
            color = base.color(evaluation.classes.index(curve.name))
            axes.plot(curve.x, curve.y, color=color, label=curve.name, linewidth=1.8, zorder=3 + index)
        axes.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="Recall", ylabel="Precision")
        axes.legend(frameon=False, fontsize=8, loc="lower left")
        lead = "How many detections are right, over how many objects are found, at IoU 0.5."
        return Section("Precision and recall", base.embed_figure(figure), lead)
    if "reliability" in kinds:
        curve = next(curve for curve in evaluation.curves if curve.kind == "reliability")
        return Section(
            "Calibration",
            _reliability(curve),
            "Whether the confidence can be believed: on the line, 80 % sure is right 8 times in 10.",
        )
    return None


def _reliability(curve: Curve) -> Markup:
    figure, axes = base.new_figure(4.4, 3.4)
    axes.plot([0, 1], [0, 1], color=base.MUTED, linewidth=1, linestyle=(0, (4, 3)))
    weights = curve.weights if curve.weights is not None else np.ones(len(curve.x))
    axes.plot(curve.x, curve.y, color=base.color(0), linewidth=1.4)
    axes.scatter(curve.x, curve.y, s=14 + 160 * weights / max(1.0, weights.max()), color=base.color(0), alpha=0.75)
    axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="Confidence", ylabel="Share that is right")
    return base.embed_figure(figure)


def _errors(evaluation: EvaluationResult) -> Markup:
    figure, axes = base.new_figure(6.0, 2.4)
    names = [ERRORS[kind] for kind in evaluation.errors]
    values = list(evaluation.errors.values())
    bars = axes.barh(names, values, color=base.color(1), height=0.62)
    axes.bar_label(bars, fmt="{:,.0f}", padding=4, fontsize=8, color=base.MUTED)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    return base.embed_figure(figure)


# --- Images -------------------------------------------------------------------------------------------------


def _images(report: TrainingReport, evaluation: EvaluationResult) -> list[Section]:
    ordered = evaluation.worst
    half = min(PICTURES, max(1, len(ordered) // 2)) if len(ordered) > 1 else 1
    worst, best = ordered[:half], tuple(reversed(ordered))[:half]
    legend = base.legend(evaluation.classes[:CLASSES_IN_FIGURES])
    if evaluation.task is Task.CLASSIFICATION:
        how = "The score is the probability given to the right class."
    else:
        how = "Truth on the left, prediction on the right."
        if evaluation.task is Task.SEMANTIC_SEGMENTATION:
            how = f"{how[:-1]}; {evaluation.classes[0]} is left clear."
    worst_body = base.join(legend, _gallery(report, evaluation, worst))
    sections = [Section("Worst images", worst_body, f"Of the {evaluation.split} split. {how}")]
    if len(ordered) > 1:
        best_body = _gallery(report, evaluation, best)
        sections.append(Section("Best images", best_body, f"Of the {evaluation.split} split. {how}"))
    return sections


def _gallery(report: TrainingReport, evaluation: EvaluationResult, chosen: Sequence[ImageScore]) -> Markup:
    samples = [report.samples[evaluation.split][image.index] for image in chosen]
    predictions = report.predictor.predict([sample.image_bytes for sample in samples])
    pictures = []
    for image, sample, prediction in zip(chosen, samples, predictions, strict=True):
        note = f"{image.name} · {image.score:.2f}" + (f" · {image.note}" if image.note else "")
        drawn = side_by_side(sample, prediction, evaluation.classes, evaluation.threshold or 0.5)
        wide = None if isinstance(prediction, Classification) else 500
        pictures.append(base.picture(drawn, note, width=wide or 160))
    return base.gallery(pictures)


def side_by_side(sample: Sample, prediction: Prediction, classes: Sequence[str], threshold: float) -> base.Image:
    """The image with its truth drawn beside the image with its prediction drawn; classification: the image."""
    image, scale = base.fit(decode(sample.image_bytes, sample.name), PICTURE_PIXELS)
    if isinstance(prediction, Classification):
        return image
    if isinstance(prediction, Detection):
        sure = prediction.above(threshold)
        left = base.draw_boxes(image, sample.boxes * scale, sample.labels, classes)
        right = base.draw_boxes(image, sure.boxes * scale, sure.labels, classes, sure.scores)
    else:
        assert isinstance(prediction, SemanticSegmentation)
        truth = decode_mask(sample.mask_bytes or b"", sample.name)
        left = base.draw_mask(image, _fit_mask(truth, image), first=1)
        right = base.draw_mask(image, _fit_mask(prediction.mask, image), first=1)
    gap = np.full((image.shape[0], 6, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def _fit_mask(mask: base.Image, image: base.Image) -> base.Image:
    rows = np.arange(image.shape[0]) * mask.shape[0] // image.shape[0]
    columns = np.arange(image.shape[1]) * mask.shape[1] // image.shape[1]
    return mask[np.ix_(rows, columns)]


# --- Learning, data, recipe, lineage ------------------------------------------------------------------------


def _learning(report: TrainingReport) -> Section:
    losses = [name for name in ("train/loss", "validation/loss") if _series(report.history, name)]
    qualities = [
        name
        for name in sorted({name for epoch in report.history for name in epoch if name.startswith("validation/")})
        if name.count("/") == 1 and name != "validation/loss"
    ]
    charts = [
        _chart(report, names, label) for names, label in ((losses, "Loss"), (qualities, "Validation metric")) if names
    ]
    training = report.training
    took = format_duration(timedelta(seconds=training.seconds))
    kept = f"epoch {training.best_epoch}" if training.best is not None else "the last epoch"
    lead = f"{_count(training.epochs, 'epoch', 'epochs')} in {took}; the weights of {kept} are kept."
    return Section("Learning", base.columns(*charts) if charts else Markup(""), lead)


def _chart(report: TrainingReport, names: Sequence[str], label: str) -> Markup:
    from matplotlib.ticker import MaxNLocator

    figure, axes = base.new_figure(5.0, 2.9)
    longest = 1
    for index, name in enumerate(names):
        points = _series(report.history, name)
        longest = max(longest, *(epoch for epoch, _ in points))
        axes.plot(*zip(*points, strict=True), color=base.color(index), label=name, linewidth=1.8, marker="o", ms=3)
    axes.axvline(report.training.best_epoch, color=base.MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set(xlabel="Epoch", ylabel=label, xlim=(0.8, longest + 0.2))
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)
    return base.embed_figure(figure)


def _series(history: Sequence[Mapping[str, float]], name: str) -> list[tuple[int, float]]:
    return [(epoch, metrics[name]) for epoch, metrics in enumerate(history, 1) if name in metrics]


def _data(report: TrainingReport) -> Section:
    version = report.version
    splits = base.table(["Split", "Images"], [(name, count) for name, count in version.splits.items()])
    classes = base.table(
        ["Class", "Images", "Annotations"],
        [(summary.name, summary.images, summary.annotations) for summary in version.class_summaries],
    )
    samples = report.samples.get("train", ())
    step = max(1, len(samples) // TRAIN_PICTURES)
    chosen = [samples[index] for index in range(0, len(samples), step)][:TRAIN_PICTURES]
    pictures = [base.picture(_labelled(sample, version.classes), sample.name) for sample in chosen]
    body = base.join(base.columns(splits, classes), base.gallery(pictures))
    return Section("Data", body, "Pictures of the train split with their labels.")


def _labelled(sample: Sample, classes: Sequence[str]) -> base.Image:
    image, scale = base.fit(decode(sample.image_bytes, sample.name), PICTURE_PIXELS)
    if sample.mask_bytes is not None:
        return base.draw_mask(image, _fit_mask(decode_mask(sample.mask_bytes, sample.name), image), first=1)
    return base.draw_boxes(image, sample.boxes * scale, sample.labels, classes)


def _recipe(report: TrainingReport) -> Section:
    rows = [
        (Markup("<code>{}</code>").format(path), Markup("<code>{}</code>").format(_words(value)))
        for path, value in flatten(report.lineage.recipe)
        if value not in ([], "")
    ]
    return Section("Recipe", base.table(["Field", "Value"], rows), "Defaults spelled out.")


def flatten(value: JsonValue | Mapping[str, JsonValue], path: str = "") -> Iterable[tuple[str, JsonValue]]:
    """Leaves with their paths, as `training.optimizer.name`."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from flatten(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from flatten(item, f"{path}[{index}]")
    else:
        yield path, value


def _words(value: JsonValue) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _lineage(report: TrainingReport) -> Section:
    lineage = report.lineage
    rows: list[tuple[str, str | Markup]] = [
        ("Run", lineage.run),
        ("Identity", Markup("<code>{}</code>").format(lineage.identity)),
        ("Dataset", lineage.dataset.name),
        ("Dataset version", Markup("<code>{}</code>").format(lineage.dataset.version)),
        ("Base weights", lineage.base_weights),
        ("Base weights from", lineage.base_uri or ""),
        ("Precision of training", lineage.precision or ""),
        ("Parent run", lineage.parent_run or ""),
        ("Teacher", lineage.teacher or ""),
        ("Image", lineage.image),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in lineage.versions.items())),
    ]
    lead = "Everything that the model came from."
    return Section("Lineage", base.table(["", ""], [(name, text) for name, text in rows if text]), lead)


def _at(value: JsonValue | Mapping[str, JsonValue], *path: str) -> JsonValue:
    for name in path:
        value = value[name] if isinstance(value, Mapping) else None
    assert not isinstance(value, Mapping) or isinstance(value, dict)
    return value


def _split(name: str) -> str:
    return name.split("/", 1)[0]


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
