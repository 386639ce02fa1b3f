from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from dataset_support import BCCD
from fovea_api.errors import InvalidInput
from fovea_trainer.data.checks import check_boxes, inspect_image
from fovea_trainer.data.findings import FindingKind
from fovea_trainer.data.records import Box
from PIL import Image

FILES = sorted((BCCD / "JPEGImages").glob("*.jpg"))[:60]


def encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
    return bytes(cv2.imencode(suffix, image, options)[1].tobytes())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_size_and_fingerprint(orientation: int) -> None:
    image = Image.open(FILES[0])
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif, quality=95)
    seen = inspect_image(buffer.getvalue(), "x")
    assert seen.orientation == orientation
    assert (seen.width, seen.height) == ((480, 640) if orientation >= 5 else (640, 480))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "1", "LA", "I;16"])
def test_all_usual_kinds_of_pixels_are_read(mode: str) -> None:
    image = Image.open(FILES[0]).convert("L")
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    assert inspect_image(buffer.getvalue(), "x").width == 640


def test_boxes() -> None:
    boxes = [
        Box("a", 10, 10, 30, 30, place="right"),
        Box("a", 10, 10, 30, 30, place="again"),
        Box("b", 10, 10, 30, 30, place="other class"),
        Box("a", 10, 10, 11, 30, place="thin"),
        Box("a", -0.5, 10, 20, 30, place="rounding"),
        Box("a", 90, 40, 120, 60, place="across"),
        Box("a", 101, 0, 130, 30, place="outside"),
        Box("a", float("nan"), 0, 9, 9, place="NaN"),
        Box("a", 30, 30, 10, 10, place="swapped"),
    ]
    good, problems = check_boxes(boxes, 100, 50)
    assert [box.place for box in good] == ["right", "other class", "rounding", "across"]
    assert good[3].corners == (90, 40, 100, 50)
    assert {problem.place: problem.kind for problem in problems} == {
        "again": FindingKind.DUPLICATE_BOX,
        "thin": FindingKind.DEGENERATE_BOX,
        "across": FindingKind.CLIPPED_BOX,
        "outside": FindingKind.OUTSIDE_BOX,
        "NaN": FindingKind.INVALID_LABEL,
        "swapped": FindingKind.DEGENERATE_BOX,
    }


def test_files_named_as_images_are_not_trusted() -> None:
    buffer = io.BytesIO()
    Image.open(FILES[0]).save(buffer, "PCX")
    with pytest.raises(InvalidInput, match=r"a\.jpg: the file is no image of a known format"):
        inspect_image(buffer.getvalue(), "a.jpg")
