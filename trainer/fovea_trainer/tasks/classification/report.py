"""What a report of a classifier shows beside what all reports show."""

from __future__ import annotations

import numpy as np
from fovea_serving.pipeline import decode
from markupsafe import Markup

from fovea_trainer.data.version import Sample
from fovea_trainer.evaluation.result import Curve, EvaluationResult
from fovea_trainer.report import base


def labelled_image(sample: Sample) -> base.Image:
    """The image at the size of the report's pictures; its class stands in the caption."""
    return base.fit(decode(sample.image_bytes, sample.name), base.PICTURE_PIXELS)[0]


def calibration(evaluation: EvaluationResult) -> list[base.Section]:
    """How far the confidence can be trusted."""
    lead = "Whether the confidence can be trusted: on the line, 80 % confident is right 8 times in 10."
    return [
        base.Section("Calibration", _reliability(curve), lead)
        for curve in evaluation.curves
        if curve.kind == "reliability"
    ]


def _reliability(curve: Curve) -> Markup:
    figure, axes = base.new_figure(4.4, 3.4)
    axes.plot([0, 1], [0, 1], color=base.MUTED, linewidth=1, linestyle=(0, (4, 3)))
    weights = curve.weights if curve.weights is not None else np.ones(len(curve.x))
    axes.plot(curve.x, curve.y, color=base.color(0), linewidth=1.4)
    axes.scatter(curve.x, curve.y, s=14 + 160 * weights / max(1.0, weights.max()), color=base.color(0), alpha=0.75)
    axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="Confidence", ylabel="Share that is right")
    return base.embed_figure(figure)
