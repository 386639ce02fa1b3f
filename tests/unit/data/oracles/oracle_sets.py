"""Small sets in each format that other programs read, too; drawn alike on every machine. Needs no more than Pillow
and NumPy."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("cat", "dog", "cow")
SIDE = 64
COUNT = 6


def draw(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    colors = random.Random(seed)
    image = Image.new("RGB", (SIDE, SIDE), tuple(colors.randrange(256) for _ in range(3)))
    for _ in range(40):
        image.putpixel((colors.randrange(SIDE), colors.randrange(SIDE)), tuple(colors.randrange(256) for _ in range(3)))
    image.save(file)


def boxes(seed: int) -> list[tuple[int, int, int, int, int]]:
    """Class, x, y, width, height."""
    sides = random.Random(1000 + seed)
    return [
        (sides.randrange(3), sides.randrange(30), sides.randrange(30), sides.randrange(4, 30), sides.randrange(4, 30))
        for _ in range(seed % 4)
    ]


def polygon(seed: int, x: int, y: int, width: int, height: int) -> list[float]:
    points = random.Random(2000 + seed)
    return [
        number
        for _ in range(points.randrange(3, 7))
        for number in (round(x + points.random() * width, 2), round(y + points.random() * height, 2))
    ]


def coco(root: Path) -> None:
    images, annotations = [], []
    for number in range(COUNT):
        draw(root / f"images/train/{number}.png", number)
        images.append({"id": 10 + number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        for label, x, y, width, height in boxes(number):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 + number,
                    "category_id": label + 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "segmentation": [polygon(len(annotations), x, y, width, height)],
                }
            )
    (root / "annotations").mkdir()
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations/instances_train.json").write_text(json.dumps(content))


def voc(root: Path) -> None:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number in range(COUNT):
        draw(root / f"JPEGImages/{number}.jpg", number)
        objects = "".join(
            f"<object><name>{CLASSES[label]}</name><difficult>{x % 2}</difficult>"
            f"<bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
            f"<xmax>{x + width}</xmax><ymax>{y + height}</ymax></bndbox></object>"
            for label, x, y, width, height in boxes(number)
        )
        size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
        text = f"<annotation><folder>x</folder><filename>{number}.jpg</filename>{size}{objects}</annotation>"
        (root / f"Annotations/{number}.xml").write_text(text)
    for split, numbers in (("train", range(4)), ("val", range(4, COUNT))):
        (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{number}\n" for number in numbers))
    (root / "labelmap.txt").write_text("".join(f"{name}:::\n" for name in ("background", *CLASSES)))


def yolo_line(label: int, x: int, y: int, width: int, height: int) -> str:
    shares = (side / SIDE for side in (x + width / 2, y + height / 2, width, height))
    return " ".join((str(label), *(f"{share:.6f}" for share in shares))) + "\n"


def yolo(root: Path) -> None:
    (root / "labels/train").mkdir(parents=True)
    for number in range(COUNT):
        draw(root / f"images/train/{number}.jpg", number)
        lines = [yolo_line(*box) for box in boxes(number)]
        (root / f"labels/train/{number}.txt").write_text("".join(lines))
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(CLASSES))
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nnames:\n{names}")


def darknet(root: Path) -> None:
    (root / "obj_train_data").mkdir(parents=True)
    for number in range(COUNT):
        draw(root / f"obj_train_data/{number}.jpg", number)
        lines = [yolo_line(*box) for box in boxes(number)]
        (root / f"obj_train_data/{number}.txt").write_text("".join(lines))
    (root / "obj.data").write_text("classes = 3\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    (root / "obj.names").write_text("".join(f"{name}\n" for name in CLASSES))
    (root / "train.txt").write_text("".join(f"data/obj_train_data/{number}.jpg\n" for number in range(COUNT)))


def image_folder(root: Path) -> None:
    for number in range(COUNT):
        draw(root / f"{CLASSES[number % 3]}/{number}.jpg", number)


def cvat(root: Path) -> None:
    images = []
    for number in range(COUNT):
        draw(root / f"images/{number}.png", number)
        shapes = "".join(
            f'<box label="{CLASSES[label]}" source="manual" occluded="{x % 2}" xtl="{x}.00" ytl="{y}.00" '
            f'xbr="{x + width}.00" ybr="{y + height}.00" z_order="0"></box>'
            for label, x, y, width, height in boxes(number)
        )
        images.append(f'<image id="{number}" name="{number}.png" width="{SIDE}" height="{SIDE}">{shapes}</image>')
    labels = "".join(f"<label><name>{name}</name><type>any</type></label>" for name in CLASSES)
    meta = f"<meta><task><name>x</name><mode>annotation</mode><labels>{labels}</labels></task></meta>"
    text = f"<annotations><version>1.1</version>{meta}{''.join(images)}</annotations>"
    (root / "annotations.xml").write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{text}')


def vott(root: Path) -> None:
    rows = ['"image","xmin","ymin","xmax","ymax","label"']
    for number in range(COUNT):
        draw(root / f"{number}.jpg", number)
        for label, x, y, width, height in boxes(number):
            rows.append(f'"{number}.jpg",{x}.5,{y}.25,{x + width}.5,{y + height}.25,"{CLASSES[label]}"')
    (root / "pets-export.csv").write_text("\n".join(rows) + "\n")


def one_hot(root: Path) -> None:
    rows = [f"filename, {', '.join(CLASSES)}"]
    for number in range(COUNT):
        draw(root / f"train/{number}.jpg", number)
        rows.append(f"{number}.jpg, {', '.join(str(int(number % 3 == label)) for label in range(3))}")
    (root / "train/_classes.csv").write_text("\n".join(rows) + "\n")


SETS = {
    **{"coco": coco, "voc": voc, "yolo": yolo, "darknet": darknet, "imagenet": image_folder, "cvat": cvat},
    **{"vott": vott, "one-hot": one_hot},
}
DATUMARO = {"darknet": "yolo", "vott": "vott_csv", "one-hot": "roboflow_multiclass"}
"""What Datumaro calls a format, where it is another name."""


MASKS = {"half": (40, 30), "noise": (17, 13), "soft": (32, 32), "large": (700, 500)}
"""Width and height of masks."""


def rgba(name: str) -> NDArray[np.uint8]:
    """Brush strokes `[height, width, 4]`: the left half and single pixels in colour, as the tool once kept them; edges
    half transparent and long runs, all channels alike, as it keeps them now."""
    width, height = MASKS[name]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    alpha = {
        "half": 255 * (x < width // 2),
        "noise": 255 * ((x * 7 + y * 13) % 5 == 0),
        "soft": np.clip(300 - 20 * np.hypot(x - 16, y - 16), 0, 255).astype(int),
        "large": 255 * ((x - 350) ** 2 + (y - 250) ** 2 < 200**2),
    }[name]
    colors = [alpha // 2, alpha // 3, alpha * 0 + 7] if name in ("half", "noise") else [alpha] * 3
    return np.stack([*colors, alpha], 2).astype(np.uint8)
