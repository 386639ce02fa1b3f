"""What is done with a finished bundle beside serving it: measuring it on other data, writing other formats."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from fovea_api.dataset import Dataset, Ratios, Splits
from fovea_api.errors import FoveaError, InvalidInput
from fovea_serving.bundle import WEIGHTS, Bundle
from fovea_serving.pipeline import Postprocess, Preprocess, decode
from fovea_serving.predictor import Predictor
from numpy.typing import NDArray

from fovea_trainer.data.build import build_dataset
from fovea_trainer.data.image_files import image_by_name
from fovea_trainer.data.version import open_version
from fovea_trainer.evaluation.evaluate import evaluate
from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.export import (
    Exportable,
    Exporter,
    check_golden,
    check_nms,
    check_parity,
    exporter,
    write_metadata,
    write_nms,
)
from fovea_trainer.export.exporters.onnx import Onnx
from fovea_trainer.local import folder_recipe
from fovea_trainer.manifest import Manifest
from fovea_trainer.models.description import restore

EVERYTHING = "all"
"""What the split is called that a folder's images are taken for."""
PARITY_IMAGES = 8
"""Images on which a written file is held against the weights."""


def evaluate_bundle(
    bundle: Bundle,
    dataset: str,
    split: str = "test",
    *,
    confidence: float | None = None,
    format_: str | None = None,
    model_format: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """The quality of a bundle's model on labelled images that it need not have been trained on.

    Args:
        bundle: The verified bundle.
        dataset: A dataset version (folder or URI); a folder or archive of labelled images, all of which are taken; or a
            manifest (.yaml) with a Dataset.
        split: Which split of a version or of a manifest's Dataset.
        confidence: Score from which objects count as reported; absent: the bundle's own.
        format_: Format of a folder's labels; absent: the one that the files look like.
        model_format: Format of the model that is measured; absent: the ONNX model that is served.
        progress: Called with (images done, images in all).

    Raises:
        InvalidInput: there is no such data, or its task or classes are not those of the bundle.
    """
    manifest = bundle.manifest
    with tempfile.TemporaryDirectory(prefix="fovea-evaluate-") as work:
        uri = dataset
        if dataset.endswith((".yaml", ".yml")):
            file = Manifest.read(Path(dataset))
            recipe = file.local(file.find(Dataset, None), {}).spec.recipe()
            uri = build_dataset(recipe, name="evaluated", store_root=f"{work}/store", work_dir=f"{work}/build").artifact
        elif Path(dataset).exists() and not (Path(dataset) / "manifest.json").is_file():
            split = EVERYTHING
            recipe = folder_recipe(Path(dataset), format_, str(manifest.task), manifest.classes, Path(work))
            recipe = recipe.model_copy(update={"splits": Splits(ratios=Ratios(train=1, validation=0, test=0))})
            uri = build_dataset(recipe, name="evaluated", store_root=f"{work}/store", work_dir=f"{work}/build").artifact
        version = open_version(uri, f"{work}/versions")
        theirs = version.manifest
        if theirs.task is not manifest.task or theirs.classes != manifest.classes:
            raise InvalidInput(
                f"the data are for {theirs.task} of {', '.join(theirs.classes)}; the model is for {manifest.task} of "
                f"{', '.join(manifest.classes)}",
                dataset,
                "list the model's classes in the Dataset's spec.classes, in their order",
            )
        predictor = Predictor.from_bundle(bundle, format_=model_format)
        if confidence is not None:
            predictor.postprocess = replace(predictor.postprocess, confidence_threshold=confidence)
        samples = version.split("train" if split == EVERYTHING else split)
        return evaluate(predictor, samples, manifest.classes, split=split, progress=progress)


def export_bundle(bundle: Bundle, format_: str, target: Path, images: Sequence[Path] = (), *, nms: bool = False) -> str:
    """Writes the model of a bundle in another format: whole and, where it is held against the weights or
    the model that is served, as good as they are; or not at all, and a file that is there stays.

    Args:
        bundle: The verified bundle.
        format_: Name of a format, as in `spec.export.formats` and `.deferred`.
        target: The file.
        images: Pictures on which the file is held against the weights, where a backend runs it; at least two.
        nms: With ONNX: the model that the bundle serves, with non-maximum suppression in its graph.

    Returns:
        What was compared, in words.

    Raises:
        NotSupported: there is no such format, or what writes it is not here.
        MissingExtra: the library that writes it is not installed.
        NoGpu: the format takes a GPU.
        InvalidInput: the bundle has no weights.
        ParityError: the file does not compute what the weights do.
    """
    form, manifest = exporter(format_), bundle.manifest
    weights, suffix = bundle.path / WEIGHTS, Path(form.file).suffix
    if target.suffix != suffix:
        raise InvalidInput(f"a file of {form.format} is called *{suffix}", str(target), "give it that ending")
    if nms and form.format != Onnx.format:
        raise InvalidInput(f"{form.format} is written without non-maximum suppression", "--nms", "it is for ONNX")
    if WEIGHTS not in {entry.path for entry in manifest.files}:
        raise InvalidInput(f"the bundle has no {WEIGHTS}", str(bundle.path), "export the training's bundle")
    predictor = Predictor.from_bundle(bundle)
    preprocess, postprocess = predictor.preprocess, predictor.postprocess
    size = (preprocess.width, preprocess.height)
    network = Exportable.of(restore(weights), size, dynamic_batch=predictor.fixed_batch is None)
    model = replace(network, onnx=bundle.model if form.served else bundle.model_of("FP32"))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name[:100]}.", dir=target.parent) as beside:
        written = Path(beside) / target.name
        try:
            if nms:
                write_nms(bundle.model, manifest.classes, preprocess, postprocess, written)
                proof = _proof_of_nms(bundle.model, written, preprocess, postprocess, images)
            else:
                form.write(model, written)
                if form.format == Onnx.format:
                    write_metadata(written, manifest.classes, preprocess, postprocess)
                proof = (
                    check_golden(bundle, written) if form.served else _proof(form, model, written, preprocess, images)
                )
        except FoveaError as error:
            if error.location == str(written):
                error.location = str(target)
            raise
        for file in reversed(form.files(written)):  # the one that is opened comes last
            os.replace(file, target.with_name(file.name))
    return proof


def _proof(form: Exporter, model: Exportable, file: Path, preprocess: Preprocess, images: Sequence[Path]) -> str:
    """Holds a written file against the weights, as far as that can be done; what was compared, in words."""
    if not form.runnable:
        return f"no backend runs {form.format} here, so it was not held against the weights"
    if len(images) < 2:
        return "not held against the weights: that takes two --images at least"
    return str(check_parity(model, file, _batch(preprocess, images)))


def _proof_of_nms(
    model: Path, file: Path, preprocess: Preprocess, postprocess: Postprocess, images: Sequence[Path]
) -> str:
    """Holds a file with suppression in its graph against the bundle's model; what was compared, in words."""
    if not images:
        return "not held against the bundle's model: that takes --images"
    batch = _batch(preprocess, images)
    agreement = check_nms(model, file, postprocess, batch)
    return f"F1 of its objects with those of fovea predict is {agreement:.3f} on {len(batch)} images"


def _batch(preprocess: Preprocess, images: Sequence[Path]) -> NDArray[np.float32]:
    """Normalized float32 `[N, 3, H, W]` of the first images."""
    return preprocess.batch([decode(image.read_bytes(), str(image)) for image in images[:PARITY_IMAGES]])[0]


def pictures_in(paths: Sequence[Path]) -> list[Path]:
    """The image files given, and those in the folders given."""
    listed = [sorted(path.rglob("*")) if path.is_dir() else [path] for path in paths]
    return [file for files in listed for file in files if file.is_file() and image_by_name(str(file))]
