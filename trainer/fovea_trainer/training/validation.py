"""Metrics of the validation split after an epoch, by the postprocessing that serving uses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from fovea_api.common import Task
from fovea_serving.pipeline import Postprocess, Prediction
from torch.utils.data import DataLoader

from fovea_trainer.evaluation.classification import classification_summary
from fovea_trainer.evaluation.detection import detection_summary
from fovea_trainer.evaluation.segmentation import segmentation_summary
from fovea_trainer.models.network import Network
from fovea_trainer.training.context import Context
from fovea_trainer.training.dataset import Sample, SplitDataset, collate
from fovea_trainer.training.distributed import gather
from fovea_trainer.training.optimization import Precision


def validate(
    network: Network, dataset: SplitDataset, batch_size: int, context: Context, precision: Precision
) -> dict[str, float]:
    """Metrics by name, `validation/<metric>`, the same on all workers; each predicts its share of the images."""
    mine = range(context.rank, len(dataset), context.workers)
    loader = DataLoader(dataset, batch_size, sampler=mine, collate_fn=collate, num_workers=context.loader_processes)
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
    shares = gather((list(mine), predictions, losses), context)
    everything = dict(pair for index, predicted, _ in shares for pair in zip(index, predicted, strict=True))
    metrics = score(network.task, network.num_classes, dataset.samples, [everything[i] for i in sorted(everything)])
    weighted = [pair for _, _, pairs in shares for pair in pairs]
    metrics["loss"] = sum(loss * count for loss, count in weighted) / max(1, sum(count for _, count in weighted))
    return {f"validation/{name}": value for name, value in metrics.items()}


def score(task: Task, classes: int, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> dict[str, float]:
    """The metrics of a task's predictions in original pixels, by the functions that judge the exported model."""
    if task is Task.DETECTION:
        return detection_summary(samples, predictions)
    summary = classification_summary if task is Task.CLASSIFICATION else segmentation_summary
    return summary(samples, predictions, classes)
