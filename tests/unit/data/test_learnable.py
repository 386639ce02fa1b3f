"""Nothing to learn is no success: it is refused, or a serious finding, for every format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_support import write
from fovea_api.dataset import Recipe
from fovea_api.errors import InvalidInput
from fovea_trainer.data.build import CheckResult, check_dataset
from fovea_trainer.data.learnable import similar

COUNT = 20
Labels = Sequence[Sequence[str]]
"""Names of the objects of each image."""


def voc(labels: Labels, start: int = 0) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {}
    for number, names in enumerate(labels, start):
        boxes = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{10 + 20 * at}</xmin><ymin>10</ymin><xmax>{25 + 20 * at}</xmax>"
            "<ymax>60</ymax></bndbox></object>"
            for at, name in enumerate(names)
        )
        files |= {f"{number}.jpg": "", f"{number}.xml": f"<annotation>{boxes}</annotation>"}
    return files


def yolo(labels: Labels, start: int = 0) -> dict[str, str | bytes]:
    classes = sorted({name for names in labels for name in names}) or ["cat"]
    files: dict[str, str | bytes] = {"data.yaml": json.dumps({"names": classes})}
    for number, names in enumerate(labels, start):
        lines = (f"{classes.index(name)} {0.2 + 0.2 * at} 0.5 0.1 0.4\n" for at, name in enumerate(names))
        files |= {f"images/{number}.jpg": "", f"labels/{number}.txt": "".join(lines)}
    return files


def coco(labels: Labels, start: int = 0) -> dict[str, str | bytes]:
    classes = sorted({name for names in labels for name in names})
    content = {
        "images": [{"id": start + number, "file_name": f"{start + number}.jpg"} for number in range(len(labels))],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes)],
        "annotations": [
            {"id": 100 * number + at, "image_id": start + number, "category_id": classes.index(name),
             "bbox": [10 + 20 * at, 10, 15, 50]}
            for number, names in enumerate(labels) for at, name in enumerate(names)
        ],
    }  # fmt: skip
    return {"a.json": json.dumps(content), **{f"{start + number}.jpg": "" for number in range(len(labels))}}


DETECTION = {"PascalVOC": voc, "YOLO": yolo, "COCO": coco}


def check(
    root: Path, format: str, task: str = "Detection", mask_values: object = None, **fields: object
) -> CheckResult:
    source = {"name": "s", "uri": f"file://{root}", "format": format} | (
        {"maskValues": mask_values} if mask_values else {}
    )
    recipe = Recipe.model_validate({"task": task, "sources": [source], **fields})
    return check_dataset(recipe, work_dir=root.parent / "work")


def refusal(result: CheckResult) -> str:
    assert isinstance(result.refusal, InvalidInput)
    return str(result.refusal)


def serious(result: CheckResult) -> dict[str, list[str]]:
    """What was found by kind of those findings that are serious."""
    return {
        str(tally.kind): [one.message for one in tally.examples]
        for tally in result.findings
        if tally.severity == "Serious"
    }


# --- Detection ---


@pytest.mark.parametrize("format", DETECTION)
def test_no_object_at_all(format: str, tmp_path: Path) -> None:
    root = write(tmp_path / "s", DETECTION[format]([[]] * COUNT))
    assert f"none of {COUNT} images shows an object, so there is nothing to learn" in refusal(check(root, format))


@pytest.mark.parametrize("format", DETECTION)
def test_all_labels_of_unknown_classes(format: str, tmp_path: Path) -> None:
    root = write(tmp_path / "s", DETECTION[format]([["cat", "dog"]] * COUNT))
    words = refusal(check(root, format, classes=["Dogs", "CAT"]))
    assert "the labels say cat (20 times), dog (20 times)" in words
    assert "did you mean [dog, cat]?" in words, "in the order of the classes"


@pytest.mark.parametrize("format", DETECTION)
def test_a_misspelt_class_beside_right_ones(format: str, tmp_path: Path) -> None:
    root = write(tmp_path / "s", DETECTION[format]([["square", "circle"]] * COUNT))
    words = refusal(check(root, format, classes=["square", "circel"]))
    assert words.startswith("spec.classes: the class 'circel' has no image, while 20 labels say 'circle'")


@pytest.mark.parametrize("format", DETECTION)
def test_a_class_that_nobody_labelled(format: str, tmp_path: Path) -> None:
    root = write(tmp_path / "s", DETECTION[format]([["square"]] * COUNT))
    found = serious(check(root, format, classes=["square", "zebra"]))
    assert found == {"ClassWithoutImages": ["no image shows the class zebra"]}


@pytest.mark.parametrize("format", ["PascalVOC", "YOLO"])
def test_a_class_that_only_test_shows(format: str, tmp_path: Path) -> None:
    files = {
        f"{split}/{path}" if path != "data.yaml" else path: content
        for split, start, names in (("train", 0, ["cat"]), ("valid", 5, ["cat"]), ("test", 10, ["cat", "dog"]))
        for path, content in DETECTION[format]([names] * 5, start).items()
    }
    found = serious(check(write(tmp_path / "s", files), format, splits={"method": "FromSource"}))
    assert found == {"ClassNotInTrain": ["no train image shows the class dog, which is in test"]}


@pytest.mark.parametrize("format", ["YOLO", "COCO"])
def test_classes_that_a_source_names_and_no_label_has(format: str, tmp_path: Path) -> None:
    files = DETECTION[format]([["cat"]] * COUNT)
    if format == "YOLO":
        files["data.yaml"] = "names: [cat, zebra, dog]"
    else:
        files["a.json"] = str(files["a.json"]).replace('"categories": [', '"categories": [{"id": 7, "name": "zebra"}, ')
    result = check(write(tmp_path / "s", files), format)
    (message,) = [one.message for tally in result.findings for one in tally.examples if tally.kind == "ClassOnlyNamed"]
    named = {"YOLO": "2 of 3 classes that are named here have no label: zebra, dog", "COCO": "1 of 2"}
    assert message.startswith(named[format])
    declared = check(tmp_path / "s", format, classes=["cat"])
    assert "ClassOnlyNamed" not in {str(tally.kind) for tally in declared.findings}


def test_classes_left_out_on_purpose_are_no_fault(tmp_path: Path) -> None:
    root = write(tmp_path / "s", voc([["cat"]] * 18 + [["cat", "horse"]] * 2))
    assert serious(check(root, "PascalVOC", classes=["cat"])) == {}
    assert serious(check(root, "PascalVOC", classMap={"horse": ""})) == {}


def test_boxes_that_are_all_wrong_are_named_as_the_cause(tmp_path: Path) -> None:
    files = coco([["cat"]] * COUNT)
    files["a.json"] = str(files["a.json"]).replace("[10, 10, 15, 50]", "[0.1, 0.1, 0.15, 0.5]")
    words = refusal(check(write(tmp_path / "s", files), "COCO"))
    assert "nothing to learn: s: a.json:1: the cat box 0.1, 0.1, 0.25, 0.6 is less than 2 pixels" in words
    assert words.endswith("(Draw the box anew, or remove it.)")


# --- Classification ---


def test_one_class(tmp_path: Path) -> None:
    root = write(tmp_path / "s", {f"cats/{number}.jpg": "" for number in range(COUNT)})
    assert serious(check(root, "ImageFolder", "Classification")) == {
        "SingleClass": ["all 20 images are of the class cats"]
    }


def test_classes_that_differ_in_case_only(tmp_path: Path) -> None:
    root = write(
        tmp_path / "s", {f"{name}/{name}{number}.jpg": "" for number in range(9) for name in ("Cat", "cat", "dog")}
    )
    result = check(root, "ImageFolder", "Classification")
    (one,) = [each for tally in result.findings for each in tally.examples if tally.kind == "ClassesAlike"]
    assert one.message == "the classes Cat and cat differ in upper and lower case only"
    assert one.advice == "If they are one, set classMap: {Cat: cat}"


def test_one_class_that_others_are_mapped_to(tmp_path: Path) -> None:
    root = write(tmp_path / "s", {f"{name}/{number}.jpg": "" for number in range(COUNT) for name in ("cat", "kitten")})
    assert "SingleClass" in serious(check(root, "ImageFolder", "Classification", classMap={"kitten": "cat"}))


def test_folders_that_classes_do_not_have(tmp_path: Path) -> None:
    root = write(tmp_path / "s", {f"{name}/{number}.jpg": "" for number in range(COUNT) for name in ("cats", "dogs")})
    words = refusal(check(root, "ImageFolder", "Classification", classes=["cat", "dog"]))
    assert "did you mean [cats, dogs]?" in words


# --- Masks ---


def masks(root: Path, values: Sequence[int], names: tuple[str, str] = ("images", "masks")) -> Path:
    """Masks that are half of each value, beside images of noise."""
    write(root, {f"{names[0]}/{number}.png": "" for number in range(COUNT)})
    for number in range(COUNT):
        mask = np.full((100, 100), values[0], np.uint8)
        for at, value in enumerate(values[1:], 1):
            mask[:, 100 * at // len(values) + number :] = value
        (root / names[1]).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / names[1] / f"{number}.png"), mask)
    return root


SEGMENTATION = "SemanticSegmentation"


def test_masks_of_0_and_255(tmp_path: Path) -> None:
    root = masks(tmp_path / "s", [0, 255])
    words = refusal(check(root, "Masks", SEGMENTATION, classes=["background", "cat"]))
    assert "all labelled pixels are of the class background" in words
    assert "maskValues, such as {background: 0, cat: 255}" in words
    values = {"background": 0, "cat": 255}
    assert serious(check(root, "Masks", SEGMENTATION, values, classes=["background", "cat"])) == {}


def test_masks_of_one_class_beside_ignore(tmp_path: Path) -> None:
    """[cat] and 0/255: the cat would be the background."""
    root = masks(tmp_path / "s", [0, 255])
    assert "so there is nothing to tell apart" in refusal(check(root, "Masks", SEGMENTATION, classes=["cat"]))


def test_masks_of_many_classes_where_the_last_is_255(tmp_path: Path) -> None:
    root = masks(tmp_path / "s", [0, 1, 255])
    found = serious(check(root, "Masks", SEGMENTATION, classes=["background", "cat", "dog"]))
    (message,) = found["ClassWithoutImages"]
    assert message.startswith("no image shows the class dog, and ")
    assert "'ignore' (255)" in message


def test_a_class_of_mask_values_that_no_pixel_has_keeps_its_index(tmp_path: Path) -> None:
    result = check(masks(tmp_path / "s", [0, 2]), "Masks", SEGMENTATION, {"background": 0, "cat": 1, "dog": 2})
    assert result.summary is not None
    assert [(each.name, each.images) for each in result.summary.classes] == [
        ("background", 20),
        ("cat", 0),
        ("dog", 20),
    ]
    assert serious(result) == {"ClassWithoutImages": ["no image shows the class cat"]}


def test_sources_whose_masks_mean_different_classes_are_refused(tmp_path: Path) -> None:
    sources = [
        {"name": name, "uri": f"file://{masks(tmp_path / name, [0, 1])}", "format": "Masks", "maskValues": values}
        for name, values in (("a", {"background": 0, "cat": 1}), ("b", {"background": 0, "bird": 1}))
    ]
    recipe = Recipe.model_validate({"task": SEGMENTATION, "sources": sources})
    words = refusal(check_dataset(recipe, work_dir=tmp_path / "work"))
    assert words.startswith("spec.classes: the sources have different classes: background, bird, cat")


def test_one_value_for_two_classes(tmp_path: Path) -> None:
    root, names = masks(tmp_path / "s", [0, 1]), ["background", "cat", "dog"]
    values = {"background": 0, "cat": 1, "dog": 1}
    with pytest.raises(InvalidInput, match="the classes cat and dog both have the pixel value 1"):
        check(root, "Masks", SEGMENTATION, values, classes=names)
    merged = check(root, "Masks", SEGMENTATION, values, classes=names[:2], classMap={"dog": "cat"})
    assert serious(merged) == {}


def test_ignore_beside_real_classes_is_no_fault(tmp_path: Path) -> None:
    root = masks(tmp_path / "s", [0, 1, 255])
    assert serious(check(root, "Masks", SEGMENTATION, classes=["background", "cat"])) == {}


# --- Splits ---


def test_from_source_without_a_split_is_refused(tmp_path: Path) -> None:
    for format, files in DETECTION.items():
        root = write(tmp_path / format / "s", files([["cat"]] * 5))
        words = refusal(check(root, format, splits={"method": "FromSource"}))
        assert words.startswith("spec.splits.method: no source says which split an image belongs to")


def test_from_source_without_train_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "s", {f"{split}/{path}": content for split, start in (("valid", 0), ("test", 5))
                                  for path, content in voc([["cat"]] * 5, start).items()})  # fmt: skip
    words = refusal(check(root, "PascalVOC", splits={"method": "FromSource"}))
    assert words.startswith("spec.splits.method: all 10 images are in test, validation, and none is in train")


def test_images_that_the_source_puts_in_no_split(tmp_path: Path) -> None:
    labels = voc([["cat"]] * 2)
    root = write(tmp_path / "s", {f"train/{path}": content for path, content in labels.items()} | {
        f"more/x{path}": content for path, content in labels.items()
    })  # fmt: skip
    result = check(root, "PascalVOC", splits={"method": "FromSource"})
    assert [one.message for tally in result.findings for one in tally.examples if tally.kind == "SplitNotGiven"] == [
        "2 of 4 images are in no split, such as more/x0.jpg"
    ]


@pytest.mark.parametrize("format", DETECTION)
def test_a_test_folder_without_labels(format: str, tmp_path: Path) -> None:
    if format == "COCO":
        content = [("instances_train.json", [["cat"]] * 5), ("instances_val.json", [["cat"]] * 5),
                   ("instances_test.json", [[]] * 5)]  # fmt: skip
        files: dict[str, str | bytes] = {}
        for name, labels in content:
            made = DETECTION[format](labels)
            folder = name.partition("_")[2].removesuffix(".json")
            text = str(made.pop("a.json")).replace('"file_name": "', f'"file_name": "{folder}/')
            files |= {f"annotations/{name}": text, **{f"{folder}/{path}": each for path, each in made.items()}}
    else:
        files = {
            f"{split}/{path}" if path != "data.yaml" else path: each
            for split, start in (("train", 0), ("valid", 5), ("test", 10))
            for path, each in DETECTION[format]([["cat"]] * 5, start).items()
            if split != "test" or not path.endswith((".xml", ".txt"))
        }
    result = check(write(tmp_path / "s", files), format, splits={"method": "FromSource"})
    assert result.summary is not None
    assert result.summary.splits == {"train": 5, "validation": 5}
    kinds = {str(tally.kind): tally.count for tally in result.findings}
    assert (kinds["Unlabelled"], kinds["EmptySplit"]) == (5, 1)


def test_validation_is_carved_out_of_train(tmp_path: Path) -> None:
    files = {
        f"{split}/{path}": content
        for split, start, count in (("train", 0, 40), ("test", 40, 10))
        for path, content in voc([["cat"], ["dog"]] * (count // 2), start).items()
    }
    root = write(tmp_path / "s", files)
    bare = check(root, "PascalVOC", splits={"method": "FromSource"})
    assert "set splits.validationFromTrain" in "".join(
        one.advice for tally in bare.findings for one in tally.examples if tally.kind == "EmptySplit"
    )
    carved = check(root, "PascalVOC", splits={"method": "FromSource", "validationFromTrain": 0.25})
    assert carved.summary is not None
    assert carved.summary.splits == {"train": 30, "validation": 10, "test": 10}
    assert serious(carved) == {}


def test_similar_names() -> None:
    names = {"circle": 75, "square": 3, "traffic light": 1}
    assert similar("circel", names) == "circle"
    assert similar("Squares", names) == "square"
    assert similar("traffic_light", names) == "traffic light"
    assert similar("zebra", names) is None
