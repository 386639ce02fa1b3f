"""Suppression in the graph gives the objects of the pipeline, on photos, in plain ONNX Runtime."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
import torch
from fovea_api.common import Task
from fovea_api.errors import NotSupported
from fovea_api.trainingjob import Resize
from fovea_serving.pipeline import Detection, Postprocess, Preprocess, decode
from fovea_serving.predictor import Predictor
from fovea_trainer.export import Exportable, ParityError, check_nms, exporter
from fovea_trainer.export.nms import OUTPUTS, add_nms, objects_of, write_nms
from torch import Tensor, nn

PHOTOS = [
    photo.read_bytes()
    for photo in sorted((Path(__file__).parents[3] / "examples/data/bccd/BCCD/JPEGImages").glob("*.jpg"))[:6]
]
GUIDE = Path(__file__).parents[3] / "docs/guide/use-the-model.md"
WIDTH, HEIGHT, STRIDE = 96, 72, 4  # the shape of the photos, so that nothing is padded
POSTPROCESS = Postprocess(Task.DETECTION, confidence_threshold=0.7)


class Detector(nn.Module):
    """Boxes of every shape around the cells of a grid: many overlap, some reach beyond the input, some have no area."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 7, 8, STRIDE, 2)
        grid = torch.meshgrid(torch.arange(HEIGHT // STRIDE), torch.arange(WIDTH // STRIDE), indexing="ij")
        self.register_buffer("centers", torch.stack(grid[::-1], -1).reshape(1, -1, 2) * STRIDE + STRIDE / 2.0)
        self.register_buffer("inside_out", torch.arange(len(self.centers[0]))[None, :, None] % 7 == 0)
        self.register_buffer("preference", torch.randn(1, len(self.centers[0]), 3) * 3)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        sides, raw = self.body(image).flatten(2).transpose(1, 2).split([4, 3], 2)
        low, high = sides.tanh().chunk(2, 2)
        boxes = torch.cat([self.centers - 9 * (low + 0.8), self.centers + 9 * (high + 0.8)], 2)
        boxes = torch.where(self.inside_out, torch.cat(boxes.chunk(2, 2)[::-1], 2), boxes)
        return boxes, (raw + self.preference).sigmoid()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("nms") / "model.onnx"
    detector = Detector()
    exporter("ONNX").write(Exportable(detector, detector, Task.DETECTION, (WIDTH, HEIGHT)), file)
    return file


@pytest.fixture
def suppressing(model: Path, tmp_path: Path) -> Callable[[Postprocess], Path]:
    def write(postprocess: Postprocess) -> Path:
        add_nms(model, postprocess, tmp_path / "model.nms.onnx")
        return tmp_path / "model.nms.onnx"

    return write


def detect(file: Path, batch: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(file))
    assert [output.name for output in session.get_outputs()] == list(OUTPUTS)
    return dict(zip(OUTPUTS, session.run(None, {"image": batch}), strict=True))


@pytest.mark.parametrize(
    "postprocess",
    [
        POSTPROCESS,
        replace(POSTPROCESS, confidence_threshold=0.05),
        replace(POSTPROCESS, nms_iou=0.2),
        replace(POSTPROCESS, max_detections=20),
    ],
    ids=["usual", "every candidate", "few overlaps", "few objects"],
)
def test_the_objects_are_those_of_the_pipeline(
    model: Path, suppressing: Callable[[Postprocess], Path], postprocess: Postprocess
) -> None:
    preprocess = Preprocess(WIDTH, HEIGHT)
    batch, geometries = preprocess.batch([decode(photo) for photo in PHOTOS])
    given = detect(suppressing(postprocess), batch)
    predictor = Predictor(model, preprocess, postprocess)
    for index, expected in enumerate(predictor.predict(PHOTOS)):
        assert isinstance(expected, Detection)
        assert 5 < len(expected) <= postprocess.max_detections
        found = objects_of(given, index)
        assert found.labels.tolist() == expected.labels.tolist()
        assert found.scores == pytest.approx(expected.scores, abs=1e-5)
        assert geometries[index].to_original(found.boxes) == pytest.approx(expected.boxes, abs=1e-2)
        rest = slice(len(expected), None)
        assert not any(given[name][index, rest].any() for name in ("boxes", "scores", "labels"))
    assert given["boxes"].shape == (len(PHOTOS), min(postprocess.max_detections, 3 * 18 * 24), 4)
    assert check_nms(model, suppressing(postprocess), postprocess, batch) == 1


@pytest.mark.parametrize("rows", [480, 300], ids=["whole", "letterboxed"])
def test_the_guides_lines_detect_without_fovea(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: int
) -> None:
    """Their input is the pipeline's, padding included; without it, so are all objects."""
    preprocess, classes = Preprocess(WIDTH, HEIGHT, Resize.LETTERBOX), ("red", "green", "blue")
    write_nms(model, classes, preprocess, POSTPROCESS, tmp_path / "model.nms.onnx")
    picture = decode(PHOTOS[0])[:rows]
    cv2.imwrite(str(tmp_path / "picture.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    *_, lines = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)
    names = {"BUNDLE": str(tmp_path), "IMAGE": str(tmp_path / "picture.png")}
    exec(lines, names)
    expected, geometry = preprocess(picture)
    assert (geometry.offset == (0, 0)) == (rows == 480)
    assert np.asarray(names["tensor"])[0] == pytest.approx(expected, abs=1e-6)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(printed) > 5
    if rows == 480:
        (prediction,) = Predictor(model, preprocess, POSTPROCESS).predict([picture])
        objects = prediction.to_dict(classes)["objects"]
        assert isinstance(objects, list)
        for ours, theirs in zip(printed, objects, strict=True):
            assert ours["class"] == theirs["class"]
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
            assert np.clip(ours["box"], 0, [640, 480] * 2) == pytest.approx(theirs["box"], abs=0.02)


def test_padding_changes_few_objects(model: Path, suppressing: Callable[[Postprocess], Path]) -> None:
    """Those that reach into it: the pipeline takes the overlap of what lies in the image alone."""
    preprocess = Preprocess(WIDTH, HEIGHT, Resize.LETTERBOX)
    pictures = [decode(photo)[:300] for photo in PHOTOS]
    batch, geometries = preprocess.batch(pictures)
    given = detect(suppressing(POSTPROCESS), batch)
    agreements = []
    for index, expected in enumerate(Predictor(model, preprocess, POSTPROCESS).predict(pictures)):
        assert isinstance(expected, Detection)
        found = objects_of(given, index)
        placed = replace(found, boxes=geometries[index].to_original(found.boxes))
        in_image = (placed.boxes[:, 2:] > placed.boxes[:, :2]).all(axis=1)
        agreements.append(expected.agreement(placed.chosen(in_image), np.arange(3)))
    assert 0.9 < np.mean(agreements) < 1


def test_a_picture_without_objects_has_none(suppressing: Callable[[Postprocess], Path]) -> None:
    batch, _ = Preprocess(WIDTH, HEIGHT).batch([decode(photo) for photo in PHOTOS[:2]])
    given = detect(suppressing(replace(POSTPROCESS, confidence_threshold=1.0)), batch)
    assert given["num_detections"].tolist() == [0, 0]
    assert not given["boxes"].any()


def test_a_file_with_other_thresholds_is_found(model: Path, suppressing: Callable[[Postprocess], Path]) -> None:
    batch, _ = Preprocess(WIDTH, HEIGHT).batch([decode(photo) for photo in PHOTOS])
    with pytest.raises(ParityError, match="the objects differ"):
        check_nms(model, suppressing(replace(POSTPROCESS, nms_iou=0.1)), POSTPROCESS, batch)


def test_other_tasks_have_no_suppression(model: Path, tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="it is for Detection"):
        add_nms(model, Postprocess(Task.INSTANCE_SEGMENTATION), tmp_path / "model.nms.onnx")
