"""Predicts images with the model beside this file: python predict.py IMAGE...

It needs numpy, onnxruntime and Pillow, and prints a line of JSON for each image. It is a reference to port from, too:
model.json has all numbers, and this file each step with them.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image, ImageOps

Array = NDArray[Any]
FOLDER = Path(__file__).resolve().parent
MODEL = json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))
INPUT, LIMITS = MODEL["preprocessing"], MODEL["postprocessing"]
CLASSES = (FOLDER / "labels.txt").read_text(encoding="utf-8").splitlines()
WIDTH, HEIGHT = INPUT["size"]["width"], INPUT["size"]["height"]
ONE_OBJECT_IOU = 0.6  # boxes of different classes that overlap by more are of one object: the best is reported


def between(points: Array, count: int) -> Array:
    """[points, count]: the share of each of `count` values at 0, 1, … in the value at a point; none far beyond them."""
    near: Array = 1 - np.abs(points[:, None] - np.arange(count))
    return near.clip(0)


def weights(source: int, target: int, smooth: bool) -> Array:
    """[target, source]: the share of each source pixel in each target pixel; by area, or between the two nearest."""
    if smooth:
        return between(np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1), source)
    edges, pixels = np.arange(target + 1) * source / target, np.arange(source)
    common: Array = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return common.clip(0) * target / source


def resize(values: Array, width: int, height: int, smooth: bool) -> Array:
    """[h, w, C] to [height, width, C]."""
    rows, columns = weights(values.shape[0], height, smooth), weights(values.shape[1], width, smooth)
    resized: Array = np.einsum("yh,hwc,xw->yxc", rows, values, columns, optimize=True)
    return resized


def prepare(image: Array) -> tuple[Array, Array, Array]:
    """The network's input [1, 3, HEIGHT, WIDTH] of RGB [h, w, 3]; scale and offset that lead to it."""
    height, width = image.shape[:2]
    across, down = WIDTH / width, HEIGHT / height
    if INPUT["resize"] == "Letterbox":
        across = down = min(across, down)
    elif INPUT["resize"] == "CenterCrop":
        across = down = max(across, down)
    size = max(1, round(width * across)), max(1, round(height * down))
    if size != (width, height):
        smooth = size[0] >= width and size[1] >= height
        image = np.rint(resize(image.astype(np.float64), size[0], size[1], smooth))
    left, top = (WIDTH - size[0]) // 2, (HEIGHT - size[1]) // 2
    image = image[max(0, -top) :, max(0, -left) :][:HEIGHT, :WIDTH]
    placed = np.full((HEIGHT, WIDTH, 3), float(INPUT["padValue"]))
    placed[max(0, top) :, max(0, left) :][: image.shape[0], : image.shape[1]] = image
    tensor = ((placed / 255 - INPUT["mean"]) / INPUT["std"]).astype(np.float32).transpose(2, 0, 1)[None]
    return tensor, np.array([size[0] / width, size[1] / height]), np.array([left, top])


def suppress(boxes: Array, scores: Array, iou: float) -> Array:
    """Indices of the boxes [N, 4] that stay, best first: none overlaps a better one by more."""
    kept, order = [], np.argsort(-scores, kind="stable")
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2])
        common = np.prod(np.maximum(0, sides), axis=1)
        order = order[common <= iou * (areas[best] + areas[order] - common)]
    return np.array(kept, int)


def classification(logits: Array, **_: Array) -> dict[str, Any]:
    powers = np.exp(logits[0] - logits[0].max())
    best = np.argsort(-powers, kind="stable")[: LIMITS["topK"]]
    return {"classes": [{"class": CLASSES[i], "score": round(float(powers[i] / powers.sum()), 6)} for i in best]}


def detection(
    boxes: Array, scores: Array, size: Array, scale: Array, offset: Array, masks: Array | None = None
) -> dict[str, Any]:
    whole = (boxes[0] - np.tile(offset, 2)) / np.tile(scale, 2)
    boxes = np.clip(whole, 0, np.tile(size, 2))
    limit = max(LIMITS["scoreThreshold"], LIMITS["confidenceThreshold"])
    rows, labels = np.nonzero((scores[0] >= limit) & np.all(boxes[:, 2:] > boxes[:, :2], axis=1, keepdims=True))
    boxes, values = boxes[rows], scores[0][rows, labels]
    kept = [np.zeros(0, int)]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        kept.append(members[suppress(boxes[members], values[members], LIMITS["nmsIou"])])
    index = np.concatenate(kept)
    index = index[np.argsort(-values[index], kind="stable")[: LIMITS["maxDetections"]]]
    index = index[suppress(boxes[index], values[index], ONE_OBJECT_IOU)]
    found = [(CLASSES[labels[i]], round(float(values[i]), 6), boxes[i].round(2).tolist()) for i in index]
    objects: list[dict[str, Any]] = [{"class": name, "score": score, "box": box} for name, score, box in found]
    if masks is not None:
        for one, row in zip(objects, rows[index], strict=True):
            one.update(pixels(masks[0][row], whole[row], size))
    return {"objects": objects}


def pixels(mask: Array, box: Array, size: Array) -> dict[str, Any]:
    """Those of an object, of which [M, M] are probabilities on a grid over its box: how many, and COCO's run lengths
    (not compressed: down the columns of the image, in turn of the rest and of the object)."""
    low, high = np.clip([np.floor(box[:2]), np.ceil(box[2:])], 0, size).astype(int)
    grid = [(np.arange(*ends) + 0.5 - box[axis]) / (box[axis + 2] - box[axis]) * len(mask) - 0.5
            for axis, ends in enumerate(zip(low, high, strict=True))]  # fmt: skip
    across, down = (between(points, len(mask)) for points in grid)
    inside = np.zeros(size, bool)  # [width, height]
    inside[low[0] : high[0], low[1] : high[1]] = across @ mask.T @ down.T >= 0.5
    starts = np.flatnonzero(np.diff(inside.ravel(), prepend=False))
    counts = np.diff(starts, prepend=0, append=inside.size)
    return {"pixels": int(inside.sum()), "mask": {"size": size[::-1].tolist(), "counts": counts.tolist()}}


def segmentation(logits: Array, size: Array, scale: Array, offset: Array) -> dict[str, Any]:
    (left, top), (width, height) = offset, size
    right, bottom = np.minimum((WIDTH, HEIGHT), np.round(offset + size * scale).astype(int))
    planes = logits[0][:, max(0, top) : bottom, max(0, left) : right].transpose(1, 2, 0)
    corners = np.clip((np.array([[0, 0], [WIDTH, HEIGHT]]) - offset) / scale, 0, size).round().astype(int)
    across, down = corners[1] - corners[0]  # what a crop cut off has no class
    smooth = resize(planes, across, down, True)
    counts = np.bincount(smooth.argmax(axis=2).ravel(), minlength=len(CLASSES))
    classes = [{"class": CLASSES[i], "pixels": int(counts[i])} for i in np.flatnonzero(counts)]
    return {"width": int(width), "height": int(height), "classes": classes}


DECODE: dict[str, Any] = {
    "Classification": classification,
    "Detection": detection,
    "SemanticSegmentation": segmentation,
    "InstanceSegmentation": detection,
}


def main() -> None:
    session = ort.InferenceSession(str(FOLDER / MODEL["file"]), providers=["CPUExecutionProvider"])
    for path in sys.argv[1:]:
        image = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        tensor, scale, offset = prepare(image)
        outputs = dict(zip(MODEL["outputs"], session.run(MODEL["outputs"], {"image": tensor}), strict=True))
        size = np.array([image.shape[1], image.shape[0]])
        print(json.dumps({"image": path, **DECODE[MODEL["task"]](**outputs, size=size, scale=scale, offset=offset)}))


if __name__ == "__main__":
    main()
