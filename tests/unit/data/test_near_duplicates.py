from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_support import BCCD, MEMBRANE, Build
from fovea_api.errors import InvalidInput
from fovea_trainer.data import near_duplicates
from fovea_trainer.data.near_duplicates import (
    SIDE,
    candidates,
    clusters,
    compare,
    copies,
    likely_copies,
    reduced,
    thumbnail,
)
from fovea_trainer.data.near_duplicates.candidates import NEIGHBOURS, Pairs
from fovea_trainer.data.near_duplicates.registration import contained, register
from fovea_trainer.data.near_duplicates.thumbnails import orient

Image = np.ndarray
module = sys.modules[candidates.__module__]


def pairs_of(images: Sequence[Image]) -> set[tuple[int, int]]:
    """What the three steps find among images."""
    thumbnails = np.stack([thumbnail(image) for image in images])
    likely = likely_copies(thumbnails, candidates(thumbnails))
    comparisons = [
        compare(reduced(images[first]), reduced(images[second]), int(orientation), pose)
        for (first, second), orientation, pose in zip(likely.rows, likely.orientations, likely.poses, strict=True)
    ]
    found = np.sort(likely.rows[copies(likely.rows, comparisons)], axis=1)
    return {(int(first), int(second)) for first, second in found}


def read(file: object) -> Image:
    return np.ascontiguousarray(cv2.imread(str(file))[..., ::-1])


def jpeg(image: Image, quality: int) -> Image:
    data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def cropped(image: Image, share: float) -> Image:
    height, width = (round(side * (1 - share)) for side in image.shape[:2])
    return image[:height, image.shape[1] - width :]


COPIES: dict[str, Callable[[Image], Image]] = {
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "turned": lambda image: np.rot90(image),
    "cropped by 5 %": lambda image: cropped(image, 0.05),
    "cropped by 10 %": lambda image: cropped(image, 0.1),
    "compressed": lambda image: jpeg(image, 40),
    "halved": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "less contrast": lambda image: cv2.convertScaleAbs(image, alpha=0.7, beta=40),
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=1.25),
    "all at once": lambda image: jpeg(cropped(np.rot90(image)[:, ::-1], 0.05), 40),
}


@pytest.mark.parametrize("change", COPIES)
def test_copies_are_found_and_different_images_are_not(change: str) -> None:
    originals = [read(file) for file in [*sorted((BCCD / "JPEGImages").glob("*.jpg"))[100:106], *membranes(3)]]
    images = originals + [np.ascontiguousarray(COPIES[change](image)) for image in originals]
    assert pairs_of(images) == {(number, number + len(originals)) for number in range(len(originals))}


def membranes(count: int) -> list[object]:
    return sorted((MEMBRANE / "images").iterdir())[:count]


def scene(seed: int = 0, width: int = 160, height: int = 120) -> Image:
    """Something to photograph: smooth colours with edges."""
    random = np.random.default_rng(seed)
    image = cv2.resize(random.integers(0, 255, (6, 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    for colour in random.integers(0, 255, (6, 3)).tolist():
        x, y = random.integers(0, width - 30), random.integers(0, height - 30)
        cv2.rectangle(image, (int(x), int(y)), (int(x) + 25, int(y) + 20), colour, -1)
    return image


def shots(count: int, change: Callable[[Image, np.random.Generator], None], noise: float = 2.0) -> list[Image]:
    """Photographs of one scene in which something changes, with the noise of a sensor and of the light."""
    random = np.random.default_rng(1)
    result = []
    for _ in range(count):
        image = scene()
        change(image, random)
        noisy = image * random.uniform(0.95, 1.05) + random.normal(0, noise, image.shape)
        result.append(noisy.clip(0, 255).astype(np.uint8))
    return result


def defect(image: Image, random: np.random.Generator) -> None:
    x, y = random.integers(5, 150), random.integers(5, 110)
    cv2.ellipse(image, (int(x), int(y)), (4, 3), 0, 0, 360, (20, 20, 20), -1)


def lamp(image: Image, random: np.random.Generator) -> None:
    cv2.circle(image, (120, 30), 6, [(200, 30, 30), (30, 118, 30)][random.integers(2)], -1)  # of equal brightness
    defect(image, random)


def nothing(image: Image, random: np.random.Generator) -> None:
    """Only the noise differs."""


def part(image: Image, random: np.random.Generator) -> None:
    """A part on a belt, which lies a little elsewhere each time."""
    x, y = (int(random.integers(-2, 3)) for _ in range(2))
    cv2.circle(image, (80 + x, 60 + y), 25, (200, 200, 200), -1)


@pytest.mark.parametrize("change", [defect, lamp, nothing, part])
def test_shots_of_a_fixed_camera_are_no_near_duplicates(change: Callable[[Image, np.random.Generator], None]) -> None:
    images = shots(40, change)
    found = pairs_of(images)
    assert found == set()
    copy = np.ascontiguousarray(images[7][:, ::-1])
    assert (7, 40) in pairs_of([*images, copy]), "a copy is found among them all the same"


def test_many_copies_of_one_picture_are_no_camera_that_stands_still() -> None:
    image = read(sorted((BCCD / "JPEGImages").glob("*.jpg"))[4])
    copied = [image, *(np.ascontiguousarray(change(image)) for change in COPIES.values())]
    assert set(clusters(len(copied), np.array(sorted(pairs_of(copied)))).tolist()) == {0}


def silhouettes(count: int) -> list[Image]:
    """Things of one kind before a black ground, 28 pixels wide, as in Fashion-MNIST: alike, and yet each another."""
    random, images = np.random.default_rng(0), []
    corners = [((60, 95), (20, 21)), ((130, 165), (20, 21)), ((140, 215), (60, 120)), ((130, 170), (180, 215)),
               ((55, 95), (180, 215)), ((10, 85), (60, 120))]  # fmt: skip
    for _ in range(count):
        image = np.zeros((224, 224), np.uint8)
        outline = np.array([[random.integers(*x), random.integers(*y)] for x, y in corners], np.int32)
        cv2.fillPoly(image, [outline], int(random.integers(90, 240)))
        folds = cv2.resize(random.integers(0, 60, (7, 7), np.uint8), (224, 224), interpolation=cv2.INTER_CUBIC)
        grey = cv2.resize(cv2.subtract(image, folds), (28, 28), interpolation=cv2.INTER_AREA)
        images.append(np.repeat(grey[..., None], 3, -1))
    return images


def test_small_copies_among_things_that_look_alike_are_found() -> None:
    """Things of one kind are no camera that stands still: all of the picture differs between two of them."""
    originals = silhouettes(80)
    smaller = [cv2.resize(image, (20, 20), interpolation=cv2.INTER_AREA) for image in originals]
    found = pairs_of([*originals, *smaller])
    assert len({(number, number + 80) for number in range(80)} & found) >= 76


def test_what_saturates_in_a_copy_is_no_difference() -> None:
    image = np.random.default_rng(0).integers(60, 250, (240, 320, 3), np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 1.2)
    brighter = cv2.convertScaleAbs(image, alpha=1.5)
    assert 0.1 < (brighter == 255).mean() < 0.5
    assert pairs_of([image, brighter]) == {(0, 1)}


def test_a_red_and_a_green_lamp_are_two() -> None:
    images = [scene(), scene()]
    for image, colour in zip(images, [(200, 30, 30), (30, 118, 30)], strict=True):
        cv2.circle(image, (120, 30), 6, colour, -1)
    assert pairs_of(images) == set()
    assert pairs_of([images[0], np.ascontiguousarray(images[0][::-1])]) == {(0, 1)}


def test_a_camera_that_moved_shows_something_new_and_a_crop_does_not() -> None:
    wide = scene(width=340, height=240)
    assert pairs_of([wide[:, :320], wide[:, 20:]]) == set()
    assert pairs_of([wide, wide[:, 20:]]) == {(0, 1)}
    pose = np.array([[0.9, 0.05, 0.9, -0.05], [1.1, 0.05, 1.1, 0.0], [1.0, 0.02, 1.0, 0.0], [0.9, 0.0, 1.1, 0.0]])
    assert contained(pose, np.full(4, 480)).tolist() == [True, True, False, False]


def test_registration_finds_scale_and_shift() -> None:
    picture = thumbnail(read(sorted((BCCD / "JPEGImages").glob("*.jpg"))[3]), 256)
    height = width = 256
    scale, shift = (0.93, 0.95), (0.02, -0.015)
    corner = [(0.5 + shift[axis] - scale[axis] / 2) * width for axis in (0, 1)]
    matrix = np.array([[scale[0], 0, corner[0] + scale[0] / 2 - 0.5], [0, scale[1], corner[1] + scale[1] / 2 - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    part = cv2.warpAffine(picture, matrix, (width, height), flags=flags)
    start = np.array([[0.95, 0.0, 0.95, 0.0]])
    pose = register(picture[None], (0.8 * part[None] + 10).astype(np.uint8), start, 8)
    assert pose[0] == pytest.approx([scale[0], shift[0], scale[1], shift[1]], abs=0.001)


def test_a_thumbnail_is_the_weighted_mean_of_its_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    ys, xs = ((np.arange(SIDE) + 0.5) * size / SIDE - 0.5 for size in image.shape[:2])
    rows = np.maximum(1 - np.abs(ys[:, None] - np.arange(70)) * SIDE / 70, 0)
    columns = np.maximum(1 - np.abs(xs[:, None] - np.arange(90)) * SIDE / 90, 0)
    rows, columns = rows / rows.sum(1, keepdims=True), columns / columns.sum(1, keepdims=True)
    grey = image @ np.array([0.299, 0.587, 0.114])
    expected = rows @ grey @ columns.T
    assert np.abs(thumbnail(image) - expected).max() <= 1
    assert (thumbnail(np.full((1000, 30, 3), 77, np.uint8)) == 77).all()


@pytest.mark.parametrize("size", [(28, 28), (120, 160), (481, 641), (1000, 333)])
def test_the_thumbnail_of_a_flipped_image_is_the_flipped_thumbnail(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for orientation in range(8):
        flipped = np.ascontiguousarray(orient(image.transpose(2, 0, 1), orientation).transpose(1, 2, 0))
        difference = thumbnail(flipped).astype(int) - orient(thumbnail(image), orientation)
        assert np.abs(difference).max() <= 1  # rows are rounded before columns


def test_orientations_are_the_eight_flips_and_turns() -> None:
    image = read(sorted((BCCD / "JPEGImages").glob("*.jpg"))[5])
    square = cv2.resize(image, (300, 300))
    for orientation in range(8):
        changed = np.ascontiguousarray(orient(square.transpose(2, 0, 1), orientation).transpose(1, 2, 0))
        found = candidates(np.stack([thumbnail(square), thumbnail(changed)]))
        first, second = (thumbnail([square, changed][row]) for row in found.rows[0])
        back = orient(second, int(found.orientations[0]))
        assert np.abs(back.astype(int) - first).max() <= 1


def test_work_is_bounded_where_all_images_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lists of an inverted file are cut: a million black frames would be 10^12 comparisons otherwise."""
    monkeypatch.setattr(module, "LIST", 64)
    count = 500
    thumbnails = np.zeros((count, SIDE, SIDE), np.uint8)
    thumbnails[:, 10:20, 10:20] = 200
    found = candidates(thumbnails)
    assert len(found) <= count * NEIGHBOURS * 3
    assert set(range(count)) == set(found.rows.ravel().tolist()), "each is compared with some"


def test_few_pairs_of_an_image_are_looked_at_closely() -> None:
    picture = thumbnail(scene())
    rows = np.array([[0, number] for number in range(1, 20)] + [[20, 21]])
    pairs = Pairs(rows, np.zeros(20, np.intp), np.tile([1.0, 0, 1, 0], (20, 1)))
    kept = likely_copies(np.stack([picture] * 22), pairs)
    assert len(kept) == 20, "each of the others has one pair, which is among its best"
    far = np.linspace(0, 0.9, 20)
    every = np.array([[first, second] for first in range(20) for second in range(first)])
    best = near_duplicates._best(every, far[every].max(1))
    assert best.sum() <= 20 * near_duplicates.BEST


def test_clusters_have_a_bounded_diameter() -> None:
    star = [[0, number] for number in range(1, 30)]
    assert clusters(31, np.array(star)).tolist() == [0] * 30 + [30]
    chain = np.array([[number, number + 1] for number in range(99)])
    groups = clusters(100, chain)
    assert max(np.bincount(groups)) <= 5
    assert clusters(3, np.empty((0, 2), np.int64)).tolist() == [0, 1, 2]
    assert clusters(9, np.array([[0, 4], [4, 8], [8, 6], [1, 3]])).tolist() == [0, 1, 2, 1, 0, 5, 0, 7, 0]


def yolo(root: object, images: Sequence[Image]) -> dict[str, object]:
    folder = Path(str(root))
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "data.yaml").write_text("names: [defect]\npath: .\ntrain: images\n")
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"images/{number:03}.png"), np.ascontiguousarray(image[..., ::-1]))
        (folder / f"labels/{number:03}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    return {"task": "Detection", "sources": [{"name": "s", "uri": f"file://{folder}", "format": "YOLO"}]}


def test_a_fixed_camera_fills_all_splits_and_drop_keeps_its_images(build: Build, tmp_path: object) -> None:
    spec = yolo(f"{tmp_path}/camera", shots(40, defect))
    assert build(spec).summary.splits == {"train": 32, "validation": 4, "test": 4}
    dropped = build({**spec, "quality": {"nearDuplicates": "Drop"}})
    assert dropped.summary.images >= 39


def test_copies_of_one_picture_cannot_be_split_and_the_build_says_so(build: Build, tmp_path: object) -> None:
    image = scene(3)
    same = [np.ascontiguousarray(COPIES[name](image)) for name in ("mirrored", "upside down", "turned", "halved")]
    spec = yolo(f"{tmp_path}/same", [image, *same])
    with pytest.raises(InvalidInput, match=r"no image is in validation and none in test: 5 of 5 images are near dup"):
        build(spec)
    apart = build({**spec, "splits": {"keepNearDuplicatesTogether": False}})
    assert set(apart.summary.splits) == {"train", "validation", "test"}
    assert apart.summary.quality.near_duplicates == 5


def test_the_number_of_workers_changes_nothing(build: Build, tmp_path: object) -> None:
    images = [scene(number) for number in range(6)]
    images += [np.ascontiguousarray(image[:, ::-1]) for image in images[:3]]
    spec = yolo(f"{tmp_path}/w", images)
    one = build(spec)
    assert one.summary.quality.near_duplicates == 6
    assert build(spec, store=Path(str(tmp_path)) / "other", workers=2).digest == one.digest
