"""Faster R-CNN: Ren et al. (2015), with torchvision's proposal network and heads, made to export cleanly.

torchvision's own graph has data-dependent shapes that the exporter refuses. Here the exported path keeps a fixed
number of proposals: the best by objectness, thinned by Fast NMS (Bolya et al., "YOLACT", 2019), which is a plain
matrix operation; and every proposal is pooled from all levels, of which its own is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from fovea_api.architectures import Option
from fovea_api.common import Task
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import roi_align

from fovea_trainer.models.anchors import Anchors
from fovea_trainer.models.bodies import Body
from fovea_trainer.models.boxes import CANDIDATES_PER_BOX, THINNING_IOU, chosen, decode, thin
from fovea_trainer.models.heads.base import Head, Options, register
from fovea_trainer.models.heads.detection import PRESET, anchor_options, anchors_for, fit_anchor_options
from fovea_trainer.models.losses import LossSettings, object_weights
from fovea_trainer.models.network import Network
from fovea_trainer.models.pyramid import BODY_STRIDES, Pyramid
from fovea_trainer.tasks.detection.targets import BoxTargets

SIZES_PER_LEVEL = 1
POOL = 7
"""Side of a pooled proposal, in cells."""
REGRESSION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


class LevelPool(nn.Module):
    """RoIAlign of every proposal from the level that fits its size; shapes depend on no value.

    Args:
        side: Of a pooled proposal, in cells.
    """

    def __init__(self, side: int = POOL) -> None:
        super().__init__()
        self.side = side

    def forward(self, features: Sequence[Tensor], boxes: list[Tensor], shapes: object = None) -> Tensor:
        """[sum of proposals, C, side, side] from proposals xyxy in input pixels; for training and export alike."""
        index = torch.cat([box.new_full((box.shape[0], 1), image) for image, box in enumerate(boxes)])
        return self.pool(features, torch.cat([index, torch.cat(boxes)], 1))

    def pool(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        """The same from rois [R, 5]: index of the image, then xyxy."""
        area = (rois[:, 3] - rois[:, 1]).clamp(min=0) * (rois[:, 4] - rois[:, 2]).clamp(min=0)
        # Equation 1 of Lin et al. (2017): a box of 112 px is seen best at stride 8, one of 224 at 16.
        level = torch.floor(torch.log2(area.sqrt() / 112 + 1e-6)).clamp(0, len(BODY_STRIDES) - 1)
        pooled = [
            roi_align(values, rois, (self.side, self.side), 1 / stride, 2)
            * (level == index).to(values.dtype)[:, None, None, None]
            for index, (values, stride) in enumerate(zip(features, BODY_STRIDES, strict=False))
        ]
        return torch.stack(pooled).sum(0)


class BoxPredictor(nn.Module):
    """Class logits [R, C + 1] and box deltas [R, 4 (C + 1)], the deltas shared by all classes."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.scores = nn.Linear(channels, classes + 1)
        self.deltas = nn.Linear(channels, 4)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.scores(features)
        return scores, self.deltas(features).repeat(1, scores.shape[-1])


@dataclass(frozen=True, slots=True)
class RawProposals:
    """Raw outputs of the first stage for N images with A anchors, and what the second one starts from.

    Args:
        features: The pyramid's levels, [N, C, h, w].
        objectness: Logits [N * A, 1].
        deltas: [N * A, 4] in the parametrization of `boxes.decode`.
        anchors: xyxy in input pixels, [A, 4].
        per_level: Anchors of each level.
        size: Height and width of the input.
    """

    features: list[Tensor]
    objectness: Tensor
    deltas: Tensor
    anchors: Tensor
    per_level: tuple[int, ...]
    size: tuple[int, int]

    @property
    def images(self) -> int:
        return self.features[0].shape[0]


@dataclass(frozen=True, slots=True)
class Sampled:
    """The proposals that a batch is trained on, for each image.

    Args:
        proposals: xyxy in input pixels, [P, 4].
        objects: Index of the object that each is matched with, int64 [P]; without meaning for the background.
        labels: Class index + 1 of each; 0 is the background, int64 [P].
    """

    proposals: list[Tensor]
    objects: list[Tensor]
    labels: list[Tensor]


B = TypeVar("B", bound=BoxTargets)


class FasterRCNN(Network[RawProposals, B]):
    """Two-stage detector with a fixed number of proposals."""

    task = Task.DETECTION
    chooses_boxes = True

    def __init__(
        self, pyramid: Pyramid, channels: int, anchors: Anchors, proposals: int, classes: int, loss: LossSettings
    ) -> None:
        super().__init__(classes, loss)
        self.pyramid, self.anchors, self.proposals = pyramid, anchors, proposals
        limits = {"training": 2 * proposals, "testing": 2 * proposals}  # the loss is the same in both modes
        self.rpn = RegionProposalNetwork(
            anchors.generator, RPNHead(channels, anchors.per_location), fg_iou_thresh=0.7, bg_iou_thresh=0.3,
            batch_size_per_image=256, positive_fraction=0.5, pre_nms_top_n=limits, post_nms_top_n=limits,
            nms_thresh=THINNING_IOU,
        )  # fmt: skip
        self.roi = RoIHeads(
            LevelPool(), TwoMLPHead(channels * POOL**2, 512), BoxPredictor(512, classes), fg_iou_thresh=0.5,
            bg_iou_thresh=0.5, batch_size_per_image=128, positive_fraction=0.25, bbox_reg_weights=REGRESSION_WEIGHTS,
            score_thresh=0.05, nms_thresh=0.5, detections_per_img=100,
        )  # fmt: skip

    def backbone(self) -> nn.Module:
        return self.pyramid.body

    def forward(self, images: Tensor) -> RawProposals:
        levels = self.pyramid(images)
        per_level = tuple(level.shape[-2] * level.shape[-1] * self.anchors.per_location for level in levels)
        objectness, deltas = concat_box_prediction_layers(*self.rpn.head(levels))
        size = (images.shape[-2], images.shape[-1])
        return RawProposals(levels, objectness, deltas, self.anchors(levels), per_level, size)

    def traced(self, images: Tensor) -> list[Tensor]:
        raw: RawProposals = self(images)
        pooled = self.roi.box_roi_pool(raw.features, fixed_proposals(images))
        return [raw.objectness, raw.deltas, *self._second_stage(pooled)]

    def loss(self, raw: RawProposals, targets: B) -> dict[str, Tensor]:
        """The losses of both stages, after torchvision's RegionProposalNetwork.forward and RoIHeads.forward."""
        return self.sampled_loss(raw, targets)[0]

    def sampled_loss(self, raw: RawProposals, targets: B) -> tuple[dict[str, Tensor], Sampled]:
        """The losses of both stages, and the proposals that the second one was trained on."""
        objects = [
            {"boxes": boxes, "labels": labels + 1}  # 0 is the background
            for boxes, labels in zip(targets.boxes, targets.labels, strict=True)
        ]
        anchors, sizes = [raw.anchors] * raw.images, [raw.size] * raw.images
        objectness, deltas = raw.objectness.float(), raw.deltas.float()
        labels, matched = self.rpn.assign_targets_to_anchors(anchors, objects)
        expected = self.rpn.box_coder.encode(matched, anchors)
        first_class, first_box = self.rpn.compute_loss(objectness, deltas, labels, expected)

        decoded = self.rpn.box_coder.decode(deltas.detach(), anchors).view(raw.images, -1, 4)
        proposals, _ = self.rpn.filter_proposals(decoded, objectness, sizes, list(raw.per_level))
        proposals, indices, labels, expected = self.roi.select_training_samples(proposals, objects)
        scores, shifts = self._second_stage(self.roi.box_roi_pool(raw.features, proposals, sizes))
        _, second_box = fastrcnn_loss(scores.float(), shifts.float(), labels, expected)
        classes = torch.cat(labels)
        weights = object_weights(len(classes), classes > 0, classes[classes > 0] - 1, self.loss_settings)
        second_class = (F.cross_entropy(scores.float(), classes, reduction="none") * weights).mean()
        parts = {"objectness": first_class, "proposalBox": first_box, "class": second_class, "box": second_box}
        return parts, Sampled(proposals, indices, labels)

    def decode(self, raw: RawProposals) -> dict[str, Tensor]:
        proposals = self._propose(raw)
        count = proposals.shape[1]
        scores, deltas = self._second_stage(self.roi.box_roi_pool.pool(raw.features, rois_of(proposals)))
        deltas = deltas[:, :4].float().reshape(-1, count, 4)
        scores = scores.float().softmax(-1)[:, 1:].reshape(-1, count, self.num_classes)
        return {"boxes": decode(deltas, proposals, *raw.size, REGRESSION_WEIGHTS), "scores": scores}

    def _second_stage(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        outputs: tuple[Tensor, Tensor] = self.roi.box_predictor(self.roi.box_head(pooled))
        return outputs

    def _propose(self, raw: RawProposals) -> Tensor:
        """The best proposals that overlap no better one much, xyxy [N, P, 4]."""
        anchors = raw.anchors
        objectness = raw.objectness.float().reshape(-1, anchors.shape[0])
        candidates = min(CANDIDATES_PER_BOX * self.proposals, anchors.shape[0])
        index = objectness.topk(candidates, 1).indices
        deltas = chosen(raw.deltas.float().reshape(-1, anchors.shape[0], 4), index)
        boxes = decode(deltas, chosen(anchors.expand(index.shape[0], -1, -1), index), *raw.size)
        return chosen(boxes, thin(boxes, self.proposals))


def fixed_proposals(images: Tensor) -> list[Tensor]:
    """The same proposal in every image, xyxy [1, 4]: half of it in width and height."""
    height, width = images.shape[-2:]
    return [images.new_tensor([[0.0, 0.0, width / 2, height / 2]])] * len(images)


def rois_of(boxes: Tensor) -> Tensor:
    """[N * P, 5]: index of the image, then xyxy, from the boxes of each image [N, P, 4]."""
    image = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)
    return torch.cat([image[:, None, None].expand(-1, boxes.shape[1], 1), boxes], 2).flatten(0, 1)


def build(body: Body, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> FasterRCNN[BoxTargets]:
    channels = options.integer("fpnChannels")
    anchors = anchors_for(options, SIZES_PER_LEVEL)
    pyramid = Pyramid(body, channels, anchors.strides, pretrained)
    return FasterRCNN(pyramid, channels, anchors, options.integer("proposals"), classes, loss)


fit = partial(fit_anchor_options, sizes_per_level=SIZES_PER_LEVEL)
NOTES = (
    "Proposals are thinned by Fast NMS in the graph; the final NMS is not part of it.",
    "Box regression is shared by all classes.",
)


def proposal_options(proposals: int) -> tuple[Option, ...]:
    """The options of a two-stage head, with its default number of proposals."""
    return (
        Option(name="fpnChannels", type="Integer", default=96, min=16, max=512,
               description="Channels of the feature pyramid."),
        *anchor_options(),
        Option(name="proposals", type="Integer", default=proposals, min=16, max=2000,
               description="Proposals of an image; the number of boxes in the exported output."),
    )  # fmt: skip


FASTER_RCNN = Head(
    "fasterrcnn", task=Task.DETECTION, losses=("CrossEntropy",), build=build, fit=fit, options=proposal_options(200),
    size=(320, 320), multiple=16, licence="BSD-3-Clause", notes=NOTES, preset=PRESET,
)  # fmt: skip
register(FASTER_RCNN)
