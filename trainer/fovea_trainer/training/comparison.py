"""A retrained model against the one that is served, on the same images: champion and challenger."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fovea_api.errors import InvalidInput
from fovea_api.metrics import CHAMPION, COMPARED, DIFFERENCE, DIFFERENCE_ERROR
from fovea_api.run import BundleInput
from fovea_serving.predictor import Predictor

from fovea_trainer.bundles import fetch_input
from fovea_trainer.data.version import OpenVersion
from fovea_trainer.evaluation.bootstrap import difference_error
from fovea_trainer.evaluation.evaluate import evaluate
from fovea_trainer.evaluation.result import EvaluationResult

SPLIT = "test"
"""The split on which they are compared: it chose neither the weights nor the threshold of the new model."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of it.

    Args:
        metrics: `champion/<metric>` of the test split, and `champion/difference` with its standard error.
        champion: Metrics of the served model under their usual names, for the report.
        note: The outcome, or why there is none, as a sentence.
    """

    metrics: Mapping[str, float]
    champion: Mapping[str, float]
    note: str


def compare(
    champion: BundleInput, challenger: EvaluationResult | None, version: OpenVersion, folder: Path
) -> Comparison:
    """Evaluates the served model on the test split, as the retrained one was.

    Args:
        champion: The bundle that is served.
        challenger: The retrained model on the test split; None: there is no such split.
        version: The dataset version.
        folder: Where the bundle is copied to.
    """
    if challenger is None:
        return _none("there is no test split; give test a share in the Dataset's splits.ratios")
    try:
        bundle = fetch_input(champion, folder)
    except InvalidInput as error:
        return _none(f"its bundle cannot be read: {error}")
    classes = version.manifest.classes
    if (bundle.manifest.task, bundle.manifest.classes) != (challenger.task, classes):
        return _none("it predicts other classes")
    measured = evaluate(
        Predictor.from_bundle(bundle), version.split(SPLIT), classes, split=SPLIT, primary=challenger.primary
    )
    return compared(measured, challenger)


def compared(champion: EvaluationResult, challenger: EvaluationResult) -> Comparison:
    """Two evaluations of the same images, by the metric whose error the bootstrap gives."""
    name = COMPARED[challenger.task]
    one, other = champion.metric(name), challenger.metric(name)
    draws = champion.draws.get(name), challenger.draws.get(name)
    error = difference_error(draws[1], draws[0]) if draws[0] is not None and draws[1] is not None else None
    if one is None or other is None or error is None:
        return _none(f"the error of {name} is not known for these images")
    error *= math.sqrt(challenger.images / (challenger.images - 1))  # a resample varies less than a sample
    metrics = {f"{CHAMPION}/{name}": one, f"{CHAMPION}/images": float(challenger.images)}
    metrics |= {DIFFERENCE: other - one, DIFFERENCE_ERROR: error}
    words = f"{SPLIT}/{name} is {other:.4f}, and {one:.4f} with the served model on the same {challenger.images} images"
    return Comparison(metrics, champion.metrics, f"{words}: a difference of {other - one:+.4f} ± {error:.4f}.")


def _none(why: str) -> Comparison:
    log.warning("no comparison with the served model: %s", why)
    return Comparison({}, {}, f"The model was not compared with the served one: {why}.")
