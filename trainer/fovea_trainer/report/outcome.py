"""Sections of the training report on what was asked for and what came of it: problem, criteria, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fovea_api.bundle import BundleFormat, Lineage
from fovea_api.choice import Candidate
from fovea_api.criteria import CriterionResult
from fovea_api.latency import MeasuredOn
from fovea_api.metrics import SPLITS
from fovea_api.run import CompressionStage
from fovea_api.version import DatasetVersion
from markupsafe import Markup

from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.models.complexity import Complexity
from fovea_trainer.report import base
from fovea_trainer.report.base import Section

NAMES = {
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "ece": "Expected calibration error",
    "mAP": "mAP (IoU 0.50 to 0.95, at most 300 boxes an image)",
    "mAP50": "mAP at IoU 0.50",
    "mAP75": "mAP at IoU 0.75",
    "mAPSmall": "mAP of small objects (below 32² pixels)",
    "mAPMedium": "mAP of medium objects",
    "mAPLarge": "mAP of large objects (from 96² pixels)",
    "meanMatchIoU": "Mean IoU of the matches",
    "scoreThreshold": "Confidence threshold (best F1 on validation)",
    "dice": "Dice, mean over the classes",
    "iou": "IoU, mean over the classes",
    "pixelAccuracy": "Pixels right",
    "p50Milliseconds": "Latency, median (ms)",
    "p95Milliseconds": "Latency, 95th percentile (ms)",
    "megabytes": "Model file (MB)",
}
LATENCIES = ("latency/p50Milliseconds", "latency/p95Milliseconds")
COSTS = ("Latency, median (ms)", "Model file (MB)", "Multiply-accumulates (billions)", "Parameters (millions)")
"""Columns of the table of compression."""


def problem(version: DatasetVersion, lineage: Lineage) -> Section:
    """What the model is for, in the words of the Dataset."""
    stated, model = version.problem, lineage.recipe.get("model")
    words = (
        ("Task", str(version.task)),
        ("Why", stated.rationale),
        ("What counts as success", stated.outcome),
        ("Model", str(model.get("architecture", "")) if isinstance(model, Mapping) else ""),
        ("Dataset", f"{lineage.dataset.name}, {version.images:,} images"),
    )
    return Section("Problem", base.table(["", ""], [(name, text) for name, text in words if text]))


def criteria(results: Sequence[CriterionResult]) -> list[Section]:
    """The success criteria and how they were met."""
    if not results:
        return []
    rows = [
        (
            Markup("<code>{}</code>").format(criterion.metric),
            _bounds(criterion),
            "not measured" if criterion.measured is None else f"{criterion.measured:.4g}",
            base.badge("met", "good") if criterion.met else base.badge("missed", "bad"),
        )
        for criterion in results
    ]
    missed = [criterion for criterion in results if not criterion.met]
    lead = (
        "The model meets every criterion and may be served."
        if not missed
        else f"{base.count(len(missed), 'criterion is', 'criteria are')} missed: the model is not served by itself."
    )
    return [Section("Success criteria", base.table(["Metric", "Required", "Measured", ""], rows), lead)]


def _bounds(criterion: CriterionResult) -> str:
    bounds = [
        f"at least {criterion.min:g}" if criterion.min is not None else "",
        f"at most {criterion.max:g}" if criterion.max is not None else "",
    ]
    return ", ".join(filter(None, bounds))


def metrics(
    measured: Mapping[str, float],
    others: Mapping[str, Mapping[str, float]],
    evaluations: Sequence[EvaluationResult],
    complexity: Complexity | None,
    notes: Sequence[str],
    latency_measured_on: MeasuredOn | None = None,
) -> Section:
    """All metrics of the exported model with their intervals, beside those of other models.

    Args:
        measured: The metrics.
        others: Metrics of what it is compared with, by what that is: `before compression`, `of the parent run`.
        evaluations: Those that the metrics are of; the last one's intervals are shown.
        complexity: How large the network is.
        notes: Sentences below the tables.
        latency_measured_on: Where latency was measured.
    """
    splits = [evaluation.split for evaluation in evaluations]
    bounds = evaluations[-1].intervals if evaluations else {}
    shorts = dict.fromkeys(
        name.split("/", 1)[1] for name in measured if name.count("/") == 1 and _split(name) in SPLITS
    )
    stages = [("", measured), *((f" {name}", values) for name, values in others.items() if values)]
    rows = [
        (
            NAMES.get(short, short),
            *(base.rounded(values.get(f"{split}/{short}")) for split in splits for _, values in stages),
            *([_interval(bounds.get(short))] if bounds else []),
        )
        for short in shorts
    ]
    cost = [
        (NAMES.get(name.split("/")[1], name), *(base.rounded(values.get(name)) for _, values in stages))
        for name in measured
        if _split(name) in ("latency", "size")
    ]
    if complexity is not None:
        rest = [None] * (len(stages) - 1)
        cost += [
            ("Parameters (millions)", base.rounded(complexity.parameters / 1e6), *rest),
            ("Multiply-accumulates of an image (billions)", base.rounded(complexity.macs / 1e9), *rest),
        ]
    titles = [split.capitalize() + words for split in splits for words, _ in stages]
    titles += [f"95 % of {splits[-1]}"] if bounds else []
    parts = [base.table(["Metric", *titles], rows)] if rows else []
    if cost:
        parts.append(base.table(["Cost", *("Measured" + words for words, _ in stages)], cost))
    lead = "Measured on the exported model, through the code that serves it."
    if latency_measured_on is not None:
        lead += f" Latency is that of one image on {latency_measured_on}."
    if bounds:
        lead += " The interval is where 95 % of the values lie when the images are drawn anew (bootstrap)."
    body = base.columns(*parts) if len(parts) > 1 else base.join(*parts)
    return Section("Metrics", base.join(body, *(base.paragraph(note) for note in notes)), lead)


def formats(exported: Sequence[BundleFormat], headline: EvaluationResult | None) -> list[Section]:
    """The formats beside ONNX: how close they are to the trained network, and how good, fast and large."""
    if not exported:
        return []
    primary = f"{headline.split}/{headline.primary}" if headline is not None else None
    shown = [primary] if primary is not None else []
    shown += ["latency/p50Milliseconds", "size/megabytes"]
    rows = [
        (
            each.format,
            Markup("<code>{}</code>").format(each.file),
            "not compared" if each.difference is None else f"{max(each.difference.values()):.2g}",
            *(base.rounded(each.metrics.get(name)) for name in shown),
        )
        for each in exported
    ]
    titles = [
        *([f"{headline.split.capitalize()}: {NAMES.get(headline.primary, headline.primary)}"] if headline else []),
        *(NAMES[name.split("/")[1]] for name in shown[-2:]),
    ]
    lead = (
        "Each file was held against the trained network on real images, by the largest difference of an output, and "
        "measured like the model that is served; in 32-bit floating point."
    )
    return [Section("Formats", base.table(["Format", "File", "Difference", *titles], rows), lead)]


def choice(candidates: Sequence[Candidate], latency_measured_on: MeasuredOn | None) -> list[Section]:
    """The architectures that were compared before the training, and why the others were not chosen."""
    if not candidates:
        return []
    costs = ("complexity/gigaMacs", "complexity/megaParameters", "size/megabytes", *LATENCIES)
    metrics = dict.fromkeys(name for each in candidates for name in each.metrics if name not in costs)
    rows = [
        (
            Markup("<code>{}</code>").format(each.architecture),
            *(base.rounded(each.metrics.get(name)) for name in (*costs, *metrics)),
            base.badge("chosen", "good") if each.reason is None else each.reason,
        )
        for each in candidates
    ]
    columns = [
        "Candidate",
        "MACs (billions)",
        "Parameters (millions)",
        *(NAMES[name.split("/")[1]] for name in costs[2:]),
    ]
    cpus = 1 if latency_measured_on is None else latency_measured_on.cpus
    lead = (
        "Latency, size and complexity are those of the network before its training, exported as it is served, on "
        f"{base.count(cpus, 'CPU', 'CPUs')}. What is within the success criteria on them was trained for a short "
        "time, and the best was chosen."
    )
    return [Section("Choice of the architecture", base.table([*columns, *metrics, ""], rows), lead)]


def compression(stages: Sequence[CompressionStage]) -> list[Section]:
    """The exported model after each stage of compression: how good, how fast, how large."""
    if not stages:
        return []
    metric = next((stage.metric for stage in stages if stage.metric is not None), None)
    rows = [
        (
            stage.name,
            *([base.rounded(stage.value), _interval(stage.interval)] if metric is not None else []),
            base.rounded(stage.latency_milliseconds),
            base.rounded(stage.megabytes),
            base.rounded(stage.giga_macs),
            base.rounded(stage.mega_parameters),
        )
        for stage in stages
    ]
    columns = ["Stage", *([metric, "95 %"] if metric is not None else []), *COSTS]
    floating = [layer for stage in stages for layer in stage.floating_layers]
    parts = [base.table(columns, rows)]
    if floating:
        parts.append(base.paragraph("Layers in floating point, the most sensitive to 8-bit integers first:"))
        parts.append(base.bullets(floating))
    lead = "Each stage was exported and measured as it would be served; the last one is delivered."
    return [Section("Compression", base.join(*parts), lead)]


def _interval(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def _split(name: str) -> str:
    return name.split("/", 1)[0]
