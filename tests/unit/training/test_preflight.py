"""What is refused before the first step: data of which nothing can be learned at this input size."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from fovea_api.common import Task
from fovea_api.dataset import Recipe
from fovea_api.errors import InvalidInput
from fovea_api.trainingjob import Resize
from fovea_serving.pipeline import Preprocess
from fovea_trainer.data.build import build_dataset
from fovea_trainer.data.version import OpenVersion, open_version
from fovea_trainer.local import train_manifest
from fovea_trainer.tasks import definition

CASES = Path(__file__).parents[1] / "data/cases"


def preprocess(side: int) -> Preprocess:
    return Preprocess(side, side, Resize.LETTERBOX, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def picture(file: Path, seed: int, side: int = 200) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def built(root: Path, format: str, task: Task, **fields: object) -> OpenVersion:
    recipe = Recipe.model_validate(
        {"task": task, "sources": [{"name": "s", "uri": f"file://{root}", "format": format}], **fields}
    )
    made = build_dataset(recipe, name="d", store_root=str(root.parent / "store"), work_dir=root.parent / "work")
    return open_version(made.artifact, root.parent / "cache")


def check(version: OpenVersion, side: int) -> tuple[str, ...]:
    task = definition(version.manifest.task)
    return task.check_learnable(version.split("train"), version.manifest.classes, preprocess(side))


def yolo(root: Path, sides: list[float]) -> Path:
    """Images of 200 x 200 pixels with one object each, of a side in pixels."""
    (root / "labels").mkdir(parents=True)
    (root / "data.yaml").write_text("names: [cat]")
    for number, side in enumerate(sides):
        picture(root / f"images/{number}.png", number)
        (root / f"labels/{number}.txt").write_text(f"0 0.5 0.5 {side / 200} {side / 200}\n")
    return root


def test_objects_that_vanish(tmp_path: Path) -> None:
    version = built(yolo(tmp_path / "s", [5.0] * 20), "YOLO", Task.DETECTION)
    assert check(version, 200) == check(version, 81) == ()
    with pytest.raises(InvalidInput, match=r"of 16 train objects are smaller than 2 pixels .* 64 x 64") as error:
        check(version, 64)
    assert error.value.location == "spec.input.size"
    assert "give about 320 x 320" in str(error.value), "5 pixels of 200 are 8 of 320"


def test_some_objects_that_vanish_are_reported(tmp_path: Path) -> None:
    version = built(yolo(tmp_path / "s", [5.0] * 6 + [50.0] * 14), "YOLO", Task.DETECTION, splits={"stratify": False})
    (note,) = check(version, 64)
    assert "train objects are smaller than 2 pixels in the network's input of 64 x 64" in note


def test_a_class_whose_pixels_vanish(tmp_path: Path) -> None:
    root = tmp_path / "s"
    for number in range(10):
        picture(root / f"images/{number}.png", number)
        mask = np.zeros((200, 200), np.uint8)
        mask[101:103, 101:103] = 1
        (root / "masks").mkdir(exist_ok=True)
        cv2.imwrite(str(root / f"masks/{number}.png"), mask)
    version = built(root, "Masks", Task.SEMANTIC_SEGMENTATION, classes=["background", "cat"])
    assert check(version, 200) == ()
    with pytest.raises(InvalidInput, match="no pixel of cat is left in the network's input of 16 x 16"):
        check(version, 16)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("51-train-no-objects", "none of 20 images shows an object, so there is nothing to learn"),
        ("55-train-single-class", "train images are of the class cats, so there is nothing to tell apart"),
        ("67-classes-typo", r"did you mean \[cat, dog\]"),
    ],
)
def test_a_training_is_refused_before_its_first_step(case: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=words):
        train_manifest(CASES / case / "manifest.yaml", str(tmp_path / "store"))
    assert not list((tmp_path / "store").rglob("*checkpoint*"))
