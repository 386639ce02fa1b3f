"""Objects with their pixels, from the network's outputs to JSON, against pycocotools, torchvision and detectron2."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faster_coco_eval import mask as coco_mask
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_serving.gateway.open_inference import Tensor
from fovea_serving.pipeline import InstanceSegmentation, Postprocess, Preprocess
from fovea_serving.pipeline.predictions.instance_segmentation import paste
from fovea_serving.pipeline.run_lengths import decode, decode_part, encode, pack, unpack
from fovea_serving.pipeline.tiles import tiles_of
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

CLASSES = ("cell", "wall")
RANDOM = np.random.default_rng(0)
SETTINGS = Postprocess(Task.INSTANCE_SEGMENTATION)


def blob(side: int = 28) -> np.ndarray:
    """A smooth mask of probabilities on a grid."""
    y, x = (np.mgrid[0:side, 0:side] + 0.5) / side - 0.5
    radius = 0.3 + 0.1 * np.cos(3 * np.arctan2(y, x) + RANDOM.uniform(0, 6))
    return (1 / (1 + np.exp(40 * (np.hypot(x, y) - radius)))).astype(np.float32)


def objects(*places: tuple[int, int, int, int], size: tuple[int, int] = (60, 40)) -> InstanceSegmentation:
    """Rectangles, the best first."""
    masks = [encode(np.ones((bottom - top, right - left), bool), left, top, *size)
             for left, top, right, bottom in places]  # fmt: skip
    scores = np.linspace(0.9, 0.5, len(places)).astype(np.float32)
    return InstanceSegmentation.of_masks(masks, np.arange(len(places)) % 2, scores, size)


def test_run_lengths_of_a_part_are_those_that_pycocotools_gives_the_whole() -> None:
    for _ in range(200):
        height, width = map(int, RANDOM.integers(1, 30, 2))
        rows, columns = int(RANDOM.integers(1, height + 1)), int(RANDOM.integers(1, width + 1))
        top, left = int(RANDOM.integers(height - rows + 1)), int(RANDOM.integers(width - columns + 1))
        part = RANDOM.random((rows, columns)) < RANDOM.choice([0, 0.1, 0.5, 0.9, 1])
        whole = np.zeros((height, width), bool)
        whole[top : top + rows, left : left + columns] = part
        counts = encode(part, left, top, width, height)
        assert counts == coco_mask.encode(np.asfortranarray(whole, np.uint8))["counts"]
        assert (decode(counts, width, height) == whole).all()
        assert (decode_part(counts, (left, top, left + columns, top + rows), height) == part).all()
        assert (decode_part(counts, (0, 0, width, height), height) == whole).all()
    assert unpack(pack([b"a", b"", b"bcd"])) == [b"a", b"", b"bcd"]
    assert pack([]).shape == (0, 0)


BOXES = [(10.3, 5.7, 48.9, 33.2), (-8.0, -4.5, 20.0, 30.0), (40.0, 20.0, 75.5, 52.0), (5.0, 5.0, 5.6, 5.4)]


@pytest.mark.parametrize("box", BOXES)
def test_a_mask_is_pasted_as_detectron2_does(box: tuple[float, ...]) -> None:
    """Its grid_sample in continuous coordinates; OpenCV interpolates in 32nds of a point."""
    mask, (width, height) = blob(), (60, 40)
    part, left, top = paste(mask, np.array(box, np.float32), width, height)
    pasted = np.zeros((height, width), bool)
    pasted[top : top + part.shape[0], left : left + part.shape[1]] = part
    x = (torch.arange(width) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y = (torch.arange(height) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
    expected = F.grid_sample(torch.from_numpy(mask)[None, None], grid, align_corners=False)[0, 0].numpy()
    sure = np.abs(expected - 0.5) > 0.05
    assert (pasted == (expected >= 0.5))[sure].all()
    assert (pasted != (expected >= 0.5)).sum() <= 4


def test_a_mask_covers_what_torchvision_gives_it() -> None:
    """torchvision moves the box to whole pixels, so that an edge may be off by one."""
    mask, box = blob(), np.array([40, 30, 180, 150], np.float32)
    part, left, top = paste(mask, box, 240, 200)
    pasted = np.zeros((200, 240), bool)
    pasted[top : top + part.shape[0], left : left + part.shape[1]] = part
    theirs = paste_masks_in_image(torch.from_numpy(mask)[None, None], torch.from_numpy(box)[None], (200, 240))
    expected = theirs[0, 0].numpy() >= 0.5
    assert (pasted & expected).sum() / (pasted | expected).sum() > 0.96


def test_outputs_become_objects_of_the_original_image() -> None:
    """Letterboxed from 120 x 80 to 64 x 64: a scale of 0.533 and 11 rows above. The second box is the first's copy."""
    preprocess = Preprocess(64, 64)
    geometry = preprocess.geometry(120, 80)
    boxes = geometry.to_input(np.array([[30, 20, 90, 60], [31, 20, 90, 60], [0, 0, 30, 30]], np.float32))
    scores = np.array([[0.1, 0.9], [0.0, 0.6], [0.7, 0.0]], np.float32)
    masks = np.ones((3, 28, 28), np.float32)
    outputs = {"boxes": boxes[None], "scores": scores[None], "masks": masks[None]}
    (found,) = SETTINGS(outputs, [geometry], confidence=0.3)
    assert isinstance(found, InstanceSegmentation)
    assert found.labels.tolist() == [1, 0]
    assert (found.width, found.height) == (120, 80)
    first, second = (decode(counts, 120, 80) for counts in unpack(found.masks))
    assert first[21:59, 31:89].all()
    assert first.sum() == pytest.approx(60 * 40, rel=0.03)
    assert second[:29, :29].all()


def test_the_json_form_comes_back_and_strangers_are_refused() -> None:
    found = objects((5, 5, 25, 20), (20, 10, 50, 35))
    content = found.to_dict(CLASSES, masks=True)
    again = InstanceSegmentation.from_dict(content, CLASSES, (60, 40))
    assert again.to_dict(CLASSES, masks=True) == content
    assert [part["pixels"] for part in content["objects"]] == [300, 750]  # type: ignore[index, call-overload, union-attr]
    assert "mask" not in found.to_dict(CLASSES)["objects"][0]  # type: ignore[index, operator]
    with pytest.raises(InvalidInput, match="height and width"):
        InstanceSegmentation.from_dict(content, CLASSES, (61, 40))
    empty = {"objects": [{"class": "cell", "mask": {"size": [40, 60], "counts": [2400]}}]}
    with pytest.raises(InvalidInput, match="no pixel"):
        InstanceSegmentation.from_dict(empty, CLASSES, (60, 40))


def test_two_objects_overlap_by_their_pixels() -> None:
    """Two triangles of one box: the boxes are equal, and no pixel is common."""
    low = np.tri(20, 20, -1, dtype=bool)
    one, other = (InstanceSegmentation.of_masks([encode(mask, 0, 0, 20, 20)], np.array([0]), np.ones(1, np.float32),
                                                (20, 20)) for mask in (low, ~low))  # fmt: skip
    assert one.overlap(other).tolist() == [[0.0]]
    assert one.agreement(other, np.arange(2)) == 0
    assert one.agreement(one, np.arange(2)) == 1


def test_tiles_are_put_together() -> None:
    """An object is whole in the left tile and cut in the right one; another is in the right one alone."""
    tiles = tiles_of(100, 60, 60)
    whole = [(20, 10, 55, 30), (70, 20, 90, 50)]
    parts = []
    for tile in tiles:
        inside = [(max(left, tile.left) - tile.left, top, min(right, tile.right) - tile.left, bottom)
                  for left, top, right, bottom in whole if right > tile.left and left < tile.right]  # fmt: skip
        parts.append((objects(*inside, size=(60, 60)), tile))
    merged = InstanceSegmentation.merge(parts, SETTINGS)
    assert sorted(merged.boxes.tolist()) == [list(map(float, box)) for box in whole]
    assert merged.masks.shape[0] == 2
    assert decode(unpack(merged.masks)[0], 100, 60).sum() == 35 * 20


def test_the_protocols_arrays_hold_the_run_lengths_of_each_image() -> None:
    arrays = InstanceSegmentation.stack([objects((5, 5, 25, 20), (20, 10, 50, 35)), objects(size=(30, 20))])
    assert arrays["num_detections"].tolist() == [2, 0]
    assert arrays["image_size"].tolist() == [[40, 60], [20, 30]]
    assert decode(arrays["masks"][0, 1], 60, 40).sum() == 750
    assert Tensor("masks", arrays["masks"]).datatype == InstanceSegmentation.tensors["masks"][0]
    assert Tensor("masks", arrays["masks"]).to_bytes().count(b"\0\0\0\0") == 2


def test_objects_are_tinted_and_outlined() -> None:
    drawn = objects((5, 5, 25, 20)).draw(np.full((40, 60, 3), 200, np.uint8), CLASSES)
    assert not (drawn[18, 12] == 200).all()
    assert (drawn[30:, 30:] == 200).all()
