"""Measures an exported detector with nothing of Fovea: plain onnxruntime, Pillow, numpy, pycocotools-like arithmetic.

    python tests/independent_check.py detection <bundle> <VOC folder> <names of the images, one a line>
    python tests/independent_check.py classification <bundle> <t10k images .gz> <t10k labels .gz>
    python tests/independent_check.py segmentation <bundle> <images folder> <labels folder> <names, one a line>

Prints one line of JSON with the figure; the boundary value itself is checked by whoever calls.
"""

from __future__ import annotations

import gzip
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import onnxruntime
import yaml
from PIL import Image


def load(bundle: Path) -> tuple[onnxruntime.InferenceSession, dict]:
    manifest = yaml.safe_load((bundle / "bundle.yaml").read_text())
    return onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"]), manifest


def fit(image: Image.Image, manifest: dict) -> tuple[np.ndarray, float, float, float]:
    """Letterboxed (or stretched) and normalized; the factor and the border that lead back."""
    given = manifest["preprocessing"]
    width, height = given["size"]["width"], given["size"]["height"]
    across, down = width / image.width, height / image.height
    if given["resize"] == "Letterbox":
        across = down = min(across, down)
    size = (round(image.width * across), round(image.height * down))
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    canvas = np.full((height, width, 3), given.get("padValue", 114), np.float32)
    canvas[top : top + size[1], left : left + size[0]] = np.asarray(image.resize(size, Image.Resampling.BOX))
    tensor = (canvas / 255 - np.array(given["mean"])) / np.array(given["std"])
    return tensor.transpose(2, 0, 1)[None].astype(np.float32), size[0] / image.width, left, top


def iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.clip(high - low, 0, None).prod(1)
    return both / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - both)


def detection(bundle: Path, voc: Path, names: Path) -> dict[str, float]:
    """mAP at IoU 0.5: greedy matching, best score first, area under the interpolated precision (101 points)."""
    session, manifest = load(bundle)
    classes = manifest["classes"]
    found: list[list[tuple[float, int, np.ndarray]]] = [[] for _ in classes]
    truth: list[dict[int, np.ndarray]] = [{} for _ in classes]
    for number, name in enumerate(names.read_text().split()):
        name = Path(name).stem
        boxes = read_boxes(voc / "Annotations" / f"{name}.xml")
        for index, label in enumerate(classes):
            truth[index][number] = np.array([box for kind, box in boxes if kind == label]).reshape(-1, 4)
        image = Image.open(voc / "JPEGImages" / f"{name}.jpg").convert("RGB")
        tensor, scale, left, top = fit(image, manifest)
        output, scores = session.run(["boxes", "scores"], {"image": tensor})
        placed = (output[0] - [left, top, left, top]) / scale
        for index in range(len(classes)):
            kept = np.flatnonzero(scores[0, :, index] >= 0.05)
            kept = kept[np.argsort(-scores[0, kept, index])][:1000]
            while len(kept):
                best, kept = kept[0], kept[1:]
                found[index].append((float(scores[0, best, index]), number, placed[best]))
                kept = kept[iou(placed[best], placed[kept]) <= 0.5]
    average = []
    for index in range(len(classes)):
        wanted = sum(len(boxes) for boxes in truth[index].values())
        used = {number: np.zeros(len(boxes), bool) for number, boxes in truth[index].items()}
        hits = []
        for _, number, box in sorted(found[index], key=lambda item: -item[0]):
            overlap = np.where(used[number], 0, iou(box, truth[index][number])) if len(used[number]) else np.zeros(0)
            hit = len(overlap) > 0 and overlap.max() >= 0.5
            if hit:
                used[number][overlap.argmax()] = True
            hits.append(hit)
        right = np.cumsum(hits)
        recall, precision = right / max(1, wanted), right / np.arange(1, len(hits) + 1)
        points = [precision[recall >= level].max(initial=0) for level in np.linspace(0, 1, 101)]
        average.append(float(np.mean(points)))
    return {"mAP50": float(np.mean(average)), **{f"AP50/{name}": ap for name, ap in zip(classes, average, strict=True)}}


def read_boxes(file: Path) -> list[tuple[str, list[float]]]:
    result = []
    for item in ET.parse(file).getroot().iter("object"):
        box = [float(item.findtext(f"bndbox/{side}") or 0) for side in ("xmin", "ymin", "xmax", "ymax")]
        if box[2] - box[0] >= 2 and box[3] - box[1] >= 2:
            result.append((item.findtext("name") or "", box))
    return result


def classification(bundle: Path, images: Path, labels: Path) -> dict[str, float]:
    """Share of right answers on an IDX test set."""
    session, manifest = load(bundle)
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28)
    wanted = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)
    right = 0
    for start in range(0, len(pixels), 100):
        batch = [fit(Image.fromarray(item).convert("RGB"), manifest)[0] for item in pixels[start : start + 100]]
        (logits,) = session.run(["logits"], {"image": np.concatenate(batch)})
        answers = [manifest["classes"][index] for index in logits.argmax(1)]
        right += sum(int(answer) == label for answer, label in zip(answers, wanted[start : start + 100], strict=True))
    return {"accuracy": right / len(pixels)}


def segmentation(bundle: Path, images: Path, labels: Path, names: Path) -> dict[str, float]:
    """Dice of each class over all pixels of the images; a label's pixel value 0 is the boundary, 255 the cell."""
    session, manifest = load(bundle)
    both, total = np.zeros(2), np.zeros(2)
    for name in names.read_text().split():
        tensor, *_ = fit(Image.open(images / Path(name).name).convert("RGB"), manifest)
        (logits,) = session.run(["logits"], {"image": tensor})
        answer = logits[0].argmax(0)
        label = np.asarray(Image.open(labels / Path(name).name).convert("L")) < 128
        for index, wanted in ((manifest["classes"].index("boundary"), label),):
            both[0] += ((answer == index) & wanted).sum()
            total[0] += (answer == index).sum() + wanted.sum()
    return {"dice/boundary": float(2 * both[0] / total[0])}


if __name__ == "__main__":
    task, *paths = sys.argv[1:]
    measure = {"detection": detection, "classification": classification, "segmentation": segmentation}[task]
    print(json.dumps(measure(*map(Path, paths))))
