"""Metrics of the validation split after an epoch, by the postprocessing that serving uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from fovea_api.common import Task
from fovea_serving.pipeline import (
    IGNORE,
    Classification,
    Detection,
    Postprocess,
    Prediction,
    SemanticSegmentation,
    decode_mask,
)
from torch.utils.data import DataLoader

from fovea_trainer.models.network import Network
from fovea_trainer.training.context import Context
from fovea_trainer.training.examples import Examples, Sample, collate
from fovea_trainer.training.optimization import Precision

OPERATING_SCORE = 0.4
"""Score from which a detection counts for precision and recall: the default of deployments."""


def validate(
    network: Network, examples: Examples, batch_size: int, context: Context, precision: Precision
) -> dict[str, float]:
    """Metrics by name, `validation/<metric>`, the same on all workers; each predicts its share of the images."""
    mine = range(context.rank, len(examples), context.workers)
    loader = DataLoader(examples, batch_size, sampler=mine, collate_fn=collate, num_workers=context.loader_processes)
    postprocess = Postprocess(network.task)
    predictions: list[Prediction] = []
    losses: list[tuple[float, int]] = []
    training = network.training
    network.eval()
    with torch.no_grad(), precision.autocast():
        for images, targets, geometries in loader:
            images = images.to(context.device)
            outputs = network.predict(images)
            parts = network.losses(images, targets.to(context.device))
            losses.append((float(sum(float(part) for part in parts.values())), len(images)))
            arrays = [
                output.float().cpu().numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))
            ]
            predictions += postprocess(dict(zip(network.output_names, arrays, strict=True)), geometries)
    network.train(training)
    shares = _gather((list(mine), predictions, losses), context)
    everything = dict(pair for index, found, _ in shares for pair in zip(index, found, strict=True))
    metrics = score(network.task, network.num_classes, examples.samples, [everything[i] for i in sorted(everything)])
    weighted = [pair for _, _, pairs in shares for pair in pairs]
    metrics["loss"] = sum(loss * count for loss, count in weighted) / max(1, sum(count for _, count in weighted))
    return {f"validation/{name}": value for name, value in metrics.items()}


Share = tuple[list[int], list[Prediction], list[tuple[float, int]]]


def _gather(share: Share, context: Context) -> list[Share]:
    if context.workers == 1:
        return [share]
    shares: list[Share | None] = [None] * context.workers
    torch.distributed.all_gather_object(shares, share)
    return [share for share in shares if share is not None]


def score(task: Task, classes: int, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> dict[str, float]:
    """The metrics of a task's predictions in original pixels."""
    if task is Task.DETECTION:
        return _detection(samples, [item for item in predictions if isinstance(item, Detection)])
    confusion = np.zeros((classes, classes))
    for truth, found in _pairs(samples, predictions):
        valid = (truth != IGNORE) & (found != IGNORE)
        confusion += np.bincount(truth[valid] * classes + found[valid], minlength=classes**2).reshape(classes, classes)
    hit, wanted, given = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    occurs = wanted > 0
    f1 = 2 * hit / np.maximum(wanted + given, 1)
    mean = float(f1[occurs].mean()) if occurs.any() else 0.0
    if task is Task.CLASSIFICATION:
        return {"accuracy": float(hit.sum() / max(1.0, wanted.sum())), "f1": mean}
    iou = hit / np.maximum(wanted + given - hit, 1)
    return {"dice": mean, "iou": float(iou[occurs].mean()) if occurs.any() else 0.0}


def _pairs(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for index, prediction in enumerate(predictions):
        sample = samples[index]
        if isinstance(prediction, Classification):
            yield np.array([sample.label]), np.array([prediction.label])
        elif isinstance(prediction, SemanticSegmentation):
            truth = decode_mask(sample.mask_bytes or b"", sample.name)
            yield truth.ravel().astype(np.int64), prediction.mask.ravel().astype(np.int64)


def _detection(samples: Sequence[Sample], predictions: Sequence[Detection]) -> dict[str, float]:
    from torchmetrics.detection import MeanAveragePrecision
    from torchvision.ops import box_iou

    judge = MeanAveragePrecision(backend="faster_coco_eval")
    judge.warn_on_many_detections = False  # only the best 100 of an image count, as in COCO
    hits = found = wanted = 0
    for index, prediction in enumerate(predictions):
        sample = samples[index]
        boxes = torch.from_numpy(np.asarray(sample.boxes, np.float32).reshape(-1, 4))
        labels = torch.from_numpy(np.asarray(sample.labels, np.int64))
        answer = {
            "boxes": torch.from_numpy(prediction.boxes),
            "scores": torch.from_numpy(prediction.scores),
            "labels": torch.from_numpy(prediction.labels),
        }
        judge.update([answer], [{"boxes": boxes, "labels": labels}])
        sure = answer["scores"] >= OPERATING_SCORE
        overlap = box_iou(boxes, answer["boxes"][sure]) * (labels[:, None] == answer["labels"][sure][None])
        free = torch.ones(len(boxes), dtype=torch.bool)
        for column in overlap.T:  # best score first, each object once
            best = int((column * free).argmax()) if len(boxes) else 0
            if len(boxes) and free[best] and column[best] >= 0.5:
                free[best] = False
                hits += 1
        found, wanted = found + int(sure.sum()), wanted + len(boxes)
    result = judge.compute() if wanted else {}
    return {
        "mAP": max(0.0, float(result.get("map", 0.0))),
        "mAP50": max(0.0, float(result.get("map_50", 0.0))),
        "precision": hits / max(1, found),
        "recall": hits / max(1, wanted),
    }
