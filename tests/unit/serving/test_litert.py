"""The runtime of TFLite files, on one that litert-torch 0.10.0 wrote of `image.mean((2, 3)) * [1, 2, 3]`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fovea_api.common import Task
from fovea_serving.backends import BackendOptions, Device, InvalidModel, open_backend
from fovea_serving.pipeline import Postprocess, Preprocess
from fovea_serving.predictor import Predictor

FILE = Path(__file__).parent / "litert" / "colours.tflite"
OPTIONS = BackendOptions(("logits",), threads=1)


def expected(images: np.ndarray) -> np.ndarray:
    return images.mean((2, 3)) * np.array([1, 2, 3])


def test_several_threads_get_their_own_answers() -> None:
    backend = open_backend(FILE, OPTIONS)
    assert (backend.device, backend.fixed_batch) == (Device.CPU, 1)
    images = np.random.default_rng(0).normal(size=(200, 3, 4, 6)).astype(np.float32)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda image: backend.run(image[None])["logits"][0], images))
    np.testing.assert_allclose(answers, expected(images), atol=1e-5)


def test_a_predictor_gives_it_one_image_after_the_other() -> None:
    predictor = Predictor(FILE, Preprocess(6, 4), Postprocess(Task.CLASSIFICATION), threads=1)
    images = np.random.default_rng(0).normal(size=(5, 3, 4, 6)).astype(np.float32)
    np.testing.assert_allclose(predictor.run(images)["logits"], expected(images), atol=1e-5)


def test_a_file_that_cannot_be_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"LiteRT has no CUDA here.*use ONNX"):
        open_backend(FILE, BackendOptions(("logits",), Device.CUDA))
    with pytest.raises(InvalidModel, match=r"1 inputs and outputs \['output_0'\].*2 outputs: boxes, scores"):
        open_backend(FILE, BackendOptions(("boxes", "scores")))
    for content in (b"", b"TFL3 and no more", FILE.read_bytes()[:500]):
        (tmp_path / "broken.tflite").write_bytes(content)
        with pytest.raises(InvalidModel, match="LiteRT cannot load the model"):
            open_backend(tmp_path / "broken.tflite", OPTIONS)
