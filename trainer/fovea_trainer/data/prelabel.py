"""Labels that a served model predicts for images that have none: for review in a labelling tool, or for train at once.

The model is the bundle of the run's inputs, and predicts by the serving code.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fovea_api.bundle import BundleManifest
from fovea_api.common import Task
from fovea_api.dataset import Export, Prelabel, Recipe
from fovea_api.errors import InvalidInput
from fovea_api.run import BundleInput
from fovea_serving.captures.exchange import ANNOTATIONS, LabelledImage, annotation_text, best_class, parts_of
from fovea_serving.predictor import Predictor
from fovea_store import NotFound, StorePath
from pydantic import JsonValue

from fovea_trainer.bundles import fetch_input
from fovea_trainer.data.checks import Inspection
from fovea_trainer.data.findings import Finding
from fovea_trainer.data.formats import BATCH
from fovea_trainer.data.formats.captures import labels_of
from fovea_trainer.data.index import Index, Waiting
from fovea_trainer.data.progress import ProgressMeter
from fovea_trainer.data.read import OpenSource, content_of, image_bytes
from fovea_trainer.data.records import Box

AT_ONCE = 16
"""Images that are read and predicted together."""
DECIMALS = 2
"""Of a predicted box in pixels: the last bits differ from one CPU to another, and labels are part of a version."""
PLACE = "spec.prelabel.modelDeploymentRef"
Content = Mapping[str, JsonValue]
"""A prediction in its JSON form."""

log = logging.getLogger(__name__)


def prelabel(
    recipe: Recipe,
    name: str,
    bundle: BundleInput,
    index: Index,
    sources: Sequence[OpenSource],
    work: Path,
    meter: ProgressMeter,
) -> dict[str, str]:
    """Predicts labels of all images that wait for one, exports them for review, and takes them where that is asked for.

    Args:
        recipe: The Dataset's recipe, with `prelabel`.
        name: Name of the Dataset, by which batches of images are called.
        bundle: The model.
        index: All images that were read.
        sources: Where they lie.
        work: Local folder for the model.
        meter: Hears how far the work is.

    Returns:
        By digest, where images wait for review.

    Raises:
        InvalidInput: the model is for another task, or for other classes.
        Recoverable: the store of the model or of the export fails.
    """
    wanted = recipe.prelabel
    assert wanted is not None
    fetched = fetch_input(bundle, work / "model")
    refuse_other_model(recipe, fetched.manifest, sorted(index.names))
    waiting = list(index.waiting())
    sent = exported(StorePath.parse(wanted.export.uri), name) if wanted.export is not None else {}
    index.bind({digest: image.group for digest, image in sent.items() if image.group})
    before = {digest: image.place for digest, image in sent.items()}
    if wanted.use == "AfterReview":
        waiting = [each for each in waiting if each.digest not in before]
    if not waiting:
        return before
    log.info("predicting labels of %d images by %s", len(waiting), bundle.artifact)
    predictor = Predictor.from_bundle(fetched)
    new = list[tuple[Waiting, Content]]()
    for done, (image, content) in enumerate(_predicted(predictor, fetched.manifest, waiting, sources), 1):
        if wanted.use == "Immediately":
            _take(image, content, wanted, index, sources[image.source])
        if image.digest not in before:
            new.append((image, _for_review(content, wanted, sources[image.source])))
        meter.images("Predicting", done, len(waiting), 60, 60)
    index.commit()
    if wanted.export is None or not new:
        return before
    classes = recipe.classes or sorted(index.names)
    batch = export_batch(wanted.export, name, recipe.task, bundle, classes, new, sources)
    log.info("%d images wait for review in %s", len(new), batch)
    return before | {image.digest: batch.uri for image, _ in new}


def refuse_other_model(recipe: Recipe, model: BundleManifest, known: Sequence[str]) -> None:
    """Raises InvalidInput where a model cannot label a Dataset.

    Args:
        recipe: The Dataset's recipe.
        model: The bundle's manifest.
        known: The classes of the labelled images.
    """
    if model.task != recipe.task:
        words = f"the model is for {model.task}, and the Dataset for {recipe.task}"
        raise InvalidInput(words, PLACE, "name a deployment of the same task")
    named = {recipe.class_map.get(name, name) for name in model.classes} - {""}
    if recipe.classes and (others := sorted(named - {*recipe.classes})):
        words = f"the model's classes {', '.join(others)} are none of the Dataset's {', '.join(recipe.classes)}"
        raise InvalidInput(words, PLACE, 'rename them by classMap, or drop them by mapping them to ""')
    assert recipe.prelabel is not None
    if recipe.prelabel.use == "Immediately" and (unknown := sorted({*(recipe.classes or known)} - named)):
        words = f"the model does not know {', '.join(unknown)}, and its labels would teach them as background"
        raise InvalidInput(words, PLACE, "set prelabel.use: AfterReview, or serve a model of all classes")


def _predicted(
    predictor: Predictor, model: BundleManifest, images: Sequence[Waiting], sources: Sequence[OpenSource]
) -> Iterator[tuple[Waiting, Content]]:
    for start in range(0, len(images), AT_ONCE):
        part = images[start : start + AT_ONCE]
        files = [image_bytes(sources[each.source].tree, each.image) for each in part]
        for image, prediction in zip(part, predictor.predict(files), strict=True):
            yield image, prediction.to_dict(model.classes, masks=True)


def confident(content: Content, least: float) -> Content:
    """The objects of at least this score, and the best class of the image if it has it; classes of pixels as they are.

    Args:
        content: A prediction in its JSON form.
        least: The smallest score, 0 to 1.
    """
    objects: list[JsonValue] = [part for part in parts_of(content, "objects") if part.get("score", 1.0) >= least]
    pixels: list[JsonValue] = [part for part in parts_of(content, "classes") if "mask" in part]
    best = None if pixels else best_class(content)
    named: list[JsonValue] = [best] if best is not None and best.get("score", 1.0) >= least else []
    return {**content, "objects": objects, "classes": pixels or named}


def _for_review(content: Content, wanted: Prelabel, source: OpenSource) -> Content:
    """What is sure of a prediction, by the Dataset's names of the classes."""
    sure = confident(content, wanted.min_confidence)
    renamed: dict[str, JsonValue] = {
        field: [
            {**part, "class": name}
            for part in parts_of(sure, field)
            if (name := source.class_of(str(part["class"]), PLACE)) is not None
        ]
        for field in ("objects", "classes")
    }
    return {**sure, **renamed}


def _take(image: Waiting, content: Content, wanted: Prelabel, index: Index, source: OpenSource) -> None:
    """Labels an image as predicted, if anything in it is sure; less certain objects are neither taught nor missed."""
    sure = confident(content, wanted.min_confidence)
    if not parts_of(sure, "objects") and not parts_of(sure, "classes"):
        return
    size = image.width, image.height
    labels = labels_of({**content, "classes": sure["classes"]}, size, image.name)
    scores = [part.get("score", 1.0) for part in parts_of(content, "objects")]
    boxes = tuple(
        replace(_rounded(box), difficult=score < wanted.min_confidence)
        for box, score in zip(labels.boxes, scores, strict=True)
    )
    findings: list[Finding] = []
    taken, classes = content_of(source, replace(labels, boxes=boxes), Inspection(*size, b""), findings)
    if taken is not None and classes:
        index.add_predicted(image, taken, classes)


def _rounded(box: Box) -> Box:
    x1, y1, x2, y2 = (round(side, DECIMALS) for side in box.corners)
    return replace(box, x1=x1, y1=y1, x2=x2, y2=y2)


# --- Review -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exported:
    """An image that went out for review.

    Args:
        place: Folder of its batch.
        group: What it belongs to, as when it went: a frame to its video. Empty: to nothing.
    """

    place: str
    group: str


def exported(target: StorePath, name: str) -> dict[str, Exported]:
    """By digest, the images of a Dataset that are there; others may export to the same place."""
    folders = [target / each for each in target.folders()]
    return {
        digest: Exported(folder.uri, group) for folder in folders for digest, group in _groups(folder, name).items()
    }


def _groups(folder: StorePath, name: str) -> dict[str, str]:
    """The images of a batch that is whole, with their groups; none of another Dataset's batch or other folder."""
    try:
        written = json.loads((folder / BATCH).read_bytes())
        images = written["images"].items() if written["dataset"] == name else ()
        return {str(digest): str(group) for digest, group in images}
    except (NotFound, ValueError, KeyError, TypeError, AttributeError):
        return {}


def export_batch(
    export: Export,
    name: str,
    task: Task,
    model: BundleInput,
    classes: Sequence[str],
    images: Sequence[tuple[Waiting, Content]],
    sources: Sequence[OpenSource],
) -> StorePath:
    """Writes images and their predictions to a folder of their own, as the labelling tool imports them.

    The folder is named by the images, so that a build which was interrupted writes the same once more, and an
    annotation file that is there stays as it is: somebody may have worked on it.

    Args:
        export: Where, and in which format.
        name: Name of the Dataset.
        task: What is labelled.
        model: The bundle that has predicted.
        classes: The classes that may be chosen.
        images: The images with their predictions.
        sources: Where they lie.
    """
    groups = {image.digest: image.group for image, _ in images}
    batch = hashlib.sha256("\n".join(sorted(groups)).encode()).hexdigest()[:12]
    folder = StorePath.parse(export.uri) / f"{name}-{batch}"
    listed = []
    for image, content in images:
        source = sources[image.source]
        path = f"{source.name}/{image.name}"
        (folder / f"images/{path}").write_bytes(image_bytes(source.tree, image.image))
        listed.append(LabelledImage(path, (image.width, image.height), task, model.digest, content))
    file, text = ANNOTATIONS[export.format], annotation_text(export.format, listed, classes)
    if not (folder / file).exists():
        (folder / file).write_text(text)
    annotations = {"file": file, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    marker = {"dataset": name, "model": model.digest, "annotations": annotations, "images": groups}
    (folder / BATCH).write_text(json.dumps(marker, indent=1))  # last: a batch without it is written once more
    return folder
