"""Judging detection: average precision by faster-coco-eval, and what the errors are."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from fovea_api.common import Task
from fovea_serving.pipeline import Detection, Prediction
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from fovea_trainer.data.version import Sample
from fovea_trainer.evaluation.result import Confusion, Curve, EvaluationResult, ImageScore, LabelledSample, Slice, named
from fovea_trainer.evaluation.shortcomings import describe

MATCH = 0.5
"""Intersection over union from which a box counts as found."""
NEAR = 0.1
"""Overlap from which a wrong box is about an object, not about background (TIDE, Bolya et al. 2020)."""
MAX_DETECTIONS = (1, 10, 300)
"""Boxes of an image that count, best first. Dense scenes (blood smears) hold more than COCO's 100."""
BACKGROUND = "background"
ERRORS = ("localisation", "classification", "both", "duplicate", "background", "missed")


@dataclass(frozen=True, slots=True)
class Truth:
    """The objects of an image: boxes `[N, 4]`, labels `[N]`, and those that need not be found."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Matches:
    """Which object each detection of an image is: its index or -1, the overlap, and whether it counts."""

    object: NDArray[np.int64]
    iou: NDArray[np.float64]
    counts: NDArray[np.bool_]


def judge_detection(
    pairs: Iterator[tuple[Sample, Prediction]], classes: tuple[str, ...], split: str, slices: Sequence[str]
) -> EvaluationResult:
    """mAP, mAP50, mAP75, AP per class and size, precision-recall curves; and at the score of the best F1:
    precision, recall, F1, mean IoU of the matches, confusion with background, kinds of errors."""
    names, sources, groups = [], [], []
    truths: list[Truth] = []
    found: list[Detection] = []
    for sample, prediction in pairs:
        assert isinstance(prediction, Detection)
        names.append(sample.name)
        sources.append(sample.source)
        groups.append(sample.group)
        truths.append(_truth(sample))
        found.append(prediction)
    average = average_precision(truths, found, len(classes))
    matches = _matches(truths, found)
    curves, threshold = precision_recall(truths, found, matches, classes)
    precision, recall = at_score(threshold, truths, found, matches)
    sure = [detection.above(threshold) for detection in found]
    sure_matches = _matches(truths, sure)
    overlaps = np.concatenate([item.iou[item.object >= 0] for item in sure_matches])
    errors = dict.fromkeys(ERRORS, 0)
    for truth, detection, item in zip(truths, sure, sure_matches, strict=True):
        for kind, number in count_errors(truth, detection, item).items():
            errors[kind] += number
    sizes = {name: average.sizes[name] for name in average.sizes if average.sizes[name] >= 0}
    summary = {
        "mAP": average.mean,
        "mAP50": average.at_50,
        "mAP75": average.at_75,
        **({f"mAP{name.capitalize()}": value for name, value in sizes.items()} if "objectSize" in slices else {}),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "meanIoU": float(overlaps.mean()) if len(overlaps) else 0.0,
        "scoreThreshold": threshold,
    }
    confusion = _confusion(truths, sure, classes)
    parts = [
        Slice(by, name, len(inside), _part(truths, found, inside, len(classes)))
        for by, column in (("source", sources), ("group", groups))
        if by in slices
        for name in sorted(set(column))
        for inside in [[index for index, value in enumerate(column) if value == name]]
    ]
    return EvaluationResult(
        task=Task.DETECTION,
        split=split,
        classes=classes,
        images=len(names),
        primary="mAP",
        metrics=named(split, classes, summary, {"AP": average.per_class, "AP50": average.per_class_50}),
        confusion=confusion,
        curves=curves,
        image_scores=tuple(_score(index, name, truths[index], sure_matches[index]) for index, name in enumerate(names)),
        slices=tuple(parts),
        shortcomings=describe(
            classes,
            "AP",
            average.per_class,
            average.mean,
            confusion,
            unit="objects",
            sizes=sizes,
            errors=errors,
        ),
        errors=errors,
        threshold=threshold,
    )


def detection_summary(samples: Iterable[LabelledSample], predictions: Iterable[Prediction]) -> dict[str, float]:
    """mAP, mAP50, precision and recall as `judge_detection` gives them, without what takes longer."""
    truths = [_truth(sample) for sample in samples]
    found = [item for item in predictions if isinstance(item, Detection)]
    figures = _coco(truths, found, None, class_metrics=False) if _judgeable(truths, found) else {}
    matches = _matches(truths, found)
    _, threshold = precision_recall(truths, found, matches, ())
    precision, recall = at_score(threshold, truths, found, matches)
    return {
        "mAP": max(0.0, float(figures.get("map", 0.0))),
        "mAP50": max(0.0, float(figures.get("map_50", 0.0))),
        "precision": precision,
        "recall": recall,
    }


# --- Average precision --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """COCO's figures; NaN for a class, and -1 for a size, without objects."""

    mean: float
    at_50: float
    at_75: float
    sizes: Mapping[str, float]
    per_class: NDArray[np.float64]
    per_class_50: NDArray[np.float64]


def average_precision(truths: Sequence[Truth], found: Sequence[Detection], classes: int) -> AveragePrecision:
    """Average precision over IoU 0.50 to 0.95 by torchmetrics with faster-coco-eval. No objects: all is 0."""
    nothing = np.full(classes, np.nan)
    if not any(len(truth.labels) for truth in truths):
        return AveragePrecision(0.0, 0.0, 0.0, {}, nothing, nothing)
    labels = np.concatenate([truth.labels for truth in truths])
    occurs = np.bincount(labels, minlength=classes) > 0
    if not any(len(detection) for detection in found):  # the judge has no figures per class then
        zeros = np.where(occurs, 0.0, np.nan)
        return AveragePrecision(0.0, 0.0, 0.0, {}, zeros, zeros)
    overall = _coco(truths, found, None, class_metrics=True)
    per_class, per_class_50 = nothing.copy(), nothing.copy()
    for index, value in zip(overall["classes"].reshape(-1).tolist(), overall["map_per_class"].reshape(-1), strict=True):
        if occurs[index]:
            per_class[index] = max(0.0, float(value))
    for index in np.flatnonzero(occurs):
        per_class_50[index] = max(0.0, float(_coco(truths, found, int(index), class_metrics=False)["map_50"]))
    return AveragePrecision(
        mean=max(0.0, float(overall["map"])),
        at_50=max(0.0, float(overall["map_50"])),
        at_75=max(0.0, float(overall["map_75"])),
        sizes={name: float(overall[f"map_{name}"]) for name in ("small", "medium", "large")},
        per_class=per_class,
        per_class_50=per_class_50,
    )


def _judgeable(truths: Sequence[Truth], found: Sequence[Detection]) -> bool:
    """Whether there is anything to count: the judge has no figures otherwise."""
    return any(len(truth.labels) for truth in truths) and any(len(detection) for detection in found)


def _coco(
    truths: Sequence[Truth], found: Sequence[Detection], only: int | None, *, class_metrics: bool
) -> dict[str, Tensor]:
    judge = MeanAveragePrecision(
        backend="faster_coco_eval",
        class_metrics=class_metrics,
        max_detection_thresholds=list(MAX_DETECTIONS),
        iou_thresholds=None if only is None else [MATCH],
    )
    judge.warn_on_many_detections = False
    for truth, detection in zip(truths, found, strict=True):
        kept = np.ones(len(detection), bool) if only is None else detection.labels == only
        wanted = np.ones(len(truth.labels), bool) if only is None else truth.labels == only
        judge.update(
            [
                {
                    "boxes": torch.from_numpy(detection.boxes[kept]),
                    "scores": torch.from_numpy(detection.scores[kept]),
                    "labels": torch.from_numpy(detection.labels[kept]),
                }
            ],
            [
                {
                    "boxes": torch.from_numpy(truth.boxes[wanted]),
                    "labels": torch.from_numpy(truth.labels[wanted]),
                    "iscrowd": torch.from_numpy(truth.difficult[wanted].astype(np.int64)),
                }
            ],
        )
    with contextlib.redirect_stdout(io.StringIO()):
        result: dict[str, Tensor] = judge.compute()
    return result


def _part(truths: Sequence[Truth], found: Sequence[Detection], inside: Sequence[int], classes: int) -> float:
    return average_precision([truths[index] for index in inside], [found[index] for index in inside], classes).mean


# --- Matching -----------------------------------------------------------------------------------------------


def iou_matrix(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union `[N, M]` of boxes `[N, 4]` and `[M, 4]`, xyxy."""
    one, two = first[:, None].astype(np.float64), second[None].astype(np.float64)
    sides = np.maximum(np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2]), 0)
    common = sides.prod(-1)
    union = (one[..., 2:] - one[..., :2]).prod(-1) + (two[..., 2:] - two[..., :2]).prod(-1) - common
    overlap: NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return overlap


def match(truth: Truth, found: Detection, *, same_class: bool) -> Matches:
    """Gives each detection, best score first, the free object that it overlaps most, from IoU 0.5 on.

    A detection that overlaps nothing but a difficult object does not count, neither as right nor as wrong.
    """
    overlap = iou_matrix(found.boxes, truth.boxes)
    if same_class:
        overlap = np.where(found.labels[:, None] == truth.labels[None], overlap, 0.0)
    objects, ious, counts = np.full(len(found), -1), np.zeros(len(found)), np.ones(len(found), bool)
    free = ~truth.difficult
    for index in range(len(found)):
        candidates = np.where(free, overlap[index], 0.0)
        best = int(candidates.argmax()) if len(candidates) else -1
        if best >= 0 and candidates[best] >= MATCH:
            free[best] = False
            objects[index], ious[index] = best, candidates[best]
        elif (overlap[index][truth.difficult] >= MATCH).any():
            counts[index] = False
    return Matches(objects.astype(np.int64), ious, counts)


def _matches(truths: Sequence[Truth], found: Sequence[Detection]) -> list[Matches]:
    return [match(truth, detection, same_class=True) for truth, detection in zip(truths, found, strict=True)]


def at_score(
    score: float, truths: Sequence[Truth], found: Sequence[Detection], matches: Sequence[Matches]
) -> tuple[float, float]:
    """Precision and recall of the detections from this score on, at IoU 0.5."""
    sure = [detection.scores >= score for detection in found]
    hits = sum(int((item.object[kept] >= 0).sum()) for item, kept in zip(matches, sure, strict=True))
    given = sum(int(item.counts[kept].sum()) for item, kept in zip(matches, sure, strict=True))
    wanted = sum(int((~truth.difficult).sum()) for truth in truths)
    return hits / given if given else 0.0, hits / wanted if wanted else 0.0


def precision_recall(
    truths: Sequence[Truth], found: Sequence[Detection], matches: Sequence[Matches], classes: tuple[str, ...]
) -> tuple[tuple[Curve, ...], float]:
    """Precision over recall at IoU 0.5 for each class that occurs, and the score of the best overall F1."""
    counts = np.concatenate([item.counts for item in matches])
    scores = np.concatenate([detection.scores for detection in found])[counts]
    labels = np.concatenate([detection.labels for detection in found])[counts]
    right = np.concatenate([item.object >= 0 for item in matches])[counts]
    wanted = np.concatenate([truth.labels[~truth.difficult] for truth in truths])
    curves = []
    for index, name in enumerate(classes):
        total = int((wanted == index).sum())
        if total:
            mine = labels == index
            _, precision, recall = _sweep(scores[mine], right[mine], total)
            curves.append(Curve("precisionRecall", name, *_thinned(recall, precision)))
    if not len(scores) or not len(wanted):
        return tuple(curves), 0.5
    order, precision, recall = _sweep(scores, right, len(wanted))
    best = int((2 * precision * recall / np.maximum(precision + recall, 1e-12)).argmax())
    return tuple(curves), float(scores[order][best])


def _sweep(
    scores: NDArray[np.float32], right: NDArray[np.bool_], total: int
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    return order, hits / np.arange(1, len(order) + 1), hits / total


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most 200 points, so that reports stay small."""
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), 200)).round().astype(int)) if len(x) else slice(0)
    return x[chosen], y[chosen]


def count_errors(truth: Truth, found: Detection, matches: Matches) -> dict[str, int]:
    """Errors by kind, after TIDE (Bolya et al. 2020, A General Toolbox for Identifying Detection Errors)."""
    errors = dict.fromkeys(ERRORS, 0)
    overlap = iou_matrix(found.boxes, truth.boxes)
    same = found.labels[:, None] == truth.labels[None]
    explained = truth.difficult.copy()
    explained[matches.object[matches.object >= 0]] = True
    for index in np.flatnonzero((matches.object < 0) & matches.counts):
        of_class, of_others = (
            np.where(same[index], overlap[index], 0.0),
            np.where(same[index], 0.0, overlap[index]),
        )
        own, other = of_class.max(initial=0.0), of_others.max(initial=0.0)
        if own >= MATCH:
            kind = "duplicate"
        elif other >= MATCH:
            kind = "classification"
            explained[of_others.argmax()] = True
        elif own >= NEAR:
            kind = "localisation"
            explained[of_class.argmax()] = True
        elif other >= NEAR:
            kind = "both"
        else:
            kind = "background"
        errors[kind] += 1
    errors["missed"] = int((~explained).sum())
    return errors


def _confusion(truths: Sequence[Truth], found: Sequence[Detection], classes: tuple[str, ...]) -> Confusion:
    """Objects by true and predicted class; what overlaps nothing is confused with the background."""
    names = (*classes, BACKGROUND)
    nothing = len(classes)
    counts = np.zeros((len(names), len(names)), np.int64)
    for truth, detection in zip(truths, found, strict=True):
        matches = match(truth, detection, same_class=False)
        missed = ~truth.difficult
        for label, index, counted in zip(detection.labels, matches.object, matches.counts, strict=True):
            if index >= 0:
                missed[index] = False
                counts[truth.labels[index], label] += 1
            elif counted:
                counts[nothing, label] += 1
        np.add.at(counts[:, nothing], truth.labels[missed], 1)
    return Confusion(names, names, counts)


def _score(index: int, name: str, truth: Truth, matches: Matches) -> ImageScore:
    """F1 of the image; 1 where nothing is labelled and nothing found."""
    wanted = int((~truth.difficult).sum())
    hits, given = int((matches.object >= 0).sum()), int(matches.counts.sum())
    score = 2 * hits / (wanted + given) if wanted + given else 1.0
    return ImageScore(index, name, score, f"{hits} of {wanted} found, {given - hits} wrong")


def _truth(sample: LabelledSample) -> Truth:
    labels = np.asarray(sample.labels, np.int64)
    difficult = np.asarray(sample.difficult, bool)
    return Truth(
        np.asarray(sample.boxes, np.float32).reshape(-1, 4),
        labels,
        difficult if len(difficult) == len(labels) else np.zeros(len(labels), bool),
    )
