"""What can never work is refused before any work, with its field and the nearest valid values."""

from __future__ import annotations

from typing import Any

import pytest
from fovea_api.compatibility import incompatibilities as problems
from fovea_api.dataset import DatasetSpec
from fovea_api.errors import InvalidInput, refuse
from fovea_api.trainingjob import TrainingJobSpec
from pydantic import ValidationError

RETINANET, RESNET = {"architecture": "retinanet-efficientnet-lite0"}, {"architecture": "resnet18"}
UNET = {"architecture": "unet-efficientnet-lite0"}
FASTER_RCNN = {"architecture": "fasterrcnn"}
AUTO = {"architecture": "Auto"}
RESNET_FPN = {"backbone": "resnet50", "fpnChannels": 256}


def spec(model: dict[str, Any], **more: Any) -> TrainingJobSpec:
    return TrainingJobSpec.model_validate({"datasetRef": {"name": "cells"}, "model": model, **more})


def dataset(task: str = "Detection", **more: Any) -> DatasetSpec:
    sources = [{"name": "lab", "uri": "s3://lab/cells", "format": "COCO"}]
    return DatasetSpec.model_validate({"task": task, "sources": sources, **more})


def criteria(*metrics: str, **more: Any) -> dict[str, Any]:
    return {"successCriteria": [{"metric": metric, "min": 0.5} for metric in metrics], **more}


SITUATIONS: dict[str, tuple[tuple[InvalidInput, ...], str, str, str]] = {
    # what is found, its reason, its field, a part of the remedy
    "no such architecture": (
        problems(spec({"architecture": "retinanet-eficientnet-lite0"})),
        "UnknownArchitecture", "spec.model.architecture", "did you mean retinanet-efficientnet-lite0",
    ),
    "no such option": (
        problems(spec(RESNET | {"options": {"depth": 3}})), "InvalidOption", "spec.model.options.depth", "width"
    ),
    "a list of the wrong length": (
        problems(spec(RETINANET | {"options": {"anchorSizes": [16, 32]}})),
        "InvalidOption", "spec.model.options.anchorSizes", "give a list of 3, 5, 6, 10 or 15 numbers from 4 to 4096",
    ),
    "options where the architecture is open": (
        problems(spec(AUTO | {"options": {"width": 0.5}})), "InvalidOption", "spec.model.options", "remove them"
    ),
    "a candidate that does not exist": (
        problems(spec(AUTO | {"candidates": ["yolo", "yol"]}), dataset()),
        "UnknownArchitecture", "spec.model.candidates[1]", "did you mean yolo",
    ),
    "a candidate of another task": (
        problems(spec(AUTO | {"candidates": ["resnet18", "yolo"]}), dataset()),
        "TaskMismatch", "spec.model.candidates[0]", "use one of fasterrcnn, ",
    ),
    "a criterion that none of the candidates is measured by": (
        problems(spec(AUTO, **criteria("test/dice")), dataset()),
        "UnknownMetric", "spec.successCriteria[0].metric", "did you mean test/f1",
    ),
    "a dataset of another task": (
        problems(spec(RESNET), dataset()),
        "TaskMismatch", "spec.model.architecture", "use one of fasterrcnn, ",
    ),
    "weights that nobody published": (
        problems(spec(RESNET | {"pretrained": {"weights": "COCO"}})),
        "InvalidOption", "spec.model.pretrained.weights", "use one of None, ImageNet, or uri",
    ),
    "weights of another width": (
        problems(spec(RESNET | {"options": {"width": 0.5}})),
        "InvalidOption", "spec.model.pretrained.weights", "set weights: None, or leave width at the default",
    ),
    "an unsuited loss": (
        problems(spec(RETINANET, training={"loss": "Dice"})),
        "UnsuitableLoss", "spec.training.loss", "use Default or one of Focal, SmoothL1, GIoU, DIoU, CIoU",
    ),
    "an unsuited term of a sum of losses": (
        problems(spec(UNET, training={"losses": [{"name": "Dice"}, {"name": "GIoU"}]})),
        "UnsuitableLoss", "spec.training.losses[1].name", "use one of DiceCrossEntropy, ",
    ),
    "a sum of losses where there is one": (
        problems(spec(FASTER_RCNN, training={"losses": [{"name": "CrossEntropy"}]})),
        "UnsuitableLoss", "spec.training.losses", "remove it",
    ),
    "blends of images with objects": (
        problems(spec(RETINANET, input={"augmentations": [{"blur": {}}, {"mixUp": {}}]})),
        "InvalidOption", "spec.input.augmentations[1].mixUp", "it is for Classification",
    ),
    "a mosaic of classified images": (
        problems(spec(RESNET, input={"augmentations": [{"mosaic": {}}]})),
        "InvalidOption", "spec.input.augmentations[0].mosaic", "it is for Detection and SemanticSegmentation",
    ),
    "a change after that of the size": (
        problems(spec(RETINANET, input={"augmentations": [{"multiScale": {}}, {"blur": {}}]})),
        "InvalidOption", "spec.input.augmentations[0].multiScale", "put it last",
    ),
    "several sizes of inputs that have one": (
        problems(spec({"architecture": "timm/test_vit"}, input={"augmentations": [{"multiScale": {}}]})),
        "InvalidOption", "spec.input.augmentations[0].multiScale", "remove it",
    ),
    "two scales of whole pictures": (
        problems(spec(UNET, input={"augmentations": [{"mosaic": {}}, {"randomResizedCrop": {}}]})),
        "InvalidOption", "spec.input.augmentations[1].randomResizedCrop", "remove it, or mosaic",
    ),
    "class weights of a loss of regions": (
        problems(spec(UNET, training={"loss": "Dice"}, input={"balance": "ClassWeights"})),
        "UnsuitableLoss", "spec.input.balance",
        "use Oversample or Undersample, or use the loss DiceCrossEntropy or CrossEntropy or Focal or",
    ),
    "weights of the whole network for options that it does not have": (
        problems(spec(FASTER_RCNN | {"options": {"backbone": "resnet50"}, "pretrained": {"weights": "COCO"}})),
        "InvalidOption", "spec.model.pretrained.weights", "those of COCO take backbone: resnet50, fpnChannels: 256",
    ),
    "an input size that does not fit": (
        problems(spec(UNET, input={"size": {"width": 500, "height": 512}})),
        "InvalidOption", "spec.input.size", "the nearest is 512 x 512",
    ),
    "windows that do not fit": (
        problems(spec(UNET, input={"augmentations": [{"blur": {}}, {"randomCrop": {"width": 64, "height": 70}}]})),
        "InvalidOption", "spec.input.augmentations[1].randomCrop", "the nearest is 64 x 64",
    ),
    "suppression where there are no boxes": (
        problems(spec(RESNET, export={"nms": True})), "InvalidOption", "spec.export.nms", "remove it",
    ),
    "more workers than the preset's batch has images": (
        problems(spec(RETINANET, compute={"workers": 9})),
        "InvalidInput", "spec.training.batchSize", "give 9 or more, or lower compute.workers",
    ),
    "a primary metric of another task": (
        problems(spec(RETINANET, evaluation={"primaryMetric": "accuracy"})),
        "UnknownMetric", "spec.evaluation.primaryMetric", "use one of mAP, mAP50, precision, recall, loss",
    ),
    "a metric to watch that there is not": (
        problems(spec(RESNET, training={"earlyStopping": {"metric": "validation/acuracy"}})),
        "UnknownMetric", "spec.training.earlyStopping.metric", "did you mean validation/accuracy",
    ),
    "a misspelt criterion": (
        problems(spec(RETINANET, **criteria("test/mAP", "test/map50"))),
        "UnknownMetric", "spec.successCriteria[1].metric", "did you mean test/mAP50",
    ),
    "a criterion without its unit": (
        problems(spec(RESNET, **criteria("latency/p95"))),
        "UnknownMetric", "spec.successCriteria[0].metric", "latency/p95Milliseconds",
    ),
    "a criterion on a split that does not exist": (
        problems(spec(RESNET, **criteria("tests/accuracy"))),
        "UnknownMetric", "spec.successCriteria[0].metric", "did you mean test/accuracy",
    ),
    "a criterion on small objects, by which nothing is broken down": (
        problems(spec(RETINANET, **criteria("test/mAPSmall", evaluation={"slices": ["class"]}))),
        "UnknownMetric", "spec.successCriteria[0].metric", "test/mAP",
    ),
    "a criterion on a class by a metric of all": (
        problems(spec(RETINANET, **criteria("test/mAP50/RBC"))),
        "UnknownMetric", "spec.successCriteria[0].metric", "test/AP50/RBC",
    ),
    "a criterion on a class that the dataset does not name": (
        problems(spec(RETINANET, **criteria("test/AP/RCB")), dataset(classes=["RBC", "WBC"])),
        "UnknownMetric", "spec.successCriteria[0].metric", "test/AP/RBC",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_it_is_refused_with_field_and_remedy(name: str) -> None:
    (problem,), reason, place, remedy = SITUATIONS[name]
    assert (problem.reason, problem.location) == (reason, place)
    assert remedy in str(problem)


@pytest.mark.parametrize(
    ("given", "data"),
    [
        (spec(RETINANET), None),
        (spec(AUTO), dataset()),
        (spec(AUTO, training={"loss": "SmoothL1"}), dataset()),  # of some; the others are left out
        (spec(AUTO | {"candidates": ["timm/test_vit", "resnet18"]}), dataset("Classification")),
        (spec(RETINANET, **criteria("test/mAP50", "validation/AP/RBC", "test/mAPSmall")), dataset(classes=["RBC"])),
        (spec(RETINANET, **criteria("test/AP50/anything", "size/megabytes", "latency/p50Milliseconds")), dataset()),
        (spec(RESNET | {"options": {"width": 0.5}, "pretrained": {"weights": "None"}}), dataset("Classification")),
        (spec(RESNET, training={"earlyStopping": {"metric": "validation/loss"}}), None),
        (spec({"architecture": "maskrcnn"}, export={"nms": True}), dataset("InstanceSegmentation")),
        (spec({"architecture": "fcos", "options": RESNET_FPN, "pretrained": {"weights": "COCO"}}), dataset()),
        (spec(UNET, evaluation={"primaryMetric": "iou"}, training={"loss": "Dice"}), None),
    ],
)
def test_what_works_is_not_refused(given: TrainingJobSpec, data: DatasetSpec | None) -> None:
    assert problems(given, data) == ()


def test_all_problems_are_reported_at_once() -> None:
    found = problems(spec(RESNET, training={"loss": "GIoU"}, **criteria("test/mAP")))
    assert [each.reason for each in found] == ["UnsuitableLoss", "UnknownMetric"]
    with pytest.raises(InvalidInput, match=r"(?s)loss: .*successCriteria\[0\]"):
        refuse(found)


def test_of_a_mismatch_no_consequences_are_reported() -> None:
    found = problems(spec(RESNET, **criteria("test/mAP")), dataset())
    assert [each.reason for each in found] == ["TaskMismatch"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (RESNET | {"candidates": ["resnet18"]}, "candidates belong to architecture Auto"),
        (AUTO | {"pretrained": {"uri": "s3://models/x"}}, "these weights are of one architecture"),
        (AUTO | {"pretrained": {"trainingJobRef": {"name": "cells"}}}, "these weights are of one architecture"),
        (AUTO | {"candidates": ["Auto"]}, "String should match pattern"),
    ],
)
def test_what_does_not_go_with_an_open_architecture_is_refused_at_apply(model: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        spec(model)
