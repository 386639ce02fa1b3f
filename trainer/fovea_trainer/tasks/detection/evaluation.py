"""Evaluation of a detector: average precision, the operating point, and what the errors are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from fovea_api.common import Task
from fovea_serving.pipeline import Detection, Prediction
from numpy.typing import NDArray

from fovea_trainer.evaluation.bootstrap import Draws, Weights, draws
from fovea_trainer.evaluation.error_analysis import commonest_error, confused_classes, weak_classes, weak_sizes
from fovea_trainer.evaluation.result import (
    Confusion,
    Curve,
    EvaluationResult,
    ImageScore,
    LabelledSample,
    Mistake,
    named,
    slices_of,
)
from fovea_trainer.tasks.base import EvaluationRequest, Pairs
from fovea_trainer.tasks.detection.average_precision import AveragePrecision, average_precision, mean_average_precision
from fovea_trainer.tasks.detection.errors import ERRORS, count_errors
from fovea_trainer.tasks.detection.intervals import at_50_draws
from fovea_trainer.tasks.detection.matching import GroundTruth, Matches, ground_truth_of, match, match_all

BACKGROUND = "background"
SHOWN_MISTAKES = 12
"""Wrong detections, and missed objects, that a result names."""
CURVE_POINTS = 200
"""Points of a curve at most, so that reports stay small."""


GroundTruths = Callable[[LabelledSample], GroundTruth]
"""How the objects of a sample are read: they say themselves how much a detection overlaps them."""


def evaluate_detection(
    pairs: Pairs, request: EvaluationRequest, task: Task = Task.DETECTION, read: GroundTruths = ground_truth_of
) -> EvaluationResult:
    """mAP, mAP50, mAP75, AP per class and size, precision-recall curves; and at the model's confidence threshold:
    precision, recall, F1, mean IoU of the matches, confusion with background, kinds of errors."""
    names, columns = [], []
    ground_truths: list[GroundTruth] = []
    detections: list[Detection] = []
    for sample, prediction in pairs:
        assert isinstance(prediction, Detection)
        names.append(sample.name)
        columns.append({"source": sample.source, "group": sample.group})
        ground_truths.append(read(sample))
        detections.append(prediction)
    classes = request.classes
    average = average_precision(ground_truths, detections, len(classes))
    matches = match_all(ground_truths, detections)
    threshold = request.threshold
    confident = [image.above(threshold) for image in detections]
    confident_matches = match_all(ground_truths, confident)
    errors = dict.fromkeys(ERRORS, 0)
    for objects, image, matched in zip(ground_truths, confident, confident_matches, strict=True):
        for kind, number in count_errors(objects, image, matched).items():
            errors[kind] += number
    sizes = {name: value for name, value in average.sizes.items() if value >= 0}
    summary = {
        **_precision_metrics(average),
        **({f"mAP{name.capitalize()}": sizes[name] for name in sizes} if "objectSize" in request.slices else {}),
        **_threshold_metrics(ground_truths, confident_matches),
        "scoreThreshold": threshold,
    }
    confusion = confusion_with_background(ground_truths, confident, classes)

    def primary(inside: Sequence[int]) -> float:
        objects = [ground_truths[index] for index in inside]
        at_threshold = _threshold_metrics(objects, [confident_matches[index] for index in inside])
        if request.primary in at_threshold:
            return at_threshold[request.primary]
        part = average_precision(objects, [detections[index] for index in inside], len(classes))
        return _precision_metrics(part)[request.primary]

    return EvaluationResult(
        task=task,
        split=request.split,
        classes=classes,
        images=len(names),
        primary=request.primary,
        metrics=named(request.split, classes, summary, {"AP": average.per_class, "AP50": average.per_class_50}),
        confusion=confusion,
        curves=(
            *precision_recall_curves(ground_truths, detections, matches, classes),
            *threshold_curves(ground_truths, [image.above(0.0) for image in detections]),
        ),
        image_scores=tuple(
            _image_score(index, name, ground_truths[index], confident_matches[index])
            for index, name in enumerate(names)
        ),
        slices=slices_of(columns, request.slices, primary),
        error_analysis=(
            *weak_classes(classes, "AP", average.per_class),
            *weak_sizes("mAP", sizes),
            *commonest_error(errors, ERRORS),
            *confused_classes(confusion, "objects", {BACKGROUND: "missed"}),
        ),
        errors=errors,
        threshold=threshold,
        draws={
            **at_50_draws(ground_truths, detections, matches, len(classes)),
            **_threshold_draws(ground_truths, confident_matches),
        },
        mistakes=worst_mistakes(names, ground_truths, confident, confident_matches, classes),
    )


def _threshold_draws(ground_truths: Sequence[GroundTruth], matches: Sequence[Matches]) -> dict[str, Draws]:
    counts = np.array([(image.n_true_positives, image.n_predictions) for image in matches], float).reshape(-1, 2)
    objects = np.array([len(image) for image in ground_truths], float)

    def metrics(weights: Weights) -> dict[str, float]:
        (correct, predicted), labelled = weights @ counts, float(weights @ objects)
        return {
            "precision": float(correct / predicted) if predicted else 0.0,
            "recall": float(correct / labelled) if labelled else 0.0,
            "f1": float(2 * correct / (predicted + labelled)) if predicted + labelled else 0.0,
        }

    return draws(len(matches), metrics)


def threshold_curves(ground_truths: Sequence[GroundTruth], reported: Sequence[Detection]) -> tuple[Curve, ...]:
    """Precision, recall and F1 of all classes together over the confidence threshold, from low to high."""
    scores, _, correct = _counted(reported, match_all(ground_truths, reported))
    n_ground_truth = sum(map(len, ground_truths))
    if not len(scores) or not n_ground_truth:
        return ()
    order, precision, recall = _sweep(scores, correct, n_ground_truth)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    x = scores[order][::-1].astype(np.float64)
    return tuple(
        Curve("threshold", name, *_thinned(x, values[::-1]))
        for name, values in (("precision", precision), ("recall", recall), ("f1", f1))
    )


def worst_mistakes(
    names: Sequence[str],
    ground_truths: Sequence[GroundTruth],
    confident: Sequence[Detection],
    matches: Sequence[Matches],
    classes: Sequence[str],
) -> tuple[Mistake, ...]:
    """The wrong detections of the highest scores, and the largest of the objects that were missed."""
    wrong, missed = list[Mistake](), list[Mistake]()
    for index, (name, objects, image, matched) in enumerate(zip(names, ground_truths, confident, matches, strict=True)):
        for place in np.flatnonzero((matched.object < 0) & matched.counts):
            label, score = classes[image.labels[place]], float(image.scores[place])
            wrong.append(Mistake("FalsePositive", index, name, label, _box(image.boxes[place]), score))
        found = set(matched.object[matched.object >= 0].tolist())
        for place in np.flatnonzero(~objects.difficult):
            if int(place) not in found:
                label = classes[objects.labels[place]]
                missed.append(Mistake("Miss", index, name, label, _box(objects.boxes[place])))
    wrong.sort(key=lambda each: (-(each.score or 0.0), each.image, each.box))
    missed.sort(key=lambda each: (-_area(each.box), each.image, each.box))
    return (*wrong[:SHOWN_MISTAKES], *missed[:SHOWN_MISTAKES])


def _box(box: NDArray[np.float32]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box.tolist()
    return left, top, right, bottom


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def operating_point(pairs: Pairs, read: GroundTruths = ground_truth_of) -> float:
    """The score of the best F1."""
    ground_truths: list[GroundTruth] = []
    detections: list[Detection] = []
    for sample, prediction in pairs:
        assert isinstance(prediction, Detection)
        ground_truths.append(read(sample))
        detections.append(prediction.above(0.0))
    return best_threshold(ground_truths, detections, match_all(ground_truths, detections))


def detection_summary(ground_truths: Sequence[GroundTruth], predictions: Sequence[Prediction]) -> dict[str, float]:
    """mAP, mAP50, and precision and recall at the best F1, as `evaluate_detection` gives them."""
    detections = [item for item in predictions if isinstance(item, Detection)]
    mean, at_50 = mean_average_precision(ground_truths, detections)
    reported = [image.above(0.0) for image in detections]
    threshold = best_threshold(ground_truths, reported, match_all(ground_truths, reported))
    confident = [image.above(threshold) for image in detections]
    figures = _threshold_metrics(ground_truths, match_all(ground_truths, confident))
    return {"mAP": mean, "mAP50": at_50, "precision": figures["precision"], "recall": figures["recall"]}


def _precision_metrics(average: AveragePrecision) -> dict[str, float]:
    return {"mAP": average.mean, "mAP50": average.at_50, "mAP75": average.at_75}


def _threshold_metrics(ground_truths: Sequence[GroundTruth], matches: Sequence[Matches]) -> dict[str, float]:
    """Precision, recall, F1 and mean overlap of the detections that were matched, at IoU 0.5."""
    n_true_positives = sum(image.n_true_positives for image in matches)
    n_predictions = sum(image.n_predictions for image in matches)
    n_ground_truth = sum(map(len, ground_truths))
    overlaps = np.concatenate([image.iou[image.object >= 0] for image in matches])
    total = n_predictions + n_ground_truth
    return {
        "precision": n_true_positives / n_predictions if n_predictions else 0.0,
        "recall": n_true_positives / n_ground_truth if n_ground_truth else 0.0,
        "f1": 2 * n_true_positives / total if total else 0.0,
        "meanMatchIoU": float(overlaps.mean()) if len(overlaps) else 0.0,
    }


def best_threshold(
    ground_truths: Sequence[GroundTruth], detections: Sequence[Detection], matches: Sequence[Matches]
) -> float:
    """The score of the best F1 over all classes; 0.5 where there are no objects or no detections."""
    scores, _, correct = _counted(detections, matches)
    n_ground_truth = sum(map(len, ground_truths))
    if not len(scores) or not n_ground_truth:
        return 0.5
    order, precision, recall = _sweep(scores, correct, n_ground_truth)
    best = int((2 * precision * recall / np.maximum(precision + recall, 1e-12)).argmax())
    return float(scores[order][best])


def precision_recall_curves(
    ground_truths: Sequence[GroundTruth],
    detections: Sequence[Detection],
    matches: Sequence[Matches],
    classes: tuple[str, ...],
) -> tuple[Curve, ...]:
    """Precision over recall at IoU 0.5 for each class that occurs."""
    scores, labels, correct = _counted(detections, matches)
    occurring = np.concatenate([image.labels[~image.difficult] for image in ground_truths])
    curves = []
    for index, name in enumerate(classes):
        n_ground_truth = int((occurring == index).sum())
        if n_ground_truth:
            of_class = labels == index
            _, precision, recall = _sweep(scores[of_class], correct[of_class], n_ground_truth)
            curves.append(Curve("precisionRecall", name, *_thinned(recall, precision)))
    return tuple(curves)


def _counted(
    detections: Sequence[Detection], matches: Sequence[Matches]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """Scores, labels and correctness of all detections that count."""
    counts = np.concatenate([image.counts for image in matches])
    scores = np.concatenate([image.scores for image in detections])[counts]
    labels = np.concatenate([image.labels for image in detections])[counts]
    return scores, labels, np.concatenate([image.object >= 0 for image in matches])[counts]


def _sweep(
    scores: NDArray[np.float32], correct: NDArray[np.bool_], n_ground_truth: int
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """The order by falling score, and precision and recall after each detection."""
    order = np.argsort(-scores, kind="stable")
    n_true_positives = np.cumsum(correct[order])
    return order, n_true_positives / np.arange(1, len(order) + 1), n_true_positives / n_ground_truth


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    count = min(len(x), CURVE_POINTS)
    chosen = np.unique(np.linspace(0, len(x) - 1, count).round().astype(int)) if len(x) else slice(0)
    return x[chosen], y[chosen]


def confusion_with_background(
    ground_truths: Sequence[GroundTruth], detections: Sequence[Detection], classes: tuple[str, ...]
) -> Confusion:
    """Objects by labelled and predicted class; what overlaps nothing is confused with the background."""
    names = (*classes, BACKGROUND)
    background = len(classes)
    counts = np.zeros((len(names), len(names)), np.int64)
    for objects, image in zip(ground_truths, detections, strict=True):
        matches = match(objects, image, same_class=False)
        missed = ~objects.difficult
        for label, index, counted in zip(image.labels, matches.object, matches.counts, strict=True):
            if index >= 0:
                missed[index] = False
                counts[objects.labels[index], label] += 1
            elif counted:
                counts[background, label] += 1
        np.add.at(counts[:, background], objects.labels[missed], 1)
    return Confusion(names, names, counts)


def _image_score(index: int, name: str, ground_truth: GroundTruth, matches: Matches) -> ImageScore:
    """F1 of the image; 1 where nothing is labelled and nothing detected."""
    n_ground_truth, n_predictions, correct = len(ground_truth), matches.n_predictions, matches.n_true_positives
    total = n_ground_truth + n_predictions
    note = f"{correct} of {n_ground_truth} detected, {n_predictions - correct} wrong"
    return ImageScore(index, name, 2 * correct / total if total else 1.0, note)
