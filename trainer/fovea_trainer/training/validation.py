"""Metrics of the validation split after an epoch, by the postprocessing that serving uses."""

from __future__ import annotations

import torch

from fovea_trainer.data.version import Split
from fovea_trainer.models.network import AnyNetwork
from fovea_trainer.training.context import Context
from fovea_trainer.training.dataset import Normalize
from fovea_trainer.training.distributed import gather
from fovea_trainer.training.loading import ValidationBatches
from fovea_trainer.training.precision import Precision


def validate(
    network: AnyNetwork, batches: ValidationBatches, context: Context, precision: Precision
) -> dict[str, float]:
    """Metrics by name, `validation/<metric>`, the same on all workers; each predicts its share of the images."""
    dataset, indices = batches.dataset, iter(batches.indices)
    normalize = Normalize(dataset.preprocess, context.device)
    metrics = dataset.task.epoch_metrics(network.num_classes)
    losses: list[tuple[float, int]] = []
    training = network.training
    network.eval()
    with torch.no_grad(), precision.autocast():
        for images, targets, geometries in batches:
            raw = network(normalize(images))
            parts = network.loss(raw, targets.to(context.device))
            losses.append((float(torch.stack([part.float() for part in parts.values()]).sum()), len(images)))
            outputs = network.decode(raw)
            arrays = {name: output.float().cpu().numpy() for name, output in outputs.items()}
            # In this order `zip` draws no index that it has no prediction for.
            for prediction, index in zip(network.postprocess(arrays, geometries), indices, strict=False):
                metrics.update(index, dataset.samples[index], prediction)
    network.train(training)
    if isinstance(dataset.samples, Split):
        dataset.samples.forget()
    (metrics, losses), *others = gather((metrics, losses), context)
    for theirs, of_batches in others:
        metrics.merge(theirs)
        losses += of_batches
    values = metrics.compute()
    values["loss"] = mean_loss(losses)
    return {f"validation/{name}": value for name, value in values.items()}


def mean_loss(batches: list[tuple[float, int]]) -> float:
    """The mean over images of (mean loss, images) of batches."""
    return sum(loss * count for loss, count in batches) / max(1, sum(count for _, count in batches))
