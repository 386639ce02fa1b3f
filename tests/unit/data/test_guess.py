"""Which format and task a folder of label files is taken for."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_support import write
from fovea_api.common import Task
from fovea_api.dataset import Format
from fovea_store import StorePath
from fovea_trainer.data.formats import Tree
from fovea_trainer.data.guess import guess_format, guess_task

BOX = '{"label": "cat", "shape_type": "rectangle", "points": [[1, 2], [30, 40]]}'
SHARES = '{"x": 0.5, "y": 0.5, "width": 0.2, "height": 0.2}'
FOLDERS: dict[str, tuple[Format, Task, str, str]] = {
    "LabelMe": (Format.LABEL_ME, Task.DETECTION, "a.json", f'{{"version": "5.5.0", "shapes": [{BOX}]}}'),
    "LabelMe, polygons": (Format.LABEL_ME, Task.INSTANCE_SEGMENTATION, "a.json",
                          '{"shapes": [{"label": "cat", "points": [[1, 2], [30, 40], [20, 60]]}]}'),
    "LabelMe, flags": (Format.LABEL_ME, Task.CLASSIFICATION, "a.json", '{"flags": {"cat": true}, "shapes": []}'),
    "CreateML": (Format.CREATE_ML, Task.DETECTION, "x.json",
                 f'[{{"image": "a.jpg", "annotations": [{{"label": "cat", "coordinates": {SHARES}}}]}}]'),
    "CreateML, classes": (Format.CREATE_ML, Task.CLASSIFICATION, "x.json", '[{"image": "a.jpg", "annotation": "cat"}]'),
    "Label Studio, which has images and annotations, too": (
        Format.LABEL_STUDIO, Task.DETECTION, "x.json", '[{"id": 1, "annotations": [], "data": {"image": "a.jpg"}}]'),
    "CSV": (Format.CSV, Task.DETECTION, "x.csv", "image,label,x1,y1,x2,y2\na.jpg,cat,1,2,30,40\n"),
    "CSV, RetinaNet": (Format.CSV, Task.DETECTION, "x.csv", "a.jpg,1,2,30,40,cat\na.jpg,3,4,50,60,cat\n"),
    "CSV, classes": (Format.CSV, Task.CLASSIFICATION, "x.csv", "id,label\na,cat\n"),
    "a table of something else": (Format.IMAGE_FOLDER, Task.CLASSIFICATION, "x.csv", "patient,age\na,45\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_formats_of_labelling_tools(case: str, tmp_path: Path) -> None:
    format, task, file, text = FOLDERS[case]
    tree = Tree.of(StorePath.parse(str(write(tmp_path, {"cats/a.jpg": "", f"cats/{file}": text}))))
    assert (guess_format(tree), guess_task(format, tree)) == (format, task)


IN_WINDOWS = FOLDERS | {
    "COCO": (Format.COCO, Task.DETECTION, "x.json", '{"images": [], "annotations": [{"bbox": [1, 2, 3, 4]}]}'),
    "YOLO": (Format.YOLO, Task.DETECTION, "a.txt", "0 0.5 0.5 0.2 0.2\r\n"),
    "PascalVOC": (Format.PASCAL_VOC, Task.DETECTION, "a.xml", "<annotation><filename>a.jpg</filename></annotation>"),
    "CVAT": (Format.CVAT, Task.DETECTION, "x.xml", '<annotations><image name="a.jpg"/></annotations>'),
}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("case", IN_WINDOWS)
def test_a_byte_order_mark_hides_no_format(case: str, encoding: str, tmp_path: Path) -> None:
    format, _, file, text = IN_WINDOWS[case]
    files: dict[str, str | bytes] = {"cats/a.jpg": "", f"cats/{file}": text.encode(encoding)}
    assert guess_format(Tree.of(StorePath.parse(str(write(tmp_path, files))))) == format
