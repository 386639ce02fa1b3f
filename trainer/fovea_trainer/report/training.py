"""The training report: from the problem to the exported model's quality, in one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fovea_api.bundle import BundleFormat, Lineage
from fovea_api.criteria import CriterionResult
from fovea_api.run import TrainingSummary
from fovea_api.version import DatasetVersion
from fovea_serving.predictor import Predictor

from fovea_trainer.data.version import Sample
from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.models.complexity import Complexity
from fovea_trainer.report import base, outcome, provenance, quality
from fovea_trainer.report.base import Fact
from fovea_trainer.report.problems import problem_sections
from fovea_trainer.tasks import definition


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
        parent: Metrics of the bundle that training started from; empty where there is none.
        champion: Metrics of the model that is served, on the same images; empty where it was not compared with one.
        formats: The formats that the model was exported in, where there is another than ONNX.
        complexity: How large the network is.
        augmented: A picture of the first training images, augmented.
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
    formats: Sequence[BundleFormat] = ()
    before: Mapping[str, float] = field(default_factory=dict)
    parent: Mapping[str, float] = field(default_factory=dict)
    champion: Mapping[str, float] = field(default_factory=dict)
    complexity: Complexity | None = None
    augmented: base.Image | None = None


def write_report(path: Path, report: TrainingReport) -> Path:
    """Writes the report as one self-contained HTML file."""
    path.write_text(render_training_report(report), encoding="utf-8")
    return path


def render_training_report(report: TrainingReport) -> str:
    """The report as HTML."""
    headline = report.evaluations[-1] if report.evaluations else None
    problem = report.version.problem
    sections = [
        *problem_sections(report.version, headline, report.lineage.recipe, report.history, report.notes),
        outcome.problem(report.version, report.lineage),
        *outcome.criteria(report.criteria),
        outcome.metrics(
            report.metrics,
            {
                "before compression": report.before,
                "of the parent run": report.parent,
                "of the served model": report.champion,
            },
            report.evaluations,
            report.complexity,
            report.notes,
            report.training.latency_measured_on,
        ),
        *outcome.choice(report.training.candidates, report.training.latency_measured_on),
        *outcome.formats(report.formats, headline),
        *outcome.compression(report.training.compression),
        *(quality.sections(headline) if headline else []),
        *(quality.images(headline, report.samples[headline.split], report.predictor) if headline else []),
        provenance.learning(report.history, report.training),
        provenance.data(report.version, definition(report.version.task), report.samples.get("train", ())),
        *provenance.augmented(report.augmented),
        provenance.recipe(report.lineage.recipe),
        provenance.lineage(report.lineage),
    ]
    facts = _facts(report, headline)
    return base.render(report.name, sections, kind="Training report", subtitle=problem.statement, facts=facts)


def _facts(report: TrainingReport, headline: EvaluationResult | None) -> list[Fact]:
    facts = []
    if headline:
        for metric in definition(headline.task).headline_metrics:
            measured = headline.metric(metric) or 0
            facts.append(Fact(f"{measured:.3f}", f"{headline.split} {metric}", "neutral" if measured else "bad"))
    if (milliseconds := report.metrics.get("latency/p95Milliseconds")) is not None:
        facts.append(Fact(f"{milliseconds:.0f} ms", "latency p95, one image"))
    if (megabytes := report.metrics.get("size/megabytes")) is not None:
        facts.append(Fact(f"{megabytes:.1f} MB", "model file"))
    if report.criteria:
        met = sum(criterion.met for criterion in report.criteria)
        value = f"{met} of {len(report.criteria)}"
        facts.append(Fact(value, "success criteria met", "good" if met == len(report.criteria) else "bad"))
    return facts
