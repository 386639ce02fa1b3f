"""Renews datumaro.json: what Datumaro reads. It needs an environment of its own, as it downgrades libraries:

python -m venv /tmp/datumaro && /tmp/datumaro/bin/pip install datumaro==1.13.12
/tmp/datumaro/bin/python tests/unit/data/oracles/renew_datumaro.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import datumaro
from datumaro import AnnotationType, Dataset
from oracle_sets import DATUMARO, SETS

HERE = Path(__file__).parent


def read(root: Path, format: str) -> dict[str, list[list[object]]]:
    """Class and corners of the boxes of each image, or its class; by the image's stem."""
    dataset = Dataset.import_from(str(root), format)
    names = [label.name for label in dataset.categories()[AnnotationType.label]]
    content = {}
    for item in dataset:
        labels = [[names[one.label]] for one in item.annotations if one.type == AnnotationType.label]
        boxes = [
            [names[one.label], *(round(side, 3) for side in one.points)]
            for one in item.annotations
            if one.type == AnnotationType.bbox
        ]
        polygons = [
            [names[one.label], *(round(side, 3) for side in _corners(one.points))]
            for one in item.annotations
            if one.type == AnnotationType.polygon
        ]
        content[Path(item.id).name] = sorted(labels or boxes or polygons)
    return content


def counted(root: Path, format: str) -> dict[str, object]:
    """Images and boxes that are read of an input that is not as the format has it, or why none is."""
    try:
        content = read(root, format)
    except Exception as error:
        return {"error": type(error).__name__}
    return {"images": len(content), "boxes": sum(map(len, content.values()))}


def _corners(points: list[float]) -> tuple[float, float, float, float]:
    return (min(points[0::2]), min(points[1::2]), max(points[0::2]), max(points[1::2]))


if __name__ == "__main__":
    found: dict[str, object] = {"version": datumaro.__version__}
    for name, write in SETS.items():
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            found[name] = read(Path(folder), DATUMARO.get(name, name))
    found["cases"] = {
        case.name: counted(case / "data", kind)
        for kind in ("coco", "voc", "yolo")
        for case in sorted((HERE.parent / "cases").glob(f"*-{kind}-*"))
    }
    (HERE / "datumaro.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
