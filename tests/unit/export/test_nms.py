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
from fovea_serving.pipeline import Detection, InstanceSegmentation, Postprocess, Preprocess, decode
from fovea_serving.predictor import Predictor
from fovea_trainer.export import Exportable, ParityError, check_nms, exporter
from fovea_trainer.export.nms import add_nms, objects_of, outputs_of, write_nms
from fovea_trainer.models.boxes import clipped
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


class Segmenter(Detector):
    """The same with a mask for each box, which lies in the input as those of all architectures do."""

    def __init__(self) -> None:
        super().__init__()
        y, x = torch.meshgrid(*(torch.linspace(-1, 1, 28),) * 2, indexing="ij")
        centre = torch.randn(2, len(self.centers[0]), 1, 1) * 0.3
        self.register_buffer("hills", 5 - 9 * ((x - centre[0]) ** 2 + (y - centre[1]) ** 2))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        boxes, scores = super().forward(image)
        height = (scores.amax(2) - 0.5)[..., None, None]
        return clipped(boxes, HEIGHT, WIDTH), scores, (self.hills + 3 * height).sigmoid()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[Task, Path]:
    folder, written = tmp_path_factory.mktemp("nms"), {}
    for network, task in ((Detector(), Task.DETECTION), (Segmenter(), Task.INSTANCE_SEGMENTATION)):
        written[task] = folder / f"{task}.onnx"
        exporter("ONNX").write(Exportable(network, network, task, (WIDTH, HEIGHT)), written[task])
    return written


@pytest.fixture
def model(models: dict[Task, Path]) -> Path:
    return models[Task.DETECTION]


@pytest.fixture
def suppressing(models: dict[Task, Path], tmp_path: Path) -> Callable[[Postprocess], Path]:
    def write(postprocess: Postprocess) -> Path:
        add_nms(models[postprocess.task], postprocess, tmp_path / "model.nms.onnx")
        return tmp_path / "model.nms.onnx"

    return write


def detect(file: Path, batch: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(file))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": batch}), strict=True))


@pytest.mark.parametrize(
    "postprocess",
    [
        POSTPROCESS,
        replace(POSTPROCESS, confidence_threshold=0.05),
        replace(POSTPROCESS, nms_iou=0.2),
        replace(POSTPROCESS, max_detections=20),
        replace(POSTPROCESS, task=Task.INSTANCE_SEGMENTATION),
    ],
    ids=["usual", "every candidate", "few overlaps", "few objects", "masks"],
)
def test_the_objects_are_those_of_the_pipeline(
    models: dict[Task, Path], suppressing: Callable[[Postprocess], Path], postprocess: Postprocess
) -> None:
    preprocess, model = Preprocess(WIDTH, HEIGHT), models[postprocess.task]
    batch, geometries = preprocess.batch([decode(photo) for photo in PHOTOS])
    given = detect(suppressing(postprocess), batch)
    assert list(given) == list(outputs_of(postprocess))
    predictor = Predictor(model, preprocess, postprocess)
    for index, expected in enumerate(predictor.predict(PHOTOS)):
        assert isinstance(expected, Detection)
        assert 5 < len(expected) <= postprocess.max_detections
        found = objects_of(given, index, geometries[index])
        assert found.labels.tolist() == expected.labels.tolist()
        assert found.scores == pytest.approx(expected.scores, abs=1e-5)
        assert found.boxes == pytest.approx(expected.boxes, abs=1e-2)
        assert not any(rows[index, len(expected) :].any() for name, rows in given.items() if name != "num_detections")
        if isinstance(expected, InstanceSegmentation):
            assert (np.diag(found.overlap(expected)) > 0.98).all()
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
        placed = objects_of(given, index, geometries[index])
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
    with pytest.raises(NotSupported, match="it is for Detection and InstanceSegmentation"):
        add_nms(model, Postprocess(Task.SEMANTIC_SEGMENTATION), tmp_path / "model.nms.onnx")
