"""From image files to the training report, through a real ONNX Runtime session."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from fovea_api.bundle import DatasetLineage, Lineage
from fovea_api.common import Task
from fovea_api.criteria import Criterion, evaluate_criteria
from fovea_api.errors import InvalidInput
from fovea_api.run import TrainingSummary
from fovea_api.version import ClassSummary, DatasetVersion, FindingSummary, Severity, StatedProblem
from fovea_serving.pipeline import Postprocess, Preprocess
from fovea_serving.predictor import Predictor
from fovea_trainer.data.version import Sample
from fovea_trainer.evaluation.evaluate import evaluate
from fovea_trainer.evaluation.latency import measure_latency, size_megabytes
from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.report.problems import problem_sections
from fovea_trainer.report.training import TrainingReport, write_report
from onnx import TensorProto, helper

HOSTILE = "<script>alert(1)</script>"
CLASSES = ("red", "green", HOSTILE)
DIGEST = "sha256-" + "0" * 64


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Says how red, green and blue an image is: logits = 9 * mean of each channel."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "factor"], ["logits"]),
        ],
        "colour",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 24, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], np.array([2, 3])),
            helper.make_tensor("factor", TensorProto.FLOAT, [1], np.array([9.0], np.float32)),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return Predictor(path, Preprocess(32, 24), Postprocess(Task.CLASSIFICATION))


def sample(index: int, label: int, shown: int) -> Sample:
    image = np.full((48, 64, 3), 20, np.uint8)
    image[..., 2 - shown] = 200  # OpenCV writes BGR
    _, data = cv2.imencode(".png", image)
    name, nothing = f"{HOSTILE}{index}", np.zeros((0, 4), np.float32)
    return Sample(name, name, "lab", data.tobytes(), 64, 48, label, nothing, np.zeros(0, np.int32), None)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [sample(index, index % 3, index % 3 if index else 1) for index in range(20)]  # the first is mislabelled


@pytest.fixture(scope="module")
def result(predictor: Predictor, samples: list[Sample]) -> EvaluationResult:
    return evaluate(predictor, samples, CLASSES)


def test_the_exported_model_is_evaluated_through_the_serving_code(result: EvaluationResult) -> None:
    assert result.images == 20
    assert result.metric("accuracy") == pytest.approx(0.95)
    assert result.worst[0].index == 0
    assert result.confusion.counts[0].tolist() == [6, 1, 0]


def test_an_empty_split_is_refused(predictor: Predictor) -> None:
    with pytest.raises(InvalidInput, match="validation has no images"):
        evaluate(predictor, [], CLASSES, split="validation")


def test_latency_and_size_are_measured(predictor: Predictor, samples: list[Sample], tmp_path: Path) -> None:
    latency = measure_latency(predictor, [item.image_bytes for item in samples], predictions=30)
    assert latency.predictions == 30
    assert 0 < latency.p50 <= latency.p95
    assert set(latency.metrics) == {"latency/p50Milliseconds", "latency/p95Milliseconds"}
    (tmp_path / "model.onnx").write_bytes(b"x" * 1_500_000)
    assert size_megabytes(tmp_path / "model.onnx") == {"size/megabytes": 1.5}


def test_the_report_is_one_harmless_file(
    predictor: Predictor, samples: list[Sample], result: EvaluationResult, tmp_path: Path
) -> None:
    version = DatasetVersion(
        task=Task.CLASSIFICATION,
        classes=CLASSES,
        splits={"train": 20, "test": 20},
        images=40,
        annotations=40,
        shards=(),
        problem=StatedProblem(statement=f"Tell colours {HOSTILE}"),
        class_summaries=tuple(ClassSummary(name=name, images=7, annotations=7) for name in CLASSES),
        digest=DIGEST,
    )
    criteria = [Criterion(metric="test/accuracy", min=0.9), Criterion(metric="size/megabytes", max=1.0)]
    report = TrainingReport(
        name="colours",
        version=version,
        lineage=Lineage(
            dataset=DatasetLineage(name="colours", version=DIGEST),
            recipe={"model": {"architecture": "colour", "options": {"note": HOSTILE}}},
            identity=DIGEST,
            run="r-0123456789",
            job="colours",
            best_epoch=2,
        ),
        training=TrainingSummary(best_epoch=2, epochs=2, seconds=63),
        history=[{"train/loss": 1.0, "validation/accuracy": 0.5}, {"train/loss": 0.4, "validation/accuracy": 0.9}],
        evaluations=[result],
        metrics={**result.metrics, "size/megabytes": 2.0},
        criteria=evaluate_criteria(criteria, {**result.metrics, "size/megabytes": 2.0}),
        predictor=predictor,
        samples={"train": samples, "test": samples},
        notes=["FP32 is delivered."],
    )
    text = write_report(tmp_path / "report.html", report).read_text()
    assert text.count("<script") == 1, "its own, that filters"
    assert all(link.startswith(("data:", "#")) for link in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert "Problems" not in text
    for expected in ("1 criterion is missed", "1 of 2", "2 epochs in 1m3s", "FP32 is delivered.", "Calibration"):
        assert expected in text, expected
    assert text.count("<img") == 4 + 2 * 6  # of the data, worst and best


def test_a_metric_of_zero_is_named_first_with_its_likely_causes(predictor: Predictor) -> None:
    wrong = [sample(index, (index + 1) % 3, index % 3) for index in range(9)]
    result = evaluate(predictor, wrong, CLASSES)
    assert result.metric("accuracy") == 0
    finding = FindingSummary(kind="ClassNotInTrain", severity=Severity.SERIOUS, count=1, message="red in test")
    version = DatasetVersion(
        task=Task.CLASSIFICATION,
        classes=CLASSES,
        splits={"train": 20},
        images=20,
        annotations=20,
        shards=(),
        findings=(finding,),
        digest=DIGEST,
    )
    history = [{"train/loss": 1.0}, {"train/loss": 0.99}]
    (section,) = problem_sections(version, result, {"training": {"batchSize": 8}}, history, ["They vanish."])
    expected = (
        "test accuracy is 0",
        "They vanish.",
        "The training was 6 steps long",
        "The loss did not fall (1 to 0.99",
    )
    for words in (*expected, "ClassNotInTrain, 1 time", "red in test"):
        assert words in section.body
    good = evaluate(predictor, [sample(index, index % 3, index % 3) for index in range(9)], CLASSES)
    assert problem_sections(version.model_copy(update={"findings": ()}), good, {}, history, []) == []
