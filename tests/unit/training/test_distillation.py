"""Distillation: closed forms of the losses, and a student that learns from a teacher what no label says."""

from __future__ import annotations

import math
from dataclasses import replace
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
from fovea_trainer.training.distillation import (
    Detections,
    Teacher,
    TeacherFiles,
    attention_loss,
    detections_loss,
    distillation_loss,
    feature_maps,
    logits_loss,
    on_other_boxes,
    paired_maps,
)
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
TAUGHT = Detections(BOXES, SCORES)


def test_a_detector_that_agrees_loses_nothing() -> None:
    assert float(detections_loss(TAUGHT, TAUGHT)) == pytest.approx(0, abs=1e-5)


def test_predictions_learn_scores_and_boxes_of_the_detections_that_they_overlap() -> None:
    """By half in one box; the third is no detection of the teacher's, so that nothing is learned there."""
    boxes, scores = BOXES.clone(), SCORES.clone()
    boxes[0] = torch.tensor([0.0, 0.0, 10.0, 5.0])  # IoU 1/2, and the hull is no larger than the union
    scores[1, 1] = 0.25
    scores[2] = 0.9
    divergence = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    expected = (0.9 * 0.5 + 0.5 * divergence) / (0.9 + 0.5)
    assert float(detections_loss(Detections(boxes, scores), TAUGHT)) == pytest.approx(expected, rel=1e-4)
    shuffled = [2, 0, 1]
    assert float(detections_loss(Detections(boxes[shuffled], scores[shuffled]), TAUGHT)) == pytest.approx(
        expected, rel=1e-4
    )


def test_without_a_detection_there_is_nothing_to_learn() -> None:
    boxes = BOXES.clone().requires_grad_(True)
    loss = detections_loss(Detections(boxes, SCORES), Detections(BOXES, SCORES * 0.01))
    loss.backward()
    assert float(loss.detach()) == 0
    assert boxes.grad is not None
    assert not boxes.grad.any()


def test_masks_are_compared_on_the_grid_of_the_students_box() -> None:
    """Of a mask that is 1 on its left half, a box as large and half a width to the left has the left half empty."""
    half = torch.cat([torch.ones(1, 8, 4), torch.zeros(1, 8, 4)], 2)
    box = torch.tensor([[16.0, 0.0, 32.0, 16.0]])
    assert torch.equal(on_other_boxes(half, box, box, 8), half)
    moved = on_other_boxes(half, box, box - torch.tensor([8.0, 0.0, 8.0, 0.0]), 8)
    assert torch.equal(moved, torch.cat([torch.zeros(1, 8, 4), torch.ones(1, 8, 4)], 2))
    part = on_other_boxes(half, box, torch.tensor([[16.0, 4.0, 22.0, 8.0]]), 2)
    assert torch.equal(part, torch.ones(1, 2, 2)), "a part of it, as coarse as the student's masks"


def test_masks_are_learned_by_their_divergence_in_each_cell() -> None:
    taught = Detections(BOXES[:1], SCORES[:1], torch.full((1, 4, 4), 0.9))
    same = Detections(BOXES[:1], SCORES[:1], torch.full((1, 2, 2), 0.9))
    assert float(detections_loss(same, taught)) == pytest.approx(0, abs=1e-5)
    other = torch.full((1, 2, 2), 0.5)
    other[0, 0] = 0.9  # half of the cells
    student = Detections(BOXES[:1], SCORES[:1], other)
    expected = 0.5 * (0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5))
    assert float(detections_loss(student, taught)) == pytest.approx(expected, rel=1e-4)
    assert float(detections_loss(student, Detections(BOXES[:1], SCORES[:1]))) == pytest.approx(0, abs=1e-5)


def test_feature_maps_are_compared_by_the_angle_between_their_attentions() -> None:
    """|a - b|^2 = 2 - 2 cos, whatever the channels, the size and the scale of the teacher's."""
    student = torch.zeros(1, 2, 1, 2)
    student[0, :, 0, 0] = 3.0  # active on the left alone
    teacher = torch.ones(1, 5, 1, 2)
    assert float(attention_loss([(student, teacher)])) == pytest.approx(2 - math.sqrt(2))
    assert float(attention_loss([(student, student.repeat(1, 3, 1, 1) * 7)])) == pytest.approx(0, abs=1e-6)
    opposite = student.flip(3)
    assert float(attention_loss([(student, opposite), (student, student)])) == pytest.approx(1.0), "mean over the maps"
    finer = teacher.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert float(attention_loss([(student, finer)])) == pytest.approx(2 - math.sqrt(2))


def test_maps_are_paired_by_their_strides() -> None:
    student = [torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 4, 4)]
    teacher = [torch.zeros(1, 9, 6, 6), torch.zeros(1, 9, 3, 3)]

    def sides(student: list[torch.Tensor], widths: tuple[int, int]) -> list[tuple[int, int]]:
        return [(one.shape[-1], other.shape[-1]) for one, other in paired_maps(student, teacher, widths)]

    assert sides(student, (64, 48)) == [(8, 6), (4, 3)]
    assert sides(student, (64, 96)) == [(4, 6)]
    assert sides(student, (64, 12)) == []
    assert sides(student[:1], (64, 12)) == [(8, 3)], "of classifiers the one that is pooled"


@pytest.mark.parametrize(
    ("one", "other", "strides"),
    [
        (("yolo", {"neckChannels": 16}), ("fcos", {"fpnChannels": 16}), [8, 16, 32]),
        (("maskrcnn", {"fpnChannels": 16}), ("maskrcnn", {"fpnChannels": 32}), [8, 16, 32]),
        (("unet", {}), ("deeplabv3plus", {}), [2, 4, 8, 16]),
        (("resnet18", {"width": 0.125, "stem": "Small"}), ("mobilenet-v3", {}), [8]),
    ],
)
def test_networks_of_every_task_have_maps_to_compare(
    one: tuple[str, dict[str, JsonValue]], other: tuple[str, dict[str, JsonValue]], strides: list[int]
) -> None:
    student = teacher_network(one[0], **one[1]).network
    settings = SETTINGS.model_copy(update={"feature_weight": 5.0})
    teacher = replace(teacher_network(other[0], **other[1]), preprocess=Preprocess(64, 64), settings=settings)
    teacher.check(student, 96, 96)
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    with feature_maps(student) as features:
        raw = student(images.float() / 255)
    loss = teacher.mix({}, student.decode(raw), features, images)["features"]
    with feature_maps(teacher.network) as own:
        teacher.network(torch.zeros(2, 3, *teacher.size))
    assert [96 // each.shape[-1] for each, _ in paired_maps(features, own, (96, 64))] == strides
    assert 0 < float(loss.detach()) <= 10
    loss.backward()
    gradients = [parameter.grad for parameter in student.backbone().parameters() if parameter.grad is not None]
    assert any(gradient.abs().max() > 0 for gradient in gradients)


def test_networks_without_feature_maps_are_refused_where_these_are_to_be_compared() -> None:
    teacher = replace(teacher_network("timm/test_vit"), preprocess=Preprocess(160, 160))
    student = teacher_network("resnet18", width=0.125, stem="Small").network
    teacher.check(student, 32, 32)
    teacher = replace(teacher, settings=SETTINGS.model_copy(update={"feature_weight": 1.0}))
    with pytest.raises(InvalidInput, match=r"featureWeight: student and teacher have no feature maps of the same str"):
        teacher.check(student, 32, 32)


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
    parts = teacher.mix({"class": torch.tensor(2.0)}, decoded, [], images)
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
    loss = teacher.mix({}, decoded, [], images)["distillation"]
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


def test_by_hand_the_teacher_is_the_newest_bundle_that_met_its_criteria(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"train": 12, "validation": 8}, successCriteria=[{"metric": "validation/f1", "min": 0.0}])
    store = str(tmp_path / "store")
    good = train_manifest(path, store)
    bad = train_manifest(
        path, store, settings=["training.seed=1", "successCriteria=[{metric: validation/f1, min: 1.5}]"]
    )
    assert good.digest != bad.digest
    teacher = path.read_text()
    dataset, job = teacher.split("---\n")
    distil = "  compression: {distillation: {teacherRef: {name: squares}}}\n"
    student = "---\n" + job.rstrip().replace("name: squares\nspec", "name: small\nspec") + "\n" + distil
    path.write_text(dataset + student)
    assert load_bundle(str(train_manifest(path, store).artifact)).manifest.lineage.teacher == good.digest
    path.write_text(teacher.replace("min: 0.0", "min: 1.5") + student)
    with pytest.raises(InvalidInput, match=r"is eligible; of the newest, validation/f1 .* \(required ≥ 1\.5\)"):
        train_manifest(path, store, name="small")


def test_a_recipe_that_distils_is_not_trained_without_its_teacher(tmp_path: Path) -> None:
    context = SingleProcess(tmp_path, 1, lambda progress: None)
    with pytest.raises(InvalidInput, match=r"spec\.compression\.distillation\.teacherRef: there is no teacher"):
        fit(student_recipe(0.5), squares(Task.CLASSIFICATION), context)
    assert not list(tmp_path.iterdir())


def test_by_hand_a_teacher_that_was_not_trained_is_named(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        {"train": 8, "validation": 4},
        compression=Compression.model_validate({"distillation": {"teacherRef": {"name": "large"}}}).to_dict(),
    )
    with pytest.raises(InvalidInput, match=r"teacherRef: there is no bundle of TrainingJob 'large' in this store"):
        train_manifest(path, str(tmp_path / "store"))
