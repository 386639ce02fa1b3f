"""Knowledge distillation: a teacher's answers to the same images are a part of the loss.

Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), for images and, pixel by pixel, for masks. Of a
detector the student's predictions learn from the teacher's detections that they overlap most: so the two may have
different anchors, levels and stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from fovea_api.bundle import MANIFEST
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_api.run import BundleInput
from fovea_api.trainingjob import Distillation
from fovea_serving.bundle import read_manifest
from fovea_serving.pipeline import Preprocess
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_iou, generalized_box_iou_loss

from fovea_trainer.models.description import restore
from fovea_trainer.models.network import AnyNetwork
from fovea_trainer.training.base_weights import fetch_base_weights
from fovea_trainer.training.dataset import Normalize

PLACE = "spec.compression.distillation.teacherRef"
LEAST_SCORE, MOST_DETECTIONS, NMS_IOU = 0.1, 100, 0.5
"""Detections of the teacher that are learned from; each counts by its score."""
PREDICTIONS_PER_DETECTION, LEAST_OVERLAP = 5, 0.4
"""Predictions of the student that learn from a detection: those that overlap it most, and by how much at least; the
best one in any case."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """A trained network that a student learns from.

    Args:
        network: In evaluation mode, on the student's device.
        preprocess: Its input size, mean and standard deviation.
        normalize: Prepares its images.
        settings: How much it counts.
    """

    network: AnyNetwork
    preprocess: Preprocess
    normalize: Normalize
    settings: Distillation

    def mix(self, parts: Mapping[str, Tensor], decoded: Mapping[str, Tensor], images: Tensor) -> dict[str, Tensor]:
        """The parts of the loss with the teacher's, each by its weight.

        Args:
            parts: Of the loss on the labels.
            decoded: The student's decoded outputs.
            images: What the student saw, before normalization: uint8 [N, 3, H, W].
        """
        weight = self.settings.weight
        part = distillation_loss(decoded, self._answers(images), self.settings.temperature)
        return {**{name: (1 - weight) * value for name, value in parts.items()}, "distillation": weight * part}

    @torch.no_grad()
    def _answers(self, images: Tensor) -> dict[str, Tensor]:
        """Its decoded outputs for images at its own size; boxes in pixels of the images as they are given."""
        height, width = images.shape[-2:]
        own = (self.preprocess.height, self.preprocess.width)
        seen = self.normalize(images)
        if own != (height, width):
            seen = F.interpolate(seen, size=own, mode="bilinear", antialias=True)
        decoded = self.network.decode(self.network(seen))
        if "boxes" in decoded:
            scale = decoded["boxes"].new_tensor([width / own[1], height / own[0]] * 2)
            decoded = {**decoded, "boxes": decoded["boxes"] * scale}
        return decoded


@dataclass(frozen=True, slots=True)
class TeacherFiles:
    """The teacher's weights on this machine, verified, and what its bundle says of its input, task and classes."""

    weights: Path
    preprocess: Preprocess
    task: Task
    classes: tuple[str, ...]

    def load(self, settings: Distillation, device: torch.device) -> Teacher:
        """The network on a device."""
        network = restore(self.weights).to(device).requires_grad_(False).eval()
        return Teacher(network, self.preprocess, Normalize(self.preprocess, device), settings)

    def check(self, task: Task, classes: tuple[str, ...]) -> None:
        """Raises InvalidInput: the teacher predicts something else than the student is to learn."""
        if task is not self.task:
            raise InvalidInput(f"the teacher is for {self.task}, the dataset for {task}", PLACE, "use another teacher")
        if classes != self.classes:
            other = sorted(set(classes) ^ set(self.classes))
            what = f"they differ by {', '.join(other[:5])}" if other else "their order differs"
            raise InvalidInput(
                f"the teacher has {len(self.classes)} classes, the dataset {len(classes)}, and {what}",
                PLACE,
                "train the teacher on a version of the same Dataset",
            )


def fetch_teacher(source: BundleInput, folder: Path) -> TeacherFiles:
    """Copies the teacher's weights into a local folder. Raises what `fetch_base_weights` does."""
    weights = fetch_base_weights(source, folder).file
    manifest = read_manifest(folder / MANIFEST)
    return TeacherFiles(weights, Preprocess.from_manifest(manifest.preprocessing), manifest.task, manifest.classes)


def distillation_loss(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], temperature: float) -> Tensor:
    """What is lost by differing from the teacher, mean over the images; 0 where the two agree.

    Args:
        student: Decoded outputs, as `Network.decode` gives them.
        teacher: The same, without gradients.
        temperature: Of the class logits.
    """
    if "logits" in student:
        return logits_loss(student["logits"].float(), teacher["logits"].float(), temperature)
    losses = [
        detections_loss(*(value.float() for value in of_image))
        for of_image in zip(student["boxes"], student["scores"], teacher["boxes"], teacher["scores"], strict=True)
    ]
    return torch.stack(losses).mean()


def logits_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softened probabilities, times the squared temperature, which keeps the size of
    its gradients; mean over images and pixels.

    Args:
        student: Logits [N, C] or [N, C, H, W].
        teacher: The same, at any height and width.
        temperature: What the logits are divided by.
    """
    if teacher.shape[2:] != student.shape[2:]:
        teacher = F.interpolate(teacher, size=student.shape[2:], mode="bilinear")
    log, expected = (student / temperature).log_softmax(1), (teacher / temperature).log_softmax(1)
    divergence = (expected.exp() * (expected - log)).sum(1)
    return divergence.mean() * temperature**2


def detections_loss(boxes: Tensor, scores: Tensor, teacher_boxes: Tensor, teacher_scores: Tensor) -> Tensor:
    """Divergence of the class scores and generalized IoU of the boxes, of one image.

    Args:
        boxes: Predictions of the student, xyxy [A, 4].
        scores: Of every class, 0 to 1, [A, C].
        teacher_boxes: Predictions of the teacher, xyxy [B, 4].
        teacher_scores: Of every class, [B, C].
    """
    best, label = teacher_scores.max(1)
    chosen = batched_nms(teacher_boxes, best, label, NMS_IOU)
    chosen = chosen[best[chosen] >= LEAST_SCORE][:MOST_DETECTIONS]
    if not len(chosen) or not len(boxes):
        return (boxes.sum() + scores.sum()) * 0
    overlap = box_iou(teacher_boxes[chosen], boxes.detach())
    value, nearest = overlap.topk(min(PREDICTIONS_PER_DETECTION, len(boxes)), 1)
    learns = value >= LEAST_OVERLAP
    learns[:, 0] = True
    detection, rank = learns.nonzero(as_tuple=True)
    learner, source = nearest[detection, rank], chosen[detection]
    weight = best[source]
    probability, expected = (each.clamp(1e-6, 1 - 1e-6) for each in (scores[learner], teacher_scores[source]))
    classes = (
        expected * (expected / probability).log() + (1 - expected) * ((1 - expected) / (1 - probability)).log()
    ).sum(1)
    places = generalized_box_iou_loss(boxes[learner], teacher_boxes[source])
    loss: Tensor = (weight * (classes + places)).sum() / weight.sum()
    return loss
