"""Faster R-CNN: Ren et al. (2015), with torchvision's proposal network and heads, made to export cleanly.

torchvision's own graph has data-dependent shapes that the exporter refuses. Here the exported path keeps a fixed
number of proposals: the best by objectness, thinned by Fast NMS (Bolya et al., "YOLACT", 2019), which is a plain
matrix operation; and every proposal is pooled from all levels, of which its own is taken.
"""

from __future__ import annotations

import torch
from fovea_api.architectures import Architecture, Option
from fovea_api.common import Task
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import roi_align

from fovea_trainer.models.boxes import Anchors, decode
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.network import Network, Targets
from fovea_trainer.models.pyramid import STRIDES, Pyramid
from fovea_trainer.models.registry import Options, register

HALF = (0.5, 0.5, 0.5)
POOL = 7
"""Side of a pooled proposal, in cells."""
PROPOSAL_IOU = 0.7
"""Of two proposals that overlap more, the better one stays."""
CANDIDATES_PER_PROPOSAL = 4
"""Proposals by objectness that are thinned to the number asked for."""
REGRESSION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


class LevelPool(nn.Module):
    """RoIAlign of every proposal from the level that fits its size; shapes depend on no value."""

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], shapes: object = None) -> Tensor:
        """[sum of proposals, C, POOL, POOL] from proposals xyxy in input pixels; for training and export alike."""
        index = torch.cat([box.new_full((box.shape[0], 1), image) for image, box in enumerate(boxes)])
        return self.pool(features, torch.cat([index, torch.cat(boxes)], 1))

    def pool(self, features: dict[str, Tensor], rois: Tensor) -> Tensor:
        """The same from rois [R, 5]: index of the image, then xyxy."""
        area = (rois[:, 3] - rois[:, 1]).clamp(min=0) * (rois[:, 4] - rois[:, 2]).clamp(min=0)
        # Equation 1 of Lin et al. (2017): a box of 112 px is seen best at stride 8, one of 224 at 16.
        level = torch.floor(torch.log2(area.sqrt() / 112 + 1e-6)).clamp(0, len(STRIDES) - 1)
        pooled = [
            roi_align(values, rois, (POOL, POOL), 1 / stride, 2)
            * (level == index).to(values.dtype)[:, None, None, None]
            for index, (values, stride) in enumerate(zip(features.values(), STRIDES, strict=True))
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


class FasterRCNN(Network):
    """Two-stage detector with a fixed number of proposals."""

    task = Task.DETECTION

    def __init__(
        self, pyramid: Pyramid, channels: int, anchors: Anchors, proposals: int, classes: int, loss: LossSettings
    ) -> None:
        super().__init__(classes, loss)
        self.pyramid, self.anchors, self.proposals = pyramid, anchors, proposals
        limits = {"training": 2 * proposals, "testing": proposals}
        generator: AnchorGenerator = anchors.generator
        self.rpn = RegionProposalNetwork(
            generator, RPNHead(channels, anchors.per_location), fg_iou_thresh=0.7, bg_iou_thresh=0.3,
            batch_size_per_image=256, positive_fraction=0.5, pre_nms_top_n=limits, post_nms_top_n=limits,
            nms_thresh=PROPOSAL_IOU,
        )  # fmt: skip
        self.roi = RoIHeads(
            LevelPool(), TwoMLPHead(channels * POOL**2, 512), BoxPredictor(512, classes), fg_iou_thresh=0.5,
            bg_iou_thresh=0.5, batch_size_per_image=128, positive_fraction=0.25, bbox_reg_weights=REGRESSION_WEIGHTS,
            score_thresh=0.05, nms_thresh=0.5, detections_per_img=100,
        )  # fmt: skip

    def backbone(self) -> nn.Module:
        return self.pyramid.body

    def losses(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        features = self.pyramid(images)
        sizes = [(images.shape[-2], images.shape[-1])] * images.shape[0]
        truth = [
            {"boxes": boxes, "labels": labels + 1}  # 0 is the background
            for boxes, labels in zip(targets.boxes, targets.box_labels, strict=True)
        ]
        training = self.training
        self.rpn.train()  # torchvision gives losses in training mode only
        self.roi.train()
        proposals, first = self.rpn(ImageList(images, sizes), features, truth)
        _, second = self.roi(features, proposals, sizes, truth)
        self.rpn.train(training)
        self.roi.train(training)
        return {
            "objectness": first["loss_objectness"],
            "proposalBox": first["loss_rpn_box_reg"],
            "class": second["loss_classifier"],
            "box": second["loss_box_reg"],
        }

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.pyramid(images)
        height, width = images.shape[-2:]
        proposals = self._propose(images, list(features.values()))
        count = proposals.shape[1]
        image = torch.arange(images.shape[0], device=images.device, dtype=proposals.dtype)
        rois = torch.cat([image[:, None, None].expand(-1, count, 1), proposals], 2).flatten(0, 1)
        scores, deltas = self.roi.box_predictor(self.roi.box_head(self.roi.box_roi_pool.pool(features, rois)))
        deltas = deltas[:, :4].float().reshape(-1, count, 4)
        scores = scores.float().softmax(-1)[:, 1:].reshape(-1, count, self.num_classes)
        return decode(deltas, proposals, height, width, REGRESSION_WEIGHTS), scores

    def _propose(self, images: Tensor, levels: list[Tensor]) -> Tensor:
        """The best proposals that overlap no better one much, xyxy [N, P, 4]."""
        height, width = images.shape[-2:]
        objectness, deltas = self.rpn.head(levels)
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        anchors = self.anchors(images, levels)
        objectness = objectness.float().reshape(-1, anchors.shape[0])
        candidates = min(CANDIDATES_PER_PROPOSAL * self.proposals, anchors.shape[0])
        scores, index = objectness.topk(candidates, 1)
        index = index.unsqueeze(-1).expand(-1, -1, 4)
        deltas = deltas.float().reshape(-1, anchors.shape[0], 4).gather(1, index)
        boxes = decode(deltas, anchors.expand(index.shape[0], -1, -1).gather(1, index), height, width)
        worst = torch.triu(_iou(boxes), 1).amax(1)
        scores = torch.where(worst > PROPOSAL_IOU, scores - 1e4, scores)
        _, kept = scores.topk(min(self.proposals, candidates), 1)
        return boxes.gather(1, kept.unsqueeze(-1).expand(-1, -1, 4))


def _iou(boxes: Tensor) -> Tensor:
    """Intersection over union of all pairs, [N, K, K], from xyxy [N, K, 4]."""
    low = boxes[:, :, None, :2].maximum(boxes[:, None, :, :2])
    high = boxes[:, :, None, 2:].minimum(boxes[:, None, :, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    return both / (area[:, :, None] + area[:, None, :] - both).clamp(min=1e-6)


@register(
    Architecture(
        name="fasterrcnn", task=Task.DETECTION,
        description="Faster R-CNN (Ren et al. 2015) on an EfficientNet-Lite0 feature pyramid.",
        width=320, height=320, multiple=16, mean=HALF, std=HALF, weights=("None", "ImageNet"), packaged=("ImageNet",),
        losses=("CrossEntropy",), licence="BSD-3-Clause; backbone weights Apache-2.0",
        options=(
            Option(name="fpnChannels", type="Integer", default=96, min=16, max=512,
                   description="Channels of the feature pyramid."),
            Option(name="anchorSizes", type="Numbers", default=(24, 60, 120), min=4, max=2048, lengths=(3,),
                   description="Anchor sizes in input pixels of strides 8, 16 and 32."),
            Option(name="anchorRatios", type="Numbers", default=(0.7, 1.0, 1.4), min=0.05, max=20,
                   description="Height over width of the anchors."),
            Option(name="proposals", type="Integer", default=200, min=16, max=2000,
                   description="Proposals of an image; the number of boxes in the exported output."),
        ),
        notes=("Proposals are thinned by Fast NMS in the graph; the final NMS is not part of it.",
               "Box regression is shared by all classes."),
    )
)  # fmt: skip
def build(info: Architecture, options: Options, classes: int, loss: LossSettings, pretrained: bool) -> FasterRCNN:
    channels, sizes = options.integer("fpnChannels"), options.numbers("anchorSizes")
    anchors = Anchors([[size] for size in sizes], options.numbers("anchorRatios"))
    pyramid = Pyramid(channels, pretrained)
    return FasterRCNN(pyramid, channels, anchors, options.integer("proposals"), classes, loss)
