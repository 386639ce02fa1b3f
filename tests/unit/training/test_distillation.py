"""Distillation: closed forms of the losses, and a student that learns from a teacher what no label says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_api.trainingjob import Compression, Distillation, ModelChoice, Recipe
from fovea_serving.bundle import load_bundle
from fovea_serving.pipeline import Preprocess
from fovea_trainer.local import train_manifest
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.registry import build_network
from fovea_trainer.training.context import SingleProcess
from fovea_trainer.training.dataset import Normalize
from fovea_trainer.training.distillation import Teacher, TeacherFiles, detections_loss, distillation_loss, logits_loss
from fovea_trainer.training.loop import Plan, fit
from pydantic import JsonValue
from synthetic import manifest, squares
from torch.nn import functional as F

SETTINGS = Distillation.model_validate({"teacherRef": {"name": "large"}, "weight": 0.25, "temperature": 2})


def test_logits_are_learned_by_the_divergence_of_softened_probabilities() -> None:
    student, teacher = torch.tensor([[0.0, 0.0], [1.0, 3.0]]), torch.tensor([[2 * math.log(3), 0.0], [1.0, 3.0]])
    # Softened by 2 the teacher says 3/4 and 1/4 of the first image, the student 1/2; of the second they agree.
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert float(logits_loss(student, teacher, 2.0)) == pytest.approx(expected)
    reference = F.kl_div((student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="batchmean") * 4
    assert float(logits_loss(student, teacher, 2.0)) == pytest.approx(float(reference))


def test_of_masks_every_pixel_is_an_image_and_the_teacher_may_be_coarser() -> None:
    student, teacher = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 6)
    pixels = [logits.permute(0, 2, 3, 1).reshape(-1, 3) for logits in (student, teacher)]
    assert float(logits_loss(student, teacher, 4.0)) == pytest.approx(float(logits_loss(*pixels, 4.0)), rel=1e-5)
    flat = torch.tensor([1.0, 2.0, 0.0]).view(1, 3, 1, 1)
    assert float(logits_loss(flat.expand(1, 3, 8, 8), flat.expand(1, 3, 2, 2), 1.0)) == pytest.approx(0, abs=1e-6)


BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 40.0], [60.0, 0.0, 70.0, 10.0]])
SCORES = torch.tensor([[0.9, 0.2], [0.05, 0.5], [0.01, 0.02]])


def test_a_detector_that_agrees_loses_nothing() -> None:
    assert float(detections_loss(BOXES, SCORES, BOXES, SCORES)) == pytest.approx(0, abs=1e-5)


def test_predictions_learn_scores_and_boxes_of_the_detections_that_they_overlap() -> None:
    """By half in one box; the third is no detection of the teacher's, so that nothing is learned there."""
    boxes, scores = BOXES.clone(), SCORES.clone()
    boxes[0] = torch.tensor([0.0, 0.0, 10.0, 5.0])  # IoU 1/2, and the hull is no larger than the union
    scores[1, 1] = 0.25
    scores[2] = 0.9
    divergence = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    expected = (0.9 * 0.5 + 0.5 * divergence) / (0.9 + 0.5)
    assert float(detections_loss(boxes, scores, BOXES, SCORES)) == pytest.approx(expected, rel=1e-4)
    shuffled = [2, 0, 1]
    assert float(detections_loss(boxes[shuffled], scores[shuffled], BOXES, SCORES)) == pytest.approx(expected, rel=1e-4)


def test_without_a_detection_there_is_nothing_to_learn() -> None:
    boxes = BOXES.clone().requires_grad_(True)
    loss = detections_loss(boxes, SCORES, BOXES, SCORES * 0.01)
    loss.backward()
    assert float(loss.detach()) == 0
    assert boxes.grad is not None
    assert not boxes.grad.any()


def teacher_network(architecture: str, **options: JsonValue) -> Teacher:
    choice = ModelChoice.model_validate(
        {"architecture": architecture, "options": options, "pretrained": {"weights": "None"}}
    )
    torch.manual_seed(1)
    network = build_network(choice, 2, LossSettings()).eval()
    preprocess = Preprocess(64, 96, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    return Teacher(network, preprocess, Normalize(preprocess, torch.device("cpu")), SETTINGS)


def test_the_teacher_prepares_images_by_itself_and_its_boxes_are_the_images() -> None:
    teacher = teacher_network("yolo", neckChannels=16)
    images = torch.randint(0, 256, (2, 3, 48, 128), dtype=torch.uint8)
    answers = teacher._answers(images)
    seen = F.interpolate(images.float() / 255, size=(96, 64), mode="bilinear", antialias=True)
    seen = (seen - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = teacher.network.decode(teacher.network(seen))
    assert torch.allclose(answers["scores"], expected["scores"], atol=1e-5)
    assert torch.allclose(answers["boxes"], expected["boxes"] * torch.tensor([2, 0.5, 2, 0.5]), atol=1e-2)
    assert not answers["scores"].requires_grad


def test_the_parts_are_mixed_by_the_weight() -> None:
    teacher = teacher_network("resnet18", width=0.125, stem="Small")
    images = torch.randint(0, 256, (2, 3, 96, 64), dtype=torch.uint8)
    decoded = {"logits": torch.zeros(2, 2)}
    parts = teacher.mix({"class": torch.tensor(2.0)}, decoded, images)
    assert float(parts["class"]) == pytest.approx(1.5)
    expected = distillation_loss(decoded, teacher._answers(images), 2.0)
    assert float(parts["distillation"]) == pytest.approx(0.25 * float(expected))
    assert float(expected) > 0


@pytest.mark.parametrize("architecture", ["fcos", "fasterrcnn", "maskrcnn"])
def test_a_student_of_another_make_gets_gradients_in_every_part(architecture: str) -> None:
    teacher = teacher_network("yolo", neckChannels=16)
    with torch.no_grad():
        for branch in teacher.network.of_classes:  # type: ignore[union-attr]
            branch[-1].bias += 4.0  # sure enough to have detections
    choice = {"architecture": architecture, "options": {"fpnChannels": 16}, "pretrained": {"weights": "None"}}
    student = build_network(ModelChoice.model_validate(choice), 2, LossSettings()).train()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    decoded = student.decode(student(images.float() / 255))
    loss = teacher.mix({}, decoded, images)["distillation"]
    assert float(loss) > 0
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in student.backbone().parameters())


def test_other_classes_and_tasks_are_refused() -> None:
    files = TeacherFiles(Path("weights"), Preprocess(32, 32), Task.CLASSIFICATION, ("red", "blue"))
    files.check(Task.CLASSIFICATION, ("red", "blue"))
    with pytest.raises(InvalidInput, match=r"teacherRef: the teacher has 2 classes, the dataset 2, and they differ by"):
        files.check(Task.CLASSIFICATION, ("red", "green"))
    with pytest.raises(InvalidInput, match="their order differs"):
        files.check(Task.CLASSIFICATION, ("blue", "red"))
    with pytest.raises(InvalidInput, match="the teacher is for Classification, the dataset for Detection"):
        files.check(Task.DETECTION, ("red", "blue"))


def student_recipe(weight: float) -> Recipe:
    recipe = {
        "model": {
            "architecture": "resnet18",
            "options": {"width": 0.125, "stem": "Small"},
            "pretrained": {"weights": "None"},
        },
        "input": {"size": {"width": 32, "height": 32}, "augmentations": []},
        "training": {"epochs": 12, "batchSize": 8, "precision": "FP32", "optimizer": {"learningRate": 0.02}},
        "compression": {"distillation": {"teacherRef": {"name": "large"}, "weight": weight}},
    }
    return Recipe.model_validate(recipe)


def test_by_hand_a_student_learns_from_the_newest_bundle_of_the_teacher(tmp_path: Path) -> None:
    """Where its weight is 1, a teacher is believed that says the contrary of the labels: its classes are sorted."""
    version = squares(Task.CLASSIFICATION)
    path = manifest(
        tmp_path,
        {"train": 64, "validation": 12},
        training={"epochs": 4, "batchSize": 8, "precision": "FP32", "optimizer": {"learningRate": 0.02}},
        evaluation={"splits": ["validation"]},
    )
    taught = train_manifest(path, str(tmp_path / "store"))
    bundle = load_bundle(str(taught.artifact))
    assert bundle.manifest.metrics.exported["validation/accuracy"] >= 0.9
    contrary = TeacherFiles(
        bundle.path / "model.safetensors",
        Preprocess.from_manifest(bundle.manifest.preprocessing),
        Task.CLASSIFICATION,
        version.manifest.classes,
    )
    assert bundle.manifest.classes == ("blue", "red")
    state = fit(
        student_recipe(1.0), version, SingleProcess(tmp_path / "1", 1, lambda progress: None), Plan(teacher=contrary)
    )
    assert state.history[-1]["validation/accuracy"] == 0, "the teacher is believed, not the labels"
    assert state.history[-1]["train/loss/class"] == 0
    assert state.history[-1]["train/loss/distillation"] > 0

    student = path.read_text().replace(
        "kind: TrainingJob\nmetadata:\n  name: squares", "kind: TrainingJob\nmetadata:\n  name: small"
    )
    distilled = tmp_path / "student.yaml"
    distilled.write_text(student.rstrip() + "\n  compression: {distillation: {teacherRef: {name: squares}}}\n")
    result = train_manifest(distilled, str(tmp_path / "store"))
    assert load_bundle(str(result.artifact)).manifest.lineage.teacher == taught.digest


def test_by_hand_a_teacher_that_was_not_trained_is_named(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        {"train": 8, "validation": 4},
        compression=Compression.model_validate({"distillation": {"teacherRef": {"name": "large"}}}).to_dict(),
    )
    with pytest.raises(InvalidInput, match=r"teacherRef: there is no bundle of TrainingJob 'large' in this store"):
        train_manifest(path, str(tmp_path / "store"))
