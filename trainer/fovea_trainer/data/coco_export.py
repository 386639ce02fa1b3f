"""The COCO files of a version: for other tools, one a split."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from fovea_serving.pipeline.run_lengths import areas, encoded

from fovea_trainer.data.draft import Draft
from fovea_trainer.data.index import Index, Row, rows
from fovea_trainer.data.read import OpenSource, class_mask


def write_coco(draft: Draft, sources: Sequence[OpenSource], index: Index, split: str, file: Path) -> None:
    """A COCO file of a split, written as a stream. Masks are run lengths down the columns."""
    with file.open("w", encoding="utf-8") as out:
        categories = [{"id": number, "name": name} for number, name in enumerate(draft.classes, 1)]
        out.write(f'{{"categories": {json.dumps(categories)},\n"images": [')
        for number, row in enumerate(rows(index.db, "split = ?", (split,)), 1):
            image = {"id": number, "file_name": row.name, "width": row.width, "height": row.height}
            out.write(f"{',' if number > 1 else ''}\n{json.dumps(image | {'source': sources[row.source].name})}")
        out.write('],\n"annotations": [')
        ids = itertools.count(1)
        for number, row in enumerate(rows(index.db, "split = ?", (split,)), 1):
            for annotation in _coco_annotations(row, sources, draft.classes):
                identity = next(ids)
                annotation = {"id": identity, "image_id": number, **annotation}
                out.write(f"{',' if identity > 1 else ''}\n{json.dumps(annotation)}")
        out.write("]}\n")


def _coco_annotations(row: Row, sources: Sequence[OpenSource], classes: tuple[str, ...]) -> Iterator[dict[str, object]]:
    if row.content.label is not None:
        yield {"category_id": classes.index(row.content.label) + 1}
    masks = [encoded(counts.encode(), row.width, row.height) for counts in row.content.masks]
    areas_of = areas(masks).tolist()
    for index, box in enumerate(row.content.boxes):
        x1, y1, x2, y2 = box[1:5]
        width, height = x2 - x1, y2 - y1
        yield {
            "category_id": classes.index(box[0]) + 1,
            **({"segmentation": {**masks[index], "counts": row.content.masks[index]}} if masks else {}),
            "bbox": [x1, y1, width, height],
            "area": areas_of[index] if masks else width * height,
            "iscrowd": int(box[5]),
        }
    if row.content.mask is not None or row.content.regions:
        mask = class_mask(sources[row.source].tree, row.content, classes, row.width, row.height)
        for label in row.labels(classes):
            inside = mask == label
            flat = np.concatenate([[False], inside.T.ravel(), [False]])
            ends = np.flatnonzero(flat[1:] != flat[:-1])
            counts = np.diff(np.concatenate([[0], ends, [inside.size]])).tolist()
            ys, xs = np.nonzero(inside)
            if not len(xs):
                continue
            box_of = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
            yield {
                "category_id": label + 1,
                "segmentation": {"size": list(inside.shape), "counts": counts},
                "bbox": [int(side) for side in box_of],
                "area": int(inside.sum()),
                "iscrowd": 1,
            }
