"""Kinds of wrong detections, after TIDE (Bolya et al. 2020, "A General Toolbox for Identifying Detection Errors")."""

from __future__ import annotations

import numpy as np
from fovea_serving.pipeline import Detection

from fovea_trainer.tasks.detection.matching import MATCH_IOU, GroundTruth, Matches

BACKGROUND_IOU = 0.1
"""Overlap from which a wrong box is about an object, not about background."""
ERRORS = {
    "localisation": "a box that fits badly",
    "classification": "the wrong class in the right place",
    "both": "the wrong class in a box that fits badly",
    "duplicate": "a second box for the same object",
    "background": "a box where nothing is labelled",
    "missed": "an object that is not detected",
}
"""The kinds of errors, in words."""


def count_errors(ground_truth: GroundTruth, detections: Detection, matches: Matches) -> dict[str, int]:
    """Errors of an image by kind."""
    errors = dict.fromkeys(ERRORS, 0)
    overlap = ground_truth.overlap(detections)
    same = detections.labels[:, None] == ground_truth.labels[None]
    explained = ground_truth.difficult.copy()
    explained[matches.object[matches.object >= 0]] = True
    for index in np.flatnonzero((matches.object < 0) & matches.counts):
        of_class = np.where(same[index], overlap[index], 0.0)
        of_others = np.where(same[index], 0.0, overlap[index])
        own, other = of_class.max(initial=0.0), of_others.max(initial=0.0)
        if own >= MATCH_IOU:
            kind = "duplicate"
        elif other >= MATCH_IOU:
            kind = "classification"
            explained[of_others.argmax()] = True
        elif own >= BACKGROUND_IOU:
            kind = "localisation"
            explained[of_class.argmax()] = True
        elif other >= BACKGROUND_IOU:
            kind = "both"
        else:
            kind = "background"
        errors[kind] += 1
    errors["missed"] = int((~explained).sum())
    return errors
