"""The predictor with a real ONNX Runtime session."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fovea_api.common import Task
from fovea_serving.bundle import load_bundle
from fovea_serving.pipeline import Classification, Postprocess, Preprocess
from fovea_serving.pipeline.decode import InvalidImage
from fovea_serving.predict import predict_files
from fovea_serving.predictor import InvalidModel, Predictor
from PIL import Image

COLOURS = {"red": (230, 20, 20), "green": (10, 200, 30), "blue": (0, 0, 255)}


def png(colour: tuple[int, int, int], size: tuple[int, int] = (50, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def labels(predictions: list) -> list[int]:
    assert all(isinstance(prediction, Classification) for prediction in predictions)
    return [prediction.label for prediction in predictions]


def test_bytes_and_pixels_of_any_size_are_predicted_in_order(bundle: Path) -> None:
    predictor = Predictor.from_bundle(load_bundle(bundle), max_batch=4)
    expected = [index % 3 for index in range(11)]
    files = [png(list(COLOURS.values())[index], (20 + 3 * index, 33)) for index in expected]
    assert labels(predictor.predict(files)) == expected
    assert labels(predictor.predict([np.asarray(Image.open(io.BytesIO(file))) for file in files])) == expected
    assert predictor.predict([]) == []


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_batch_size_is_filled_up(tmp_path: Path, model_writer: Callable, batch: int) -> None:
    model_writer(tmp_path / "model.onnx", batch)
    predictor = Predictor(tmp_path / "model.onnx", Preprocess(32, 24), Postprocess(Task.CLASSIFICATION))
    assert labels(predictor.predict([png(colour) for colour in COLOURS.values()] * 2)) == [0, 1, 2, 0, 1, 2]


def test_the_image_that_cannot_be_decoded_is_named(bundle: Path) -> None:
    predictor = Predictor.from_bundle(load_bundle(bundle), max_batch=2)
    with pytest.raises(InvalidImage, match="image 3"):
        predictor.predict([png((1, 2, 3))] * 3 + [b"broken"])


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x80\x04pickle")
    with pytest.raises(InvalidModel, match=r"model\.onnx"):
        Predictor(tmp_path / "model.onnx", Preprocess(32, 24), Postprocess(Task.CLASSIFICATION))


def test_a_model_of_another_task_is_refused(tmp_path: Path, model_writer: Callable) -> None:
    model_writer(tmp_path / "model.onnx", "batch")
    with pytest.raises(InvalidModel, match="boxes, scores"):
        Predictor(tmp_path / "model.onnx", Preprocess(32, 24), Postprocess(Task.DETECTION))


def test_files_and_folders_are_predicted_and_drawn(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in COLOURS.items():
        (folder / f"{name}.png").write_bytes(png(colour))
    (folder / "notes.txt").write_text("not an image")
    results = predict_files(bundle, [folder], tmp_path / "drawn").files
    assert {file.stem: result.describe().split()[0] for file, result in results.items()} == {
        name: name for name in COLOURS
    }
    assert sorted(file.name for file in (tmp_path / "drawn").iterdir()) == ["blue.png", "green.png", "red.png"]
    first = results[folder / "blue.png"].to_dict()["classes"]
    assert isinstance(first, list)
    assert first[0]["class"] == "blue"
