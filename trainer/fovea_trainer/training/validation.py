"""Metrics of the validation split after an epoch, by the postprocessing that serving uses."""

from __future__ import annotations

import torch
from fovea_serving.pipeline import Prediction

from fovea_trainer.models.network import AnyNetwork
from fovea_trainer.training.context import Context
from fovea_trainer.training.dataset import SplitDataset
from fovea_trainer.training.distributed import gather
from fovea_trainer.training.loading import loader
from fovea_trainer.training.precision import Precision


def validate(
    network: AnyNetwork, dataset: SplitDataset, batch_size: int, context: Context, precision: Precision
) -> dict[str, float]:
    """Metrics by name, `validation/<metric>`, the same on all workers; each predicts its share of the images."""
    mine = range(context.rank, len(dataset), context.workers)
    predictions: list[Prediction] = []
    losses: list[tuple[float, int]] = []
    training = network.training
    network.eval()
    with torch.no_grad(), precision.autocast():
        for images, targets, geometries in loader(dataset, context, batch_size=batch_size, sampler=mine):
            raw = network(images.to(context.device, non_blocking=True))
            parts = network.loss(raw, targets.to(context.device))
            losses.append((float(sum(float(part) for part in parts.values())), len(images)))
            outputs = network.decode(raw)
            arrays = {name: output.float().cpu().numpy() for name, output in outputs.items()}
            predictions += network.postprocess(arrays, geometries)
    network.train(training)
    shares = gather((list(mine), predictions, losses), context)
    by_index = dict(pair for index, predicted, _ in shares for pair in zip(index, predicted, strict=True))
    ordered = [by_index[index] for index in sorted(by_index)]
    metrics = dataset.task.validation_metrics(dataset.samples, ordered, network.num_classes)
    metrics["loss"] = mean_loss([pair for _, _, pairs in shares for pair in pairs])
    return {f"validation/{name}": value for name, value in metrics.items()}


def mean_loss(batches: list[tuple[float, int]]) -> float:
    """The mean over images of (mean loss, images) of batches."""
    return sum(loss * count for loss, count in batches) / max(1, sum(count for _, count in batches))
