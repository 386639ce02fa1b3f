"""How many copies the search for near duplicates finds, and how many shots of a fixed camera it takes for copies.

    python benchmarks/near_duplicates.py --json near-duplicates.json

Photographs: `apt-get install opencv-doc` (Apache-2.0) and `pip install scikit-image` (their origins are in its
data/README.txt); clothes: `apt-get install dataset-fashion-mnist` (MIT). Blood cells and membranes are in examples/.
Limits were set on the tuning half; what is printed is of the other unless `--half tuning` is given.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from fovea_trainer.data.near_duplicates import candidates, compare, copies, likely_copies, reduced, thumbnail
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Pairs = set[tuple[int, int]]

EXAMPLES = Path(__file__).parents[1] / "examples/data"
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
OPENCV = Path("/usr/share/doc/opencv-doc/examples/data")
VIDEO = OPENCV / "vtest.avi"
"""A real camera that stands still, above people who walk."""
OPENCV_PHOTOGRAPHS = """
HappyFish aero1 aloeL apple baboon basketball1 board box_in_scene building butterfly cards chicky_512 ela_original
fruits graf1 home left01 left12 leuvenA licenseplate_motion messi5 notes orange rubberwhale1 smarties squirrel_cls
starry_night stuff sudoku text_defocus
"""
SCIKIT_IMAGE_PHOTOGRAPHS = """
astronaut brick camera chelsea coffee coins color grass gravel hubble_deep_field ihc moon motorcycle_left page retina
rocket text
"""


# Images


def read(file: Path) -> Image:
    """An image as RGB [h, w, 3]."""
    pixels = cv2.imread(str(file))
    if pixels is None:
        raise SystemExit(f"{file}: no such image; the head of {__file__} says what to install")
    return np.ascontiguousarray(pixels[..., ::-1])


def blood_cells() -> list[Image]:
    return [read(file) for file in sorted((EXAMPLES / "bccd").rglob("*.jpg"))[::7]]


def membranes() -> list[Image]:
    return [read(file) for file in sorted((EXAMPLES / "membrane/images").iterdir())]


def clothes(count: int = 400) -> list[Image]:
    with gzip.open(FASHION_MNIST) as file:
        pixels = np.frombuffer(file.read(16 + count * 28 * 28), np.uint8)[16:].reshape(count, 28, 28)
    return [np.repeat(image[..., None], 3, -1) for image in pixels]


def photographs() -> list[Image]:
    """Photographs and the quarters of those that are large enough."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install scikit-image")
    files = [next(OPENCV.glob(f"{name}.*")) for name in OPENCV_PHOTOGRAPHS.split()]
    files += [next((Path(spec.origin).parent / "data").glob(f"{name}.*")) for name in SCIKIT_IMAGE_PHOTOGRAPHS.split()]
    result = []
    for image in map(read, files):
        result.append(image)
        height, width = (side // 2 for side in image.shape[:2])
        if min(height, width) >= 160:
            for corner in (image[:height, :width], image[-height:, -width:]):
                result.append(np.ascontiguousarray(corner))
    return result


SETS: dict[str, Callable[[], list[Image]]] = {
    "blood cells": blood_cells,
    "membranes": membranes,
    "clothes": clothes,
    "photographs": photographs,
}


# Copies


def jpeg(image: Image, quality: int) -> Image:
    data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def cropped(image: Image, share: float, random: np.random.Generator) -> Image:
    height, width = (round(side * (1 - share)) for side in image.shape[:2])
    y, x = (int(random.integers(0, side - part + 1)) for side, part in zip(image.shape, (height, width), strict=False))
    return image[y : y + height, x : x + width]


def resized(image: Image, factor: float) -> Image:
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)


def relit(image: Image, gain: float, offset: float = 0) -> Image:
    return np.rint(image.astype(np.float64) * gain + offset).clip(0, 255).astype(np.uint8)


def contrast(image: Image, gain: float) -> Image:
    mean = float(image.mean())
    return relit(image, gain, mean - gain * mean)


def augmented(image: Image, random: np.random.Generator) -> Image:
    """What an augmenting tool exports: mirrored, cropped, relit and compressed at once."""
    return jpeg(relit(cropped(image[:, ::-1], 0.05, random), random.uniform(0.8, 1.2)), 80)


COPIES: dict[str, Callable[[Image, np.random.Generator], Image]] = {
    "mirrored": lambda image, _: image[:, ::-1],
    "upside down": lambda image, _: image[::-1],
    "turned by 90": lambda image, _: np.rot90(image),
    "turned by 180": lambda image, _: np.rot90(image, 2),
    "cropped by 5 %": lambda image, random: cropped(image, 0.05, random),
    "cropped by 10 %": lambda image, random: cropped(image, 0.1, random),
    "JPEG 40": lambda image, _: jpeg(image, 40),
    "resized to 0.5": lambda image, _: resized(image, 0.5),
    "resized to 0.7": lambda image, _: resized(image, 0.7),
    "contrast 0.7": lambda image, _: contrast(image, 0.7),
    "contrast 1.4": lambda image, _: contrast(image, 1.4),
    "brightness 0.7": lambda image, _: relit(image, 0.7),
    "brightness 1.3": lambda image, _: relit(image, 1.3),
    "30 levels more": lambda image, _: relit(image, 1, 30),
    "30 levels less": lambda image, _: relit(image, 1, -30),
    "several at once": augmented,
}


AMONG_SHOTS = ("mirrored", "cropped by 5 %", "JPEG 40", "brightness 1.3")
"""Kinds that are looked for among the shots of a camera that stands still."""


# Shots of a camera that stands still


def scene(width: int, height: int, seed: int) -> Image:
    """Something to photograph: smooth colours with edges."""
    random = np.random.default_rng(seed)
    image = cv2.resize(random.integers(30, 225, (6, 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    for colour in random.integers(0, 255, (6, 3)).tolist():
        x, y = (int(random.integers(0, side * 3 // 4)) for side in (width, height))
        cv2.rectangle(image, (x, y), (x + width // 6, y + height // 6), colour, -1)
    return np.asarray(image, np.uint8)


def belt(random: np.random.Generator, width: int, height: int, seed: int) -> NDArray[np.float64]:
    """A part on a belt: where it lies differs by a few pixels, one in three has a scratch."""
    image = np.full((height, width, 3), 90.0)
    image += np.random.default_rng(seed).normal(0, 12, (height, 1, 1))
    scale = 8  # fractions of a pixel
    big = np.zeros((height * scale, width * scale), np.uint8)
    centre = [round(scale * (side / 2 + random.uniform(-4, 4))) for side in (width, height)]
    cv2.circle(big, centre, scale * height // 4, 200, -1, cv2.LINE_AA)
    cv2.circle(big, centre, scale * height // 12, 60, -1, cv2.LINE_AA)
    if random.random() < 1 / 3:
        where = [at + round(scale * random.uniform(-height / 6, height / 6)) for at in centre]
        cv2.line(big, where, [at + scale * 5 for at in where], 30, 2 * scale, cv2.LINE_AA)
    part = cv2.resize(big, (width, height), interpolation=cv2.INTER_AREA)[..., None].astype(np.float64)
    return np.where(part > 0, image + (part - image) * np.minimum(1, part / 60), image)


def static(random: np.random.Generator, width: int, height: int, seed: int) -> NDArray[np.float64]:
    """A scene with something small that comes and goes."""
    image = scene(width, height, seed)
    x, y = (int(random.integers(5, side - 5)) for side in (width, height))
    cv2.ellipse(image, (x, y), (4, 3), 0, 0, 360, (20, 20, 20), -1)
    return image.astype(np.float64)


def jitter(random: np.random.Generator, width: int, height: int, seed: int) -> NDArray[np.float64]:
    """A scene before a camera that shakes by up to a pixel."""
    shake = np.float32([[1, 0, random.uniform(-1, 1)], [0, 1, random.uniform(-1, 1)]])
    image = scene(width, height, seed)
    return cv2.warpAffine(image, shake, (width, height), borderMode=cv2.BORDER_REFLECT).astype(np.float64)


def lamp(random: np.random.Generator, width: int, height: int, seed: int) -> NDArray[np.float64]:
    """A lamp that is red or green, of equal brightness."""
    image = scene(width, height, seed)
    colour = [(200, 30, 30), (30, 118, 30)][random.integers(2)]
    cv2.circle(image, (width * 3 // 4, height // 4), max(3, height // 20), colour, -1)
    return image.astype(np.float64)


def noise(_: np.random.Generator, width: int, height: int, seed: int) -> NDArray[np.float64]:
    """Nothing changes."""
    return scene(width, height, seed).astype(np.float64)


def shots(
    subject: Callable[[np.random.Generator, int, int, int], NDArray[np.float64]],
    width: int,
    half: int,
    *,
    quality: int | None = None,
    count: int = 40,
) -> list[Image]:
    """Photographs with the noise of a sensor and light that varies; of a JPEG quality if one is given."""
    seed = 10 * half + width
    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        pixels = subject(random, width, width * 3 // 4, half)
        pixels = pixels * random.uniform(0.95, 1.05) + random.normal(0, 2, pixels.shape)
        image = np.rint(pixels).clip(0, 255).astype(np.uint8)
        images.append(image if quality is None else jpeg(image, quality))
    return images


def video(half: int, count: int = 40) -> list[Image]:
    """Frames of a real video, two seconds apart."""
    capture = cv2.VideoCapture(str(VIDEO))
    frames = []
    while (frame := capture.read())[0]:
        frames.append(frame[1])
    if not frames:
        raise SystemExit(f"{VIDEO}: cannot be read")
    return [np.ascontiguousarray(frame[..., ::-1]) for frame in frames[10 * half :: 20][:count]]


SERIES: dict[str, Callable[[int], list[Image]]] = {
    f"{subject.__name__}, {width} px{'' if quality is None else f', JPEG {quality}'}": partial(
        shots, subject, width, quality=quality
    )
    for subject in (belt, static, jitter, lamp, noise)
    for width, quality in ((160, None), (320, None), (640, 90))
} | {"a real camera": video}


# Measurements


def search(images: Sequence[Image]) -> Pairs:
    """The search as a build does it."""
    thumbnails = np.stack([thumbnail(image) for image in images])
    likely = likely_copies(thumbnails, candidates(thumbnails))
    small = [reduced(image) for image in images]
    comparisons = [
        compare(small[first], small[second], int(orientation), pose)
        for (first, second), orientation, pose in zip(likely.rows, likely.orientations, likely.poses, strict=True)
    ]
    found = np.sort(likely.rows[copies(likely.rows, comparisons)], axis=1)
    return {(int(first), int(second)) for first, second in found}


def recall(images: Sequence[Image], change: Callable[[Image, np.random.Generator], Image]) -> tuple[float, int]:
    """The share of images whose copy is found, and the number of pairs that are none."""
    random = np.random.default_rng(0)
    pairs = search([*images, *(np.ascontiguousarray(change(image, random)) for image in images)])
    right = {(number, number + len(images)) for number in range(len(images))}
    return len(pairs & right) / len(images), len(pairs - right)


def false_images(images: Sequence[Image]) -> float:
    """The share of a series' images that are in a pair."""
    return len({image for pair in search(images) for image in pair}) / len(images)


def measure(half: int, sets: Sequence[str], series: Sequence[str]) -> Iterator[dict[str, str | float]]:
    for name in sets:
        images = SETS[name]()[half::2]
        for kind, change in COPIES.items():
            start = time.perf_counter()
            share, false = recall(images, change)
            yield {
                "images": f"{len(images)} {name}",
                "copies": kind,
                "recall": round(share, 3),
                "false pairs": false,
                "seconds": round(time.perf_counter() - start, 1),
            }
    for name in series:
        start = time.perf_counter()
        images = SERIES[name](half)
        share = false_images(images)
        random = np.random.default_rng(0)
        kinds = dict(zip(AMONG_SHOTS, np.array_split(np.arange(len(images)), len(AMONG_SHOTS)), strict=True))
        copied = [(kind, number) for kind, numbers in kinds.items() for number in numbers.tolist()]
        more = [np.ascontiguousarray(COPIES[kind](images[number], random)) for kind, number in copied]
        found = search([*images, *more])
        hits = dict.fromkeys(kinds, 0)
        for position, (kind, number) in enumerate(copied):
            hits[kind] += (number, len(images) + position) in found
        yield {
            "series": f"{len(images)} x {name}",
            "images in false pairs": round(share, 3),
            **{f"recall, {kind}": round(hits[kind] / len(kinds[kind]), 3) for kind in kinds},
            "seconds": round(time.perf_counter() - start, 1),
        }


def scale(count: int) -> dict[str, str | float]:
    """What the search takes among so many images; the peak of memory is that of the whole process, images too."""
    images = clothes(count)
    before, start = _peak_megabytes(), time.perf_counter()
    pairs = search(images)
    return {
        "images": f"{len(images)} clothes",
        "pairs": len(pairs),
        "seconds": round(time.perf_counter() - start, 1),
        "megabytes before": before,
        "megabytes at most": _peak_megabytes(),
    }


def _peak_megabytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=["held-out", "tuning"], default="held-out")
    parser.add_argument("--sets", nargs="*", choices=[*SETS], default=[*SETS])
    parser.add_argument("--series", nargs="*", choices=[*SERIES], default=[*SERIES])
    parser.add_argument("--scale", type=int, metavar="COUNT", help="only time and memory, among so many images")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    rows = []
    half = int(options.half == "held-out")
    for row in measure(half, options.sets, options.series) if options.scale is None else [scale(options.scale)]:
        print(*row.values(), sep="\t", flush=True)
        rows.append(row)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
