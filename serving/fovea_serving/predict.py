"""Predictions of a bundle for image files: in words, as JSON, and drawn on the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from fovea_api.errors import InvalidInput
from numpy.typing import NDArray
from pydantic import JsonValue

from fovea_serving.bundle import load_bundle
from fovea_serving.pipeline import IGNORE, Classification, Detection, Prediction, decode
from fovea_serving.predictor import Predictor

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
TOP = 5
"""Classes that are named for an image."""
FILES_AT_ONCE = 16
"""Image files in memory at the same time."""
COLORS = ((47, 109, 179), (209, 96, 61), (63, 143, 91), (142, 94, 162), (201, 162, 39), (58, 156, 166))


@dataclass(frozen=True, slots=True)
class FilePrediction:
    """What a model says about one file."""

    prediction: Prediction
    classes: tuple[str, ...]

    def to_dict(self) -> dict[str, JsonValue]:
        """The JSON form: classes with probability, objects with box and score, or pixels per class."""
        if isinstance(self.prediction, Classification):
            top = self.prediction.top(TOP)
            return {"classes": [{"class": self.classes[label], "probability": round(p, 6)} for label, p in top]}
        if isinstance(self.prediction, Detection):
            found = self.prediction
            return {
                "objects": [
                    {
                        "class": self.classes[label],
                        "score": round(float(score), 6),
                        "box": [round(float(edge), 2) for edge in box],
                    }
                    for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True)
                ]
            }
        height, width = self.prediction.mask.shape
        return {"width": width, "height": height, "pixels": dict(self._pixels())}

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A copy of the RGB image with the prediction drawn on it."""
        canvas = image.copy()
        size = max(image.shape[:2])
        if isinstance(self.prediction, Classification):
            label, probability = self.prediction.label, self.prediction.score
            _write(canvas, f"{self.classes[label]} {probability:.2f}", (0, 0), _color(label), size)
        elif isinstance(self.prediction, Detection):
            found = self.prediction
            for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True):
                left, top, right, bottom = (round(float(edge)) for edge in box)
                color = _color(int(label))
                cv2.rectangle(canvas, (left, top), (right, bottom), color, max(1, size // 400), cv2.LINE_AA)
                _write(canvas, f"{self.classes[label]} {score:.2f}", (left, top), color, size)
        else:
            for label in np.unique(self.prediction.mask):
                if label not in (0, IGNORE):
                    where = self.prediction.mask == label
                    canvas[where] = (0.55 * canvas[where] + 0.45 * np.array(_color(int(label)))).astype(np.uint8)
        return canvas

    def __str__(self) -> str:
        if isinstance(self.prediction, Classification):
            return ", ".join(f"{self.classes[label]} {p:.2f}" for label, p in self.prediction.top(3))
        if isinstance(self.prediction, Detection):
            counts = np.bincount(self.prediction.labels, minlength=len(self.classes))
            named = [f"{count} {name}" for name, count in zip(self.classes, counts, strict=True) if count]
            return ", ".join(named) or "nothing found"
        total = self.prediction.mask.size
        return ", ".join(f"{name} {pixels / total:.0%}" for name, pixels in self._pixels())

    def _pixels(self) -> list[tuple[str, int]]:
        assert not isinstance(self.prediction, Classification | Detection)
        counts = np.bincount(self.prediction.mask.ravel(), minlength=256)
        return [(name, int(counts[index])) for index, name in enumerate(self.classes)]


def describe(prediction: FilePrediction) -> str:
    """A prediction in words, for a terminal."""
    return str(prediction)


def predict_files(
    bundle: Path | str, paths: Sequence[Path], draw: Path | None = None, *, confidence: float | None = None
) -> Mapping[Path, FilePrediction]:
    """Predicts image files, and those in the folders given, with a bundle.

    Args:
        bundle: Local directory of the bundle; its digests are verified.
        paths: Image files and folders.
        draw: Folder that gets a PNG of each image with the prediction drawn. Absent: none.
        confidence: Smallest score of an object, 0 to 1; absent: the bundle's own threshold.

    Raises:
        InvalidBundle, CorruptBundle: the bundle cannot be used.
        InvalidImage: a file is no image; the message names it.
        InvalidInput: there is no image, or two images would be drawn to the same file.
    """
    verified = load_bundle(bundle)
    predictor = Predictor.from_bundle(verified)
    if confidence is not None:
        predictor.postprocess = replace(predictor.postprocess, confidence_threshold=confidence)
    files = list(dict.fromkeys(file for path in paths for file in _images(path)))
    if not files:
        raise InvalidInput("no images found", ", ".join(map(str, paths)), "give image files or folders that hold some")
    targets = {file: draw / f"{file.stem}.png" for file in files} if draw is not None else {}
    if len(set(targets.values())) < len(targets):
        raise InvalidInput("two images have the same name", str(draw), "draw them into different folders")
    if draw is not None:
        draw.mkdir(parents=True, exist_ok=True)
    results = {}
    for start in range(0, len(files), FILES_AT_ONCE):
        part = files[start : start + FILES_AT_ONCE]
        images = [decode(file.read_bytes(), str(file)) for file in part]
        for file, image, prediction in zip(part, images, predictor.predict(images), strict=True):
            results[file] = FilePrediction(prediction, verified.manifest.classes)
            if file in targets:
                drawn = cv2.cvtColor(results[file].draw(image), cv2.COLOR_RGB2BGR)
                targets[file].write_bytes(cv2.imencode(".png", drawn)[1].tobytes())
    return results


def _images(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def _color(label: int) -> tuple[int, int, int]:
    return COLORS[label % len(COLORS)]


def _write(
    canvas: NDArray[np.uint8], text: str, corner: tuple[int, int], ground: tuple[int, int, int], size: int
) -> None:
    """White text on a coloured ground above the corner, or below it where there is no room."""
    text = text.encode("ascii", "replace").decode()  # OpenCV's built-in fonts hold ASCII only
    scale = max(0.35, size / 1600)
    (width, height), rest = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    left, bottom = min(max(corner[0], 0), max(0, canvas.shape[1] - width)), max(corner[1], height + rest)
    cv2.rectangle(canvas, (left, bottom - height - rest), (left + width, bottom), ground, cv2.FILLED)
    where = (left, bottom - rest // 2 - 1)
    cv2.putText(canvas, text, where, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
