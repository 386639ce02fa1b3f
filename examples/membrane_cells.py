#!/usr/bin/env python3
"""Cells as objects, from the membranes of data/membrane: `python examples/membrane_cells.py`, then nerve-cells.yaml.

The labels of the ISBI 2012 challenge mark membranes, and the challenge itself takes what they part as the cells: each
connected component of a section is one cell's cross-section, and that is what it was scored by. Written are windows
of the sections, with a cell's part in its window as an object, in COCO's format to data/nerve-cells/.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from fovea_serving.pipeline.run_lengths import areas, bounds, encode, encoded

DATA = Path(__file__).parent / "data"
WINDOW = 256
"""Pixels of a window's side: a quarter of a section."""
SMALLEST = 64
"""Pixels of a part below which it is no object: what a pen stroke or a window's edge left over."""


def write_windows(membrane: Path, target: Path) -> int:
    """Writes images and annotations.json; gives the number of objects.

    Args:
        membrane: Folder with `images` and `labels` of the same names, where 0 is membrane.
        target: New folder.
    """
    target.mkdir(parents=True, exist_ok=True)
    images, annotations = list[dict[str, object]](), list[dict[str, object]]()
    for file in sorted((membrane / "images").glob("*.png"), key=lambda file: int(file.stem)):
        pixels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        labels = cv2.imread(str(membrane / "labels" / file.name), cv2.IMREAD_GRAYSCALE)
        assert pixels is not None, file
        assert labels is not None, file
        _, cells = cv2.connectedComponents((labels > 0).astype(np.uint8), connectivity=4)
        for top in range(0, pixels.shape[0], WINDOW):
            for left in range(0, pixels.shape[1], WINDOW):
                part = (slice(top, top + WINDOW), slice(left, left + WINDOW))
                height, width = pixels[part].shape
                name = f"{int(file.stem):02}-{top}-{left}.png"
                cv2.imwrite(str(target / name), pixels[part])
                images.append({"id": len(images) + 1, "file_name": name, "width": width, "height": height})
                for cell in np.unique(cells[part])[1:]:
                    counts = encode(cells[part] == cell, 0, 0, width, height)
                    mask = encoded(counts, width, height)
                    if (area := int(areas([mask])[0])) < SMALLEST:
                        continue
                    x1, y1, x2, y2 = bounds([mask])[0].tolist()
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": len(images),
                            "category_id": 1,
                            "segmentation": {"size": [height, width], "counts": counts.decode("ascii")},
                            "bbox": [x1, y1, x2 - x1, y2 - y1],
                            "area": area,
                            "iscrowd": 0,
                        }
                    )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
    (target / "annotations.json").write_text(json.dumps(content))
    return len(annotations)


if __name__ == "__main__":
    print(f"{write_windows(DATA / 'membrane', DATA / 'nerve-cells'):,} cells")
