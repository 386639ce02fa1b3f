"""Predictions of a bundle for image files, drawn on the images where that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
from fovea_api.errors import InvalidInput

from fovea_serving.bundle import load_bundle
from fovea_serving.pipeline import NamedPrediction, decode, prediction_type
from fovea_serving.predictor import Predictor

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
FILES_AT_ONCE = 16
"""Image files in memory at the same time."""


@dataclass(frozen=True, slots=True)
class FilePredictions:
    """What a bundle predicts for files.

    Args:
        files: The prediction of each file.
        confidence: The score from which objects are reported; None: the task has no such threshold.
        by_bundle: Whether that is the bundle's own.
    """

    files: Mapping[Path, NamedPrediction]
    confidence: float | None
    by_bundle: bool


def predict_files(
    bundle: Path | str,
    paths: Sequence[Path],
    draw: Path | None = None,
    *,
    confidence: float | None = None,
    overlapping: bool = False,
    format_: str | None = None,
) -> FilePredictions:
    """Predicts image files, and those in the folders given, with a bundle.

    Args:
        bundle: Local directory of the bundle; its digests are verified.
        paths: Image files and folders.
        draw: Folder that gets a PNG of each image with the prediction drawn. Absent: none.
        confidence: Smallest score of an object, 0 to 1; absent: the bundle's own threshold.
        overlapping: Whether one object may be reported as several classes.
        format_: The format of the model that predicts; None: the ONNX model that is served.

    Raises:
        InvalidBundle, CorruptBundle: the bundle cannot be used.
        InvalidImage: a file is no image; the message names it.
        InvalidInput: there is no image, or two images would be drawn to the same file.
    """
    verified = load_bundle(bundle)
    predictor = Predictor.from_bundle(verified, format_=format_)
    if confidence is not None:
        predictor.postprocess = replace(predictor.postprocess, confidence_threshold=confidence)
    files = images_of(paths)
    targets = {file: draw / f"{file.stem}.png" for file in files} if draw is not None else {}
    if len(set(targets.values())) < len(targets):
        raise InvalidInput("two images have the same name", str(draw), "draw them into different folders")
    if draw is not None:
        draw.mkdir(parents=True, exist_ok=True)
    results = {}
    for start in range(0, len(files), FILES_AT_ONCE):
        part = files[start : start + FILES_AT_ONCE]
        images = [decode(file.read_bytes(), str(file)) for file in part]
        for file, image, prediction in zip(
            part, images, predictor.predict(images, overlapping=overlapping), strict=True
        ):
            results[file] = NamedPrediction(prediction, verified.manifest.classes)
            if file in targets:
                drawn = cv2.cvtColor(results[file].draw(image), cv2.COLOR_RGB2BGR)
                targets[file].write_bytes(cv2.imencode(".png", drawn)[1].tobytes())
    thresholded = prediction_type(verified.manifest.task).thresholded
    threshold = predictor.postprocess.confidence_threshold if thresholded else None
    return FilePredictions(results, threshold, confidence is None)


def images_of(paths: Sequence[Path]) -> list[Path]:
    """The image files, and those in the folders. Raises InvalidInput where there is none."""
    files = list(dict.fromkeys(file for path in paths for file in _images(path)))
    if not files:
        raise InvalidInput("no images found", ", ".join(map(str, paths)), "give image files or folders that hold some")
    return files


def _images(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
