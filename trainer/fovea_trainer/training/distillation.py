"""Knowledge distillation: a teacher's answers to the same images are a part of the loss.

Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), for images and, pixel by pixel, for masks. Of a
detector the student's predictions learn from the teacher's detections that they overlap most: so the two may have
different anchors, levels and stages.

Where the recipe has a `featureWeight`, the student's feature maps also learn where the teacher's are active: the
activation-based attention of Zagoruyko and Komodakis, "Paying More Attention to Attention" (2017). It needs no layers
of its own, so that the two may differ in channels, and the student's may be pruned on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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

    def mix(
        self,
        parts: Mapping[str, Tensor],
        decoded: Mapping[str, Tensor],
        features: Sequence[Tensor],
        images: Tensor,
    ) -> dict[str, Tensor]:
        """The parts of the loss with the teacher's, each by its weight.

        Args:
            parts: Of the loss on the labels.
            decoded: The student's decoded outputs.
            features: The student's feature maps, as `feature_maps` keeps them.
            images: What the student saw, before normalization: uint8 [N, 3, H, W].
        """
        weight, of_features = self.settings.weight, self.settings.feature_weight
        with self.watched(self.network) as own:
            answers = self._answers(images)
        part = distillation_loss(decoded, answers, self.settings.temperature)
        mixed = {**{name: (1 - weight) * value for name, value in parts.items()}, "distillation": weight * part}
        if of_features:
            sides = images.shape[-1], self.preprocess.width
            mixed["features"] = of_features * attention_loss(paired_maps(features, own, sides))
        return mixed

    def watched(self, network: AnyNetwork) -> AbstractContextManager[list[Tensor]]:
        """Keeps the feature maps of a network's forward pass, where they are compared."""
        return feature_maps(network) if self.settings.feature_weight else nullcontext([])

    @torch.no_grad()
    def check(self, student: AnyNetwork, width: int, height: int) -> None:
        """Raises InvalidInput: feature maps are to be compared, and student and teacher have none of the same stride.

        Args:
            student: On the teacher's device; stays in the mode that it is in.
            width: Of the student's input in pixels.
            height: The same.
        """
        if not self.settings.feature_weight:
            return
        training = student.training
        student.eval()
        with feature_maps(student) as features, feature_maps(self.network) as own:
            for network, size in ((student, (height, width)), (self.network, self.size)):
                network(next(network.parameters()).new_zeros(2, 3, *size))
        student.train(training)
        if not paired_maps(features, own, (width, self.preprocess.width)):
            raise InvalidInput(
                "student and teacher have no feature maps of the same stride",
                "spec.compression.distillation.featureWeight",
                "set it to 0, or use convolutional networks for both",
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its input in pixels."""
        return self.preprocess.height, self.preprocess.width

    @torch.no_grad()
    def _answers(self, images: Tensor) -> dict[str, Tensor]:
        """Its decoded outputs for images at its own size; boxes in pixels of the images as they are given."""
        height, width = images.shape[-2:]
        seen = self.normalize(images)
        if self.size != (height, width):
            seen = F.interpolate(seen, size=self.size, mode="bilinear", antialias=True)
        decoded = self.network.decode(self.network(seen))
        if "boxes" in decoded:
            scale = decoded["boxes"].new_tensor([width / self.size[1], height / self.size[0]] * 2)
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
    names = [name for name in ("boxes", "scores", "masks") if name in student and name in teacher]
    images = [
        (Detections(**dict(zip(names, one, strict=True))), Detections(**dict(zip(names, other, strict=True))))
        for one, other in zip(
            zip(*(student[name].float() for name in names), strict=True),
            zip(*(teacher[name].float() for name in names), strict=True),
            strict=True,
        )
    ]
    return torch.stack([detections_loss(one, other) for one, other in images]).mean()


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


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector says of one image.

    Args:
        boxes: xyxy in pixels, [A, 4].
        scores: Of every class, 0 to 1, [A, C].
        masks: 0 to 1, on a grid over each box, [A, M, M]; None: it gives none.
    """

    boxes: Tensor
    scores: Tensor
    masks: Tensor | None = None


def detections_loss(student: Detections, teacher: Detections) -> Tensor:
    """Divergence of the class scores, generalized IoU of the boxes, and divergence of the masks where both have them,
    of one image."""
    best, label = teacher.scores.max(1)
    chosen = batched_nms(teacher.boxes, best, label, NMS_IOU)
    chosen = chosen[best[chosen] >= LEAST_SCORE][:MOST_DETECTIONS]
    if not len(chosen) or not len(student.boxes):
        return (student.boxes.sum() + student.scores.sum()) * 0
    overlap = box_iou(teacher.boxes[chosen], student.boxes.detach())
    value, nearest = overlap.topk(min(PREDICTIONS_PER_DETECTION, len(student.boxes)), 1)
    learns = value >= LEAST_OVERLAP
    learns[:, 0] = True
    detection, rank = learns.nonzero(as_tuple=True)
    learner, source = nearest[detection, rank], chosen[detection]
    weight, boxes = best[source], student.boxes[learner]
    errors = divergence(student.scores[learner], teacher.scores[source]).sum(1)
    errors = errors + generalized_box_iou_loss(boxes, teacher.boxes[source])
    if student.masks is not None and teacher.masks is not None:
        masks = student.masks[learner]
        expected = on_other_boxes(teacher.masks[source], teacher.boxes[source], boxes.detach(), masks.shape[-1])
        errors = errors + divergence(masks, expected).mean((1, 2))
    loss: Tensor = (weight * errors).sum() / weight.sum()
    return loss


def divergence(probability: Tensor, expected: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a probability from the expected one, for each of two outcomes."""
    probability, expected = (each.clamp(1e-6, 1 - 1e-6) for each in (probability, expected))
    return expected * (expected / probability).log() + (1 - expected) * ((1 - expected) / (1 - probability)).log()


def on_other_boxes(masks: Tensor, boxes: Tensor, others: Tensor, side: int) -> Tensor:
    """Masks on the grids of other boxes, [K, side, side]: interpolated, and 0 outside of their own.

    Args:
        masks: On a grid over each box, [K, M, M].
        boxes: xyxy, [K, 4].
        others: xyxy, [K, 4].
        side: Cells of the new grid, across and down.
    """
    cells = (torch.arange(side, device=masks.device, dtype=masks.dtype) + 0.5) / side
    low, extent = boxes[:, None, :2], (boxes[:, None, 2:] - boxes[:, None, :2]).clamp(min=1e-6)
    points = others[:, None, :2] + cells[:, None] * (others[:, None, 2:] - others[:, None, :2])  # [K, side, 2]
    across, down = (2 * (points - low) / extent - 1).unbind(-1)
    grid = torch.stack([across[:, None].expand(-1, side, -1), down[:, :, None].expand(-1, -1, side)], -1)
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]


@contextmanager
def feature_maps(network: AnyNetwork) -> Iterator[list[Tensor]]:
    """A list that is filled with the feature maps [N, C, h, w] of the network's backbone in a forward pass, fine ones
    first: those that it gives, or what it pools where it gives pooled features."""
    maps: list[Tensor] = []

    def keep(value: object) -> None:
        values = value if isinstance(value, list | tuple) else [value]
        maps.extend(each for each in values if isinstance(each, Tensor) and each.ndim == 4)

    backbone = network.backbone()
    pool = next((module for name, module in backbone.named_modules() if name.endswith("global_pool")), None)
    hooks = [backbone.register_forward_hook(lambda module, inputs, outputs: keep(outputs))]
    if pool is not None and getattr(pool, "input_fmt", "NCHW") == "NCHW":
        hooks.append(pool.register_forward_pre_hook(lambda module, inputs: keep(inputs)))
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def paired_maps(
    student: Sequence[Tensor], teacher: Sequence[Tensor], widths: tuple[int, int]
) -> list[tuple[Tensor, Tensor]]:
    """The maps of the same stride, where both have several; the last ones, where one has but one.

    Args:
        student: Feature maps [N, C, h, w].
        teacher: The same, of other channels and sizes.
        widths: Of the inputs of the two, in pixels.
    """
    if min(len(student), len(teacher)) < 2:
        return list(zip(student[-1:], teacher[-1:], strict=False))
    of_teacher = {round(widths[1] / each.shape[-1]): each for each in teacher}
    strides = [round(widths[0] / each.shape[-1]) for each in student]
    return [
        (each, of_teacher[stride])
        for stride, each in zip(strides, student, strict=True)
        if stride > 1 and stride in of_teacher
    ]


def attention_loss(maps: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Squared distance of the attention maps of student and teacher, mean over images and maps: 0 to 2."""
    losses = []
    for student, teacher in maps:
        own, expected = attention(student), attention(teacher)
        if own.shape != expected.shape:
            expected = F.interpolate(expected[:, None], own.shape[1:], mode="bilinear", antialias=True)[:, 0]
        one, other = (F.normalize(each.flatten(1)) for each in (own, expected))
        losses.append((one - other).square().sum(1).mean())
    return torch.stack(losses).mean()


def attention(features: Tensor) -> Tensor:
    """How active feature maps [N, C, h, w] are in each place: the sum of the squares over the channels, [N, h, w]."""
    return features.float().square().sum(1)
