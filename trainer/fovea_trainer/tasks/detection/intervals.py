"""How far a detector's mAP50 would move on other images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fovea_serving.pipeline import Detection
from numpy.typing import NDArray

from fovea_trainer.evaluation.bootstrap import Draws, Weights, draws
from fovea_trainer.tasks.detection.matching import GroundTruth, Matches

RESAMPLES = 200
"""Of mAP50; a resample goes through all detections."""
MOST_DETECTIONS = 300_000
"""Detections up to which it is calculated: some ten seconds."""
RECALLS = np.linspace(0, 1, 101)
"""Where COCO reads the precision-recall curve."""


def at_50_draws(
    ground_truths: Sequence[GroundTruth], detections: Sequence[Detection], matches: Sequence[Matches], classes: int
) -> dict[str, Draws]:
    """mAP50 in each resample; empty where there are too many detections."""
    if sum(map(len, detections)) > MOST_DETECTIONS:
        return {}
    tables = [_Table(ground_truths, detections, matches, label) for label in range(classes)]
    tables = [table for table in tables if table.objects.any()]
    if not tables:
        return {}
    return draws(len(detections), lambda weights: {"mAP50": mean_at_50(tables, weights)}, RESAMPLES)


class _Table:
    """The detections of a class, best first: image, and whether right; and its objects in each image."""

    def __init__(
        self, ground_truths: Sequence[GroundTruth], detections: Sequence[Detection], matches: Sequence[Matches],
        label: int,
    ) -> None:  # fmt: skip
        chosen = [
            np.flatnonzero((image.labels == label) & matched.counts)
            for image, matched in zip(detections, matches, strict=True)
        ]
        images = np.repeat(np.arange(len(detections)), [len(each) for each in chosen])
        scores = _joined([image.scores[each] for image, each in zip(detections, chosen, strict=True)])
        correct = _joined([matched.object[each] >= 0 for matched, each in zip(matches, chosen, strict=True)])
        order = np.argsort(-scores, kind="stable")
        self.images, self.correct = images[order], correct[order].astype(bool)
        self.objects = np.array([int(((image.labels == label) & ~image.difficult).sum()) for image in ground_truths])


def _joined(parts: Sequence[NDArray[np.generic]]) -> NDArray[np.float64]:
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)


def mean_at_50(tables: Sequence[_Table], weights: Weights) -> float:
    """mAP50, where each image counts so often; classes of which nothing was drawn are left out."""
    values = [value for table in tables if (value := _average_precision(table, weights)) is not None]
    return float(np.mean(values)) if values else 0.0


def _average_precision(table: _Table, weights: Weights) -> float | None:
    """COCO's: the mean, over 101 recalls, of the best precision at that recall or a higher one."""
    objects = int(weights @ table.objects)
    if not objects:
        return None
    drawn = weights[table.images]
    right = np.cumsum(drawn * table.correct)
    precision = right / np.maximum(np.cumsum(drawn), 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / objects, RECALLS, side="left")
    return float(
        np.where(places < len(envelope), np.append(envelope, 0.0)[np.minimum(places, len(envelope))], 0).mean()
    )
