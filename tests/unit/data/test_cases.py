"""The inputs under cases/: what a build of each manifest makes, finds, or refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fovea_trainer.local import check_manifest

CASES = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Expected:
    """What must come out of a case."""

    splits: Mapping[str, int] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)
    """Annotations by class."""
    findings: Mapping[str, int] = field(default_factory=dict)
    """How often each kind of finding."""
    refused: str = ""
    """A part of the words in which the build is refused."""


TENS = {"train": 8, "validation": 1, "test": 1}
EXPECTED = {
    "01-coco-backslash": Expected(splits=TENS, classes={"cat": 10, "dog": 10}),
    "03-coco-string-ids": Expected(splits=TENS, classes={"cat": 10, "dog": 10}),
    "05-coco-same-file-twice": Expected(
        splits={"train": 6, "validation": 1, "test": 1}, classes={"cat": 8, "dog": 8}, findings={"ListedTwice": 1}
    ),
    "06-coco-two-files-same-images": Expected(
        splits=TENS, classes={"cat": 10, "dog": 10}, findings={"ClassOnlyNamed": 1}
    ),
    "08-coco-semseg-mixed": Expected(
        splits=TENS, classes={"background": 0, "cat": 8, "dog": 8}, findings={"IgnoredRegion": 4}
    ),
    "10-yolo-labels-elsewhere": Expected(
        findings={"UnusedFiles": 1, "NoLabelFile": 10, "SplitConflict": 10},
        refused="none of 10 images shows an object, so there is nothing to learn: "
        "src: train/label: 10 files not used: label files of no image: 10 (train/label/a0.txt",
    ),
    "12-yolo-label-of-full-name": Expected(
        splits={"train": 8, "validation": 1, "test": 1},
        classes={"cat": 10, "dog": 10},
        findings={"UnusedFiles": 1, "SplitConflict": 10},
    ),
    "13-yolo-split-lists": Expected(
        splits={"train": 6, "validation": 3, "test": 3}, classes={"cat": 12, "dog": 12}
    ),
    "16-yolo-pose-labels": Expected(splits=TENS, classes={"cat": 10, "dog": 10}),
    "18-yolo-class-beyond-names": Expected(
        splits=TENS, classes={"cat": 9, "dog": 9}, findings={"UnknownClass": 1}
    ),
    "23-voc-encodings": Expected(splits={"train": 6, "validation": 1, "test": 1}, classes={"cat": 8, "dog": 8}),
    "27-voc-roboflow-folders": Expected(
        splits={"train": 8, "validation": 2, "test": 2}, classes={"cat": 12, "dog": 12}
    ),
    "29-voc-same-names": Expected(
        splits={"train": 16, "validation": 2, "test": 2}, classes={"cat": 20, "dog": 20}
    ),
    "31-imagefolder-unlabelled-test": Expected(
        splits={"train": 20}, classes={"cats": 10, "dogs": 10}, findings={"Unlabelled": 6, "EmptySplit": 2}
    ),
    "32-imagefolder-files": Expected(  # 27.heic holds no image
        splits={"train": 17, "validation": 2, "test": 2},
        classes={"cats": 10, "dogs": 11},
        findings={"CorruptImage": 1},
    ),
    "33-unicode-names": Expected(splits=TENS, classes={"cat": 10, "dog": 10}),
    "33-unicode-names/manifest2.yaml": Expected(
        splits={"train": 10, "validation": 1, "test": 1}, classes={"Café": 8, "thé noir": 4}
    ),
    "34-masks-0-255": Expected(
        findings={}, refused="give the source maskValues, such as {background: 0, cat: 255}"
    ),
    "39-exif-unrotated-labels": Expected(
        splits=TENS, classes={"cat": 10, "dog": 10}, findings={"TurnedLabels": 8}
    ),
    "44a-path": Expected(splits=TENS, classes={"cats": 5, "dogs": 5}),
    "51-train-no-objects": Expected(
        findings={"NoLabelFile": 20},
        refused="none of 20 images shows an object, so there is nothing to learn: src: images/a0.jpg: "
        "the image has no label file",
    ),
    "55-train-single-class": Expected(
        splits={"train": 16, "validation": 2, "test": 2}, classes={"cats": 20}, findings={"SingleClass": 1}
    ),
    "63-yolo-several-yamls": Expected(
        splits={"train": 10, "validation": 1, "test": 1}, classes={"cat": 12, "dog": 12}
    ),
    "67-classes-typo": Expected(findings={"UnknownClass": 20}, refused="did you mean [cat, dog]?"),
    "69-long-class-name": Expected(splits=TENS, classes={"cat": 10}, findings={"UnknownClass": 10}),
    "71-labelme-image-data-alone": Expected(
        splits=TENS, classes={"cat": 10, "dog": 10}, findings={"MissingImage": 1}
    ),
    "72-createml-roboflow": Expected(
        splits={"train": 8, "validation": 2, "test": 2}, classes={"cat": 6, "dog": 6}
    ),
    "73-csv-vertex": Expected(
        splits={"train": 9, "validation": 2, "test": 2},
        classes={"cat": 12, "dog": 12},
        findings={"MissingImage": 1},
    ),
    "74-csv-one-hot-ids": Expected(
        splits={"train": 10, "validation": 1, "test": 1},
        classes={"BCC": 4, "MEL": 4, "NV": 4},
        findings={"ClassOnlyNamed": 1, "OtherFiles": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", EXPECTED)
def test_case(case: str) -> None:
    _, result = check_manifest(CASES / case if case.endswith(".yaml") else CASES / case / "manifest.yaml")
    expected, summary = EXPECTED[case], result.summary
    assert expected.refused in str(result.refusal or "")
    assert (result.refusal is not None) == bool(expected.refused)
    assert {str(tally.kind): tally.count for tally in result.findings} == expected.findings
    if summary is not None:
        assert summary.splits == expected.splits
        assert {each.name: each.annotations for each in summary.classes} == expected.classes


def test_pictures_of_a_fixed_camera() -> None:
    """All images may look alike: then either every split gets some, or what is empty is serious, with what to set."""
    _, result = check_manifest(CASES / "65-fixed-camera-ratio/manifest.yaml")
    assert result.refusal is None
    assert result.summary is not None
    assert result.summary.images == 40
    empty = {"train", "validation", "test"} - result.summary.splits.keys()
    found = {one.place for tally in result.findings for one in tally.examples if tally.kind == "EmptySplit"}
    assert found == empty
