"""The formats that were asked for: each is written, held against the network, and measured like what is served."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fovea_api.bundle import BundleFormat
from fovea_serving.bundle import MODEL, WEIGHTS

from fovea_trainer.export import Exporter, Parity, check_parity, exporter, save_weights
from fovea_trainer.export.exporters.onnx import Onnx
from fovea_trainer.models.description import KEY
from fovea_trainer.training.trained import Delivered, Trained

PARITY_IMAGES = 8
"""Real images on which PyTorch and an exported file must agree."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written; `parity` is None where nothing runs its format."""

    form: Exporter
    file: Path
    parity: Parity | None


def export(trained: Trained, folder: Path) -> list[Exported]:
    """Writes the weights and every format that was asked for; what a backend runs is held against the network.

    Raises:
        ExportError: the network cannot be written in a format.
        ParityError: a file does not compute what the network does.
    """
    save_weights(trained.network, folder / WEIGHTS, {KEY: trained.description})
    images, model = trained.batch("train", 0, PARITY_IMAGES), trained.exportable
    exported = []
    for form in sorted(map(exporter, trained.recipe.export.formats), key=lambda form: form.format != Onnx.format):
        file = folder / form.file
        form.write(model, file)
        parity = check_parity(model, file, images) if form.runnable else None
        if parity is not None:
            log.info("%s", parity)
        exported.append(Exported(form, file, parity))
        model = replace(model, onnx=folder / MODEL)
    return exported


def measure_formats(exported: Sequence[Exported], delivered: Delivered) -> tuple[BundleFormat, ...]:
    """What was exported, for the bundle's manifest and the report; nothing where that is ONNX alone.

    Quality is measured on the split that was evaluated last, with the bundle's confidence threshold: that of the model
    that is served, which may be the 8-bit one.
    """
    if len(exported) == 1:
        return ()
    return tuple(
        BundleFormat(
            format=each.form.format,
            file=each.form.file,
            difference=None if each.parity is None else each.parity.difference,
            metrics={} if each.parity is None else _metrics(each, delivered),
        )
        for each in exported
    )


def _metrics(exported: Exported, delivered: Delivered) -> Mapping[str, float]:
    """Metrics of the last evaluated split as a whole, latency and size."""
    served = delivered.served
    trained, split = served.trained, next(reversed([*served.evaluations]), None)
    metrics: Mapping[str, float]
    floating = delivered.floating
    if exported.file.name == MODEL and trained.postprocess == floating.trained.postprocess:
        metrics = floating.metrics
    else:
        evaluated = {split: trained.evaluate(exported.file, split)} if split is not None else {}
        metrics = trained.measured(exported.file, evaluated, exported.form.files(exported.file)).metrics
    kept = (f"{split}/", "latency/", "size/")
    chosen = {name: value for name, value in metrics.items() if name.startswith(kept) and name.count("/") == 1}
    log.info("%s: %s", exported.form.format, ", ".join(f"{name} {value:.4g}" for name, value in chosen.items()))
    return chosen
