"""Labels of pictures that EXIF turns, against Pillow's own turning."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dataset_support import read_source, write
from fovea_api.common import Task
from fovea_api.dataset import Format
from fovea_serving.pipeline.run_lengths import decode, run_lengths
from fovea_store import StorePath
from fovea_trainer.data.formats import Tree
from fovea_trainer.data.orientation import TRANSPOSED, turn_pixels
from fovea_trainer.data.read import class_mask
from numpy.typing import NDArray
from PIL import Image, ImageOps

RASTER = (60, 40)
"""Width and height of the files."""
BOX = (5, 10, 25, 18)


def picture(orientation: int, suffix: str = "JPEG") -> bytes:
    """A black picture whose box of the raster is white."""
    pixels = np.zeros((RASTER[1], RASTER[0], 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, suffix, exif=exif)
    return buffer.getvalue()


def white(data: bytes) -> tuple[int, int, int, int]:
    """Where the displayed picture is white."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    ys, xs = np.nonzero(np.asarray(image.convert("L")) > 127)
    return (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)


def voc(size: tuple[int, int] | None, box: tuple[int, int, int, int]) -> str:
    sides = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    names = ("xmin", "ymin", "xmax", "ymax")
    corners = "".join(f"<{name}>{side}</{name}>" for name, side in zip(names, box, strict=True))
    return f"<annotation>{sides}<object><name>a</name><bndbox>{corners}</bndbox></object></annotation>"


def coco(size: tuple[int, int] | None, box: tuple[int, int, int, int]) -> str:
    width, height = size or ("null", "null")
    x1, y1, x2, y2 = box
    return (
        f'{{"images": [{{"id": 1, "file_name": "a.jpg", "width": {width}, "height": {height}}}], "annotations": '
        f'[{{"image_id": 1, "category_id": 1, "bbox": [{x1}, {y1}, {x2 - x1}, {y2 - y1}]}}], '
        '"categories": [{"id": 1, "name": "a"}]}'
    )


FORMATS: dict[Format, tuple[str, Callable[..., str]]] = {
    Format.PASCAL_VOC: ("a.xml", voc),
    Format.COCO: ("a.json", coco),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", TRANSPOSED)
def test_boxes_of_the_raster_are_turned_where_the_size_says_so(
    format: Format, orientation: int, tmp_path: Path
) -> None:
    name, text = FORMATS[format]
    data = picture(orientation)
    found = read_source(format, write(tmp_path, {"a.jpg": data, name: text(RASTER, BOX)}))
    assert found.boxes == {"a.jpg": [("a", *white(data))]}
    assert [kind for kind, _ in found.findings] == ["TurnedLabels"]


@pytest.mark.parametrize("format", FORMATS)
def test_boxes_of_the_displayed_picture_are_kept(format: Format, tmp_path: Path) -> None:
    name, text = FORMATS[format]
    data = picture(6)
    found = read_source(format, write(tmp_path, {"a.jpg": data, name: text(RASTER[::-1], white(data))}))
    assert found.boxes == {"a.jpg": [("a", *white(data))]}
    assert found.findings == []


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("orientation", "size"), [(6, None), (3, RASTER)])
def test_a_doubt_about_the_turn_is_told(
    format: Format, orientation: int, size: tuple[int, int] | None, tmp_path: Path
) -> None:
    name, text = FORMATS[format]
    found = read_source(format, write(tmp_path, {"a.jpg": picture(orientation), name: text(size, BOX)}))
    assert [kind for kind, _ in found.findings] == ["TurnedImage"]


@pytest.mark.parametrize("orientation", TRANSPOSED)
def test_masks_are_turned_as_pillow_turns_pictures(orientation: int, tmp_path: Path) -> None:
    raster = np.random.default_rng(0).integers(0, 2, RASTER[::-1], np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(raster).save(buffer, "PNG")
    write(tmp_path, {"images/a.jpg": picture(orientation), "masks/a.png": buffer.getvalue()})
    found = read_source(Format.MASKS, tmp_path, Task.SEMANTIC_SEGMENTATION, classes=("x", "y"))
    content = found.images["images/a.jpg"].content
    mask = class_mask(Tree.of(StorePath.parse(str(tmp_path))), content, ("x", "y"), *RASTER[::-1])
    assert (mask == displayed(raster, orientation)).all()
    assert (mask == turn_pixels(raster, orientation)).all()


@pytest.mark.parametrize("task", [Task.INSTANCE_SEGMENTATION, Task.SEMANTIC_SEGMENTATION])
@pytest.mark.parametrize("orientation", TRANSPOSED)
def test_run_lengths_of_the_raster_are_turned_where_the_size_says_so(
    orientation: int, task: Task, tmp_path: Path
) -> None:
    raster = np.zeros(RASTER[::-1], np.uint8)
    raster[BOX[1] : BOX[3], BOX[0] : BOX[2]] = raster[3:6, 40:50] = 1  # no box, so that each turn is another
    written = json.loads(coco(RASTER, BOX))
    written["annotations"][0]["segmentation"] = run_lengths(raster.astype(bool))
    write(tmp_path, {"a.jpg": picture(orientation), "a.json": json.dumps(written)})
    found = read_source(Format.COCO, tmp_path, task, classes=("background", "a"))
    content = found.images["a.jpg"].content
    if task == Task.INSTANCE_SEGMENTATION:
        mask = decode(content.masks[0].encode(), *RASTER[::-1])
    else:
        mask = class_mask(Tree.of(StorePath.parse(str(tmp_path))), content, ("background", "a"), *RASTER[::-1]) == 1
    assert (mask == displayed(raster, orientation)).all()
    assert [kind for kind, _ in found.findings] == ["TurnedLabels"]


def displayed(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    return np.asarray(ImageOps.exif_transpose(Image.open(buffer)))
