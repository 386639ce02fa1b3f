"""Masks as public sets have them: pairs by folder and by pattern, values and colours."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from dataset_support import SourceRead, draw, read_source
from fovea_api.common import Task
from fovea_api.dataset import Format, Source
from fovea_api.errors import InvalidInput
from fovea_store import StorePath
from fovea_trainer.data.formats import Tree
from fovea_trainer.data.read import class_mask
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

CLASSES = ("ground", "cat")
CHESS = np.indices((20, 20)).sum(0).astype(np.uint8) % 2


def saved(file: Path, pixels: NDArray[np.uint8], palette: list[int] | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette is not None:
        image = image.convert("P")
        image.putpalette(palette)
    image.save(file)


def pairs(root: Path, *files: str, mask: NDArray[np.uint8] = CHESS) -> Path:
    """Images, and masks where the name starts with a plus sign."""
    for number, file in enumerate(files):
        if file.startswith("+"):
            saved(root / file[1:], mask)
        else:
            draw(root / file, 20, 20, number)
    return root


def read(root: Path, **options: object) -> SourceRead:
    return read_source(Format.MASKS, root, Task.SEMANTIC_SEGMENTATION, **{"classes": CLASSES, **options})


def mask_paths(found: SourceRead) -> dict[str, str]:
    return {name: image.content.mask.path for name, image in found.images.items() if image.content.mask}


SETS = {
    "Cityscapes": (
        ("leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", "gtFine/{split}/{city}/{name}_gtFine_labelIds.png"),
        ("leftImg8bit/train/bonn/b_1_leftImg8bit.png", "leftImg8bit/val/ulm/u_1_leftImg8bit.png"),
        ("gtFine/train/bonn/b_1_gtFine_labelIds.png", "gtFine/val/ulm/u_1_gtFine_labelIds.png"),
        ("gtFine/train/bonn/b_1_gtFine_color.png",),
        ("train", "validation"),
    ),
    "ADE20K": (
        None,
        ("images/training/ADE_1.jpg", "images/validation/ADE_2.jpg"),
        ("annotations/training/ADE_1.png", "annotations/validation/ADE_2.png"),
        (),
        ("train", "validation"),
    ),
    "CamVid of fastai": (
        ("images/{name}.png", "labels/{name}_P.png"),
        ("images/0001TP_006690.png", "images/0001TP_006720.png"),
        ("labels/0001TP_006690_P.png", "labels/0001TP_006720_P.png"),
        (),
        (None, None),
    ),
    "CamVid's own": (
        ("{name}.png", "{name}_L.png"), ("a.png", "b.png"), ("a_L.png", "b_L.png"), (), (None, None),
    ),
    "CamVid of SegNet": (
        ("{split}/{name}.png", "{split}annot/{name}.png"),
        ("train/a.png", "test/a.png"), ("trainannot/a.png", "testannot/a.png"), (), ("train", "test"),
    ),
    "any folders": (
        ("img/**/{name}.jpg", "gt/**/{name}.png"), ("img/a/b/1.jpg", "img/1.jpg"), ("gt/a/b/1.png", "gt/1.png"),
        (), (None, None),
    ),
    "what is no part of the name": (
        ("{name}_rgb_*.png", "{name}_seg_*.png"), ("1_rgb_x.png", "2_rgb_y.png"), ("1_seg_p.png", "2_seg_q.png"),
        (), (None, None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SETS)
def test_pairs_of_public_sets(case: str, tmp_path: Path) -> None:
    patterns, images, masks, others, splits = SETS[case]
    pairs(tmp_path, *images, *(f"+{mask}" for mask in (*masks, *others)))
    options = dict(zip(("image_pattern", "mask_pattern"), patterns, strict=True)) if patterns else {}
    found = read(tmp_path, **options)
    assert mask_paths(found) == dict(zip(images, masks, strict=True))
    assert found.splits == dict(zip(images, splits, strict=True))
    assert found.findings == []


def test_patterns_that_fit_nothing_are_refused_with_a_path_that_is_there(tmp_path: Path) -> None:
    pairs(tmp_path, "x/a.png", "+y/a.png")
    with pytest.raises(InvalidInput, match=r"a path there is x/a\.png"):
        read(tmp_path, image_pattern="images/{name}.png", mask_pattern="masks/{name}.png")


# --- One bad entry ---


def test_a_preview_beside_a_mask_is_no_mask(tmp_path: Path) -> None:
    pairs(tmp_path, "images/a.jpg", "+masks/a.png", "masks/a.jpg")
    assert mask_paths(read(tmp_path)) == {"images/a.jpg": "masks/a.png"}


@pytest.mark.parametrize("second", ["images/a.png", "+masks/a.bmp"])
def test_two_files_of_one_name_cost_their_image_and_are_named(second: str, tmp_path: Path) -> None:
    pairs(tmp_path, "images/a.jpg", "+masks/a.png", second, "images/b.jpg", "+masks/b.png")
    found = read(tmp_path)
    assert mask_paths(found) == {"images/b.jpg": "masks/b.png"}
    (finding,) = found.source_findings
    assert second.lstrip("+") in finding.message


def test_a_mask_without_image_and_an_image_without_mask_are_named(tmp_path: Path) -> None:
    found = read(pairs(tmp_path, "images/a.jpg", "+masks/b.png"))
    assert found.findings == [("MissingImage", "masks/b.png"), ("Unlabelled", "images/a.jpg")]


def test_letters_composed_and_not(tmp_path: Path) -> None:
    found = read(pairs(tmp_path, "images/u\u0308.jpg", "+masks/\u00fc.png"))
    assert mask_paths(found) == {"images/u\u0308.jpg": "masks/\u00fc.png"}


# --- Colours ---

COLORS = {"ground": "#000000", "cat": "#80FF01"}
PAINTED = np.where(CHESS[..., None] == 1, np.array([0x80, 0xFF, 0x01], np.uint8), np.uint8(0)).astype(np.uint8)


def drawn(root: Path, **options: object) -> tuple[NDArray[np.uint8], list[str]]:
    found = read(root, **options)
    (name,) = found.images
    tree = Tree.of(StorePath.parse(str(root)))
    return class_mask(tree, found.images[name].content, CLASSES, 20, 20), [kind for kind, _ in found.findings]


def test_colours_are_classes(tmp_path: Path) -> None:
    mask, kinds = drawn(pairs(tmp_path, "images/a.jpg", "+masks/a.png", mask=PAINTED), mask_colors=COLORS)
    assert (mask == CHESS).all()
    assert kinds == []


def test_a_palette_counts_by_its_colours_where_colours_are_given(tmp_path: Path) -> None:
    pairs(tmp_path, "images/a.jpg")
    saved(tmp_path / "masks/a.png", CHESS * 7, [0, 0, 0] * 7 + [0x80, 0xFF, 0x01])
    mask, kinds = drawn(tmp_path, mask_colors=COLORS)
    assert ((mask == CHESS).all(), kinds) == (True, [])


def test_pixels_of_other_colours_are_ignored_and_counted(tmp_path: Path) -> None:
    painted = PAINTED.copy()
    painted[0, :5] = 1, 2, 3
    pairs(tmp_path, "images/a.jpg", "+masks/a.png", mask=painted)
    mask, kinds = drawn(tmp_path, mask_colors=COLORS)
    assert kinds == ["UnknownClass"]
    assert ((mask == 255).sum(), (mask[1:] == CHESS[1:]).all()) == (5, True)


def test_colours_dropped_and_merged_by_the_class_map(tmp_path: Path) -> None:
    pairs(tmp_path, "images/a.jpg", "+masks/a.png", mask=PAINTED)
    colors = {"void": "#000000", "kitten": "#80ff01"}
    mask, _ = drawn(tmp_path, mask_colors=colors, class_map={"void": "", "kitten": "cat"})
    assert set(np.unique(mask)) == {1, 255}


def test_two_classes_of_one_colour_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a and b have one colour"):
        read(pairs(tmp_path, "images/a.jpg", "+masks/a.png"), classes=(), mask_colors={"a": "#000001", "b": "#000001"})


# --- The API ---

FIELDS = {"name": "s", "uri": "pvc://a/b", "format": "Masks"}
REFUSED = {
    "one pattern": {"imagePattern": "i/{name}.png"},
    "no placeholder": {"imagePattern": "i/a.png", "maskPattern": "m/a.png"},
    "other placeholders": {"imagePattern": "i/{name}.png", "maskPattern": "m/{id}.png"},
    "another format": {"imagePattern": "i/{name}.png", "maskPattern": "m/{name}.png", "format": "COCO"},
    "a colour's name": {"maskColors": {"a": "red"}},
    "values and colours": {"maskColors": {"a": "#ff0000"}, "maskValues": {"a": 1}},
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_api_refuses(case: str) -> None:
    with pytest.raises(ValidationError):
        Source.model_validate({**FIELDS, **REFUSED[case]})


def test_a_mask_of_any_kind_of_file(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(CHESS).save(buffer, "TIFF")
    pairs(tmp_path, "images/a.jpg")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/a.tif").write_bytes(buffer.getvalue())
    mask, kinds = drawn(tmp_path)
    assert ((mask == CHESS).all(), kinds) == (True, [])
