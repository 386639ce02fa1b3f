"""A split of a version as a folder that other tools open: the images, and labels and predictions as COCO."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from fovea_api.errors import InvalidInput
from fovea_serving.pipeline import Detection
from fovea_serving.predictor import Predictor
from fovea_store import StorePath
from pydantic import JsonValue

from fovea_trainer.data.version import OpenVersion, Sample

DATA, LABELS, PREDICTIONS = "data", "labels.json", "predictions.json"
BATCH = 8
"""Images that are predicted at once."""


def write_folder(
    version: OpenVersion, artifact: StorePath, split: str, folder: Path, predictor: Predictor | None = None
) -> int:
    """Writes the images of a split, its labels and, with a predictor, what that predicts; gives the number of images.

    Image files are named by their id in the COCO file, so that no two have one name. Predictions are COCO results:
    `image_id`, `category_id`, `bbox` as [left, top, width, height], `segmentation` where objects have masks, `score`,
    with all candidates of a detector.

    Raises:
        InvalidInput: the folder holds something already, the version has no such split, or predictions of a task are
            asked for that has no COCO results.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InvalidInput("the folder is not empty", str(folder), "give another one")
    if predictor is not None and not predictor.postprocess.task.finds_objects:
        raise InvalidInput("COCO has results of detectors only", "--predictions", "leave it out")
    samples = version.split(split)
    content = json.loads((artifact / "coco" / f"{split}.json").read_text())
    (folder / DATA).mkdir(parents=True, exist_ok=True)
    results: list[JsonValue] = []
    for start in range(0, len(samples), BATCH):
        part = samples[start : min(start + BATCH, len(samples))]
        entries = content["images"][start : start + BATCH]
        for entry, sample in zip(entries, part, strict=True):
            assert entry["file_name"] == sample.name
            entry["file_name"] = f"{entry['id']:06}-{PurePosixPath(sample.name).name}"
            (folder / DATA / entry["file_name"]).write_bytes(sample.image_bytes)
        if predictor is not None:
            results += _results(predictor, part, [int(entry["id"]) for entry in entries], version.manifest.classes)
    (folder / LABELS).write_text(json.dumps(content))
    if predictor is not None:
        (folder / PREDICTIONS).write_text(json.dumps(results))
    return len(samples)


def _results(
    predictor: Predictor, samples: Sequence[Sample], ids: Sequence[int], classes: Sequence[str]
) -> list[JsonValue]:
    results: list[JsonValue] = []
    predictions = predictor.predict([sample.image_bytes for sample in samples], candidates=True)
    for number, prediction in zip(ids, predictions, strict=True):
        assert isinstance(prediction, Detection)
        objects = prediction.objects(classes, masks=True)
        for label, box, part in zip(prediction.labels, prediction.boxes, objects, strict=True):
            left, top, right, bottom = (round(float(edge), 2) for edge in box)
            results.append(
                {
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    **({"segmentation": part["mask"]} if "mask" in part else {}),
                    "score": part["score"],
                }
            )
    return results
