"""What is refused and what is not: by the API server at `kubectl apply`, and by the models in a local run.

Both are held to one table: a change to a good manifest, the field path that the refusal must name, and a part
of the API server's message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from fovea_api.errors import problems
from fovea_api.schema import KINDS
from pydantic import ValidationError

from tests.controlplane.conftest import ControlPlane, Refused, good

REMOVE = object()
LONG = "x" * 3000


@dataclass(frozen=True)
class Changed:
    """A change to a good manifest."""

    kind: str
    patch: dict[str, Any] = field(hash=False)
    """Path to new value; a path is dotted, numbers index lists; REMOVE removes."""
    path: str = ""
    """Field path that the refusal names; empty for a change that is accepted."""
    message: str = ""
    """Part of the API server's message."""

    def manifest(self) -> dict[str, Any]:
        manifest = good(self.kind)
        for path, value in self.patch.items():
            _set(manifest, path.split("."), value)
        return manifest

    def __str__(self) -> str:
        changes = ",".join(f"{path}={str(value)[:24]}" for path, value in self.patch.items())
        return f"{self.kind}-{changes}"


def _set(node: Any, path: list[str], value: object) -> None:
    key: Any = int(path[0]) if path[0].isdigit() else path[0].replace("~", ".")
    if len(path) > 1:
        if isinstance(node, dict) and key not in node:
            node[key] = {}
        _set(node[key], path[1:], value)
    elif value is REMOVE:
        del node[key]
    elif isinstance(key, int) and key == len(node):
        node.append(value)
    else:
        node[key] = value


LAB = "spec.sources.0"
REVIEW = "spec.prelabel.export.format"
_D, _T, _S, _M = "dataset", "trainingjob", "tuningsweep", "modeldeployment"
S = "spec.sources[0]"

WRONG = (
    # Names
    Changed(_D, {"metadata.name": "1cells"}, "metadata.name", "DNS-1035"),
    Changed(_T, {"metadata.name": "blood.cells"}, "metadata.name", "DNS-1035"),
    Changed(_M, {"metadata.name": "a" * 64}, "metadata.name", "at most 63"),
    # Dataset
    Changed(_D, {"spec.task": "Segmentation"}, "spec.task", "Detection"),
    Changed(_D, {"spec.task": REMOVE}, "spec.task", "Required"),
    Changed(
        _D,
        {"spec.task": "InstanceSegmentation", f"{LAB}.format": "Masks"},
        "spec.sources",
        "InstanceSegmentation can be read from COCO, YOLO, PascalVOC",
    ),
    Changed(_D, {"spec.sources": []}, "spec.sources", "at least 1"),
    Changed(_D, {"spec.sources": REMOVE}, "spec.sources", "Required"),
    Changed(_D, {f"{LAB}.name": "Lab 1"}, f"{S}.name", "should match"),
    Changed(_D, {"spec.sources.1.name": "lab"}, "spec.sources", "duplicate entries"),
    Changed(_D, {f"{LAB}.uri": "ftp://lab/bccd"}, f"{S}.uri", "should match"),
    Changed(_D, {f"{LAB}.uri": REMOVE}, S, "exactly one of uri, video, generator, captures"),
    Changed(_D, {f"{LAB}.video": {"uri": "pvc://a/b.mp4"}}, S, "exactly one of"),
    Changed(_D, {f"{LAB}.format": REMOVE}, f"{S}.format", "format belongs to uri"),
    Changed(_D, {f"{LAB}.format": "VOC"}, f"{S}.format", "PascalVOC"),
    Changed(_D, {f"{LAB}.format": "ImageFolder"}, "spec.sources", "Detection can be read from PascalVOC, COCO, YOLO"),
    Changed(_D, {"spec.task": "SemanticSegmentation"}, "spec.sources", "can be read from Masks, COCO"),
    Changed(_D, {f"{LAB}.format": "Video"}, f"{S}.format", "give them as video: {uri: …}"),
    Changed(_D, {f"{LAB}.uri": "https://example.com/bccd.zip"}, f"{S}.sha256", "needs the sha256"),
    Changed(_D, {f"{LAB}.sha256": "abc"}, f"{S}.sha256", "should match"),
    Changed(_D, {"spec.sources.2.sha256": "a" * 64}, "spec.sources[2].sha256", "belongs to uri"),
    Changed(_D, {f"{LAB}.maskValues": {"cell": 255}}, f"{S}.maskValues", "format Masks"),
    Changed(_D, {f"{LAB}.format": "Masks", f"{LAB}.maskValues": {"cell": 256}}, f"{S}.maskValues.cell", "255"),
    Changed(
        _D, {f"{LAB}.format": "Masks", f"{LAB}.maskColors": {"cell": "red"}}, f"{S}.maskColors.cell", "should match"
    ),
    Changed(
        _D,
        {f"{LAB}.format": "Masks", f"{LAB}.imagePattern": "i/{name}.png"},
        f"{S}.maskPattern",
        "give both or neither",
    ),
    Changed(
        _D,
        {f"{LAB}.format": "Masks", f"{LAB}.imagePattern": "i/{name}.png", f"{LAB}.maskPattern": "m/{id}.png"},
        f"{S}.maskPattern",
        "need the same",
    ),
    Changed(_D, {"spec.splits.colour": "red"}, "spec.splits.colour", "not declared"),
    Changed(
        _D, {"spec.sources.2.video.uri": "https://e.com/a.mp4"}, "spec.sources[2].video.uri", "nothing is download"
    ),
    Changed(
        _D, {"spec.sources.2.video.uri": "rtsp://u:p@c/s"}, "spec.sources[2].video.uri", "in the Secret of secretRef"
    ),
    Changed(
        _D,
        {"spec.sources.2.video.uri": "pvc://c/a", "spec.sources.2.video.recordDuration": "5m"},
        "spec.sources[2].video.recordDuration",
        "rtsp:// only",
    ),
    Changed(
        _D,
        {"spec.sources.2.video.uri": "rtsp://c/s", "spec.sources.2.video.recordDuration": "25h"},
        "spec.sources[2].video.recordDuration",
        "from 1s to 24h",
    ),
    Changed(_D, {"spec.sources.2.video.everySeconds": 0}, "spec.sources[2].video.everySeconds", "greater than 0"),
    Changed(
        _D,
        {"spec.sources.2.video.maxFrames": 0},
        "spec.sources[2].video.maxFrames",
        "greater than or equal to 1",
    ),
    Changed(_D, {"spec.sources.3.generator.image": ""}, "spec.sources[3].generator.image", "at least 1"),
    Changed(_D, {"spec.sources.3.generator.format": REMOVE}, "spec.sources[3].generator.format", "Required"),
    Changed(_D, {"spec.sources.3.generator.format": "Video"}, "spec.sources[3].generator.format", "formats of labels"),
    Changed(
        _D, {"spec.sources.3.generator.format": "Captures"}, "spec.sources[3].generator.format", "formats of labels"
    ),
    Changed(_D, {"spec.sources.3.generator.format": "IDX"}, "spec.sources", "Detection can be read from PascalVOC"),
    Changed(_D, {"spec.sources.3.name": "s" * 54}, "spec.sources[3].name", "at most 53 letters"),
    Changed(_D, {"spec.sources.3.maskValues": {"cell": 255}}, "spec.sources[3].maskValues", "format Masks"),
    Changed(_D, {"spec.sources.3.secretRef": {"name": "keys"}}, "spec.sources[3].secretRef", "rtsp:// only"),
    Changed(_D, {"spec.sources.4.format": REMOVE}, "spec.sources[4].format", "format belongs to uri"),
    Changed(_D, {"spec.prelabel.minConfidence": 80}, "spec.prelabel.minConfidence", "less than or equal to 1"),
    Changed(_D, {"spec.prelabel.export": REMOVE}, "spec.prelabel.export", "AfterReview needs export"),
    Changed(_D, {"spec.prelabel.use": "Later"}, "spec.prelabel.use", "AfterReview"),
    Changed(_D, {"spec.prelabel.export.format": "YOLO"}, "spec.prelabel.export.format", "CVAT"),
    Changed(_D, {"spec.classes": ["RBC", "RBC"]}, "spec.classes", "duplicate entries"),
    Changed(_D, {"spec.classes": [""]}, "spec.classes[0]", "at least 1"),
    Changed(_D, {"spec.classMap": {"": "RBC"}}, "spec.classMap", "at least 1 characters"),
    Changed(_D, {"spec.splits.ratios.train": 0.9}, "spec.splits.ratios", "must sum to 1"),
    Changed(_D, {"spec.splits.ratios.test": REMOVE}, "spec.splits.ratios.test", "Required"),
    Changed(_D, {"spec.splits.ratios.train": 0}, "spec.splits.ratios.train", "greater than 0"),
    Changed(_D, {"spec.splits.groupBy.pattern": "^slide"}, "spec.splits.groupBy.pattern", "named group"),
    Changed(_D, {"spec.splits.seed": -1}, "spec.splits.seed", "greater than or equal to 0"),
    Changed(_D, {"spec.splits.stratify": "yes please"}, "spec.splits.stratify", "boolean"),
    Changed(_D, {"spec.quality.onCorruptImage": "Ignore"}, "spec.quality.onCorruptImage", "Drop"),
    Changed(_D, {"spec.quality.minImagesPerClass": 1.5}, "spec.quality.minImagesPerClass", "integer"),
    Changed(_D, {"spec.refresh.schedule": "daily"}, "spec.refresh.schedule", "should match"),
    Changed(_D, {"spec.exclude.uri": "https://example.com/a.txt"}, "spec.exclude.uri", "nothing is downloaded here"),
    Changed(_D, {f"{LAB}.secretRef": {"name": "lab"}}, f"{LAB.replace('.0', '[0]')}.secretRef", "rtsp:// only"),
    Changed(_D, {"spec.retainVersions": 0}, "spec.retainVersions", "greater than or equal to 1"),
    Changed(_D, {"spec.problem.statement": LONG}, "spec.problem.statement", "Too long"),
    Changed(_D, {"spec.compute.workers": 1000}, "spec.compute.workers", "less than or equal to 64"),
    Changed(_D, {"spec.runPolicy.retries": -1}, "spec.runPolicy.retries", "greater than or equal to 0"),
    Changed(_D, {"spec.runPolicy.onChange": "NewRun"}, "spec.runPolicy.onChange", "not declared"),
    # TrainingJob
    Changed(_T, {"spec.datasetRef": REMOVE}, "spec.datasetRef", "Required"),
    Changed(_T, {"spec.datasetRef.version": "newest"}, "spec.datasetRef.version", "should match"),
    Changed(_T, {"spec.datasetRef.namespace": "other"}, "spec.datasetRef.namespace", "not declared"),
    Changed(_T, {"spec.model.architecture": "Retina Net"}, "spec.model.architecture", "should match"),
    Changed(_T, {"spec.model.pretrained.from": "Current"}, "spec.model.pretrained", "exactly one of"),
    Changed(_T, {"spec.model.pretrained": {}}, "spec.model.pretrained", "exactly one of"),
    Changed(_T, {"spec.model.pretrained.weights": "Imagenet"}, "spec.model.pretrained.weights", "ImageNet"),
    Changed(
        _T,
        {"spec.model.pretrained": {"uri": "https://example.com/a.pth"}},
        "spec.model.pretrained.uri",
        "nothing is downloaded here",
    ),
    Changed(_T, {"spec.model.freeze": "All"}, "spec.model.freeze", "Backbone"),
    Changed(_T, {"spec.input.size.width": 8}, "spec.input.size.width", "greater than or equal to 16"),
    Changed(_T, {"spec.input.size.height": REMOVE}, "spec.input.size.height", "Required"),
    Changed(_T, {"spec.input.normalize.mean": [0.5]}, "spec.input.normalize.mean", "at least 3"),
    Changed(_T, {"spec.input.normalize.std.1": 0}, "spec.input.normalize.std[1]", "greater than 0"),
    Changed(_T, {"spec.input.augmentations.0": {}}, "spec.input.augmentations[0]", "exactly one of"),
    Changed(
        _T, {"spec.input.augmentations": [{"mosaic": {}}, {"mosaic": {}}]}, "spec.input.augmentations", "mosaic once"
    ),
    Changed(
        _T,
        {"spec.input.augmentations.0.rotate": {"degrees": 5}},
        "spec.input.augmentations[0]",
        "exactly one",
    ),
    Changed(
        _T,
        {"spec.input.augmentations.2.rotate.degrees": 270},
        "spec.input.augmentations[2].rotate.degrees",
        "180",
    ),
    Changed(
        _T,
        {"spec.input.augmentations.0": {"randomScale": {"min": 2, "max": 1}}},
        "spec.input.augmentations[0].randomScale.min",
        "min must not exceed max",
    ),
    Changed(_T, {"spec.training.epochs": 0}, "spec.training.epochs", "greater than or equal to 1"),
    Changed(_T, {"spec.training.epochs": "8"}, "spec.training.epochs", "numeric"),
    Changed(_T, {"spec.training.batchSize": -8}, "spec.training.batchSize", "greater than or equal to 1"),
    Changed(_T, {"spec.training.loss": "Hinge"}, "spec.training.loss", "CrossEntropy"),
    Changed(_T, {"spec.training.optimizer.name": "Adagrad"}, "spec.training.optimizer.name", "AdamW"),
    Changed(
        _T,
        {"spec.training.optimizer.learningRate": 0},
        "spec.training.optimizer.learningRate",
        "greater than 0",
    ),
    Changed(_T, {"spec.training.schedule.name": "Step"}, "spec.training.schedule.stepEpochs", "stepEpochs belongs"),
    Changed(_T, {"spec.training.schedule.warmupEpochs": 9}, "spec.training.schedule.warmupEpochs", "exceed epochs"),
    Changed(_T, {"spec.training.earlyStopping.metric": "test/mAP"}, "spec.training.earlyStopping.metric", "unseen"),
    Changed(_T, {"spec.training.ema.decay": 1}, "spec.training.ema.decay", "less than 1"),
    Changed(_T, {"spec.training.gradientClipNorm": -1}, "spec.training.gradientClipNorm", "or equal to 0"),
    Changed(_T, {"spec.training.precision": "INT8"}, "spec.training.precision", "BF16"),
    Changed(_T, {"spec.training.batchSize": 1}, "spec.training.batchSize", "an image for each worker"),
    Changed(_T, {"spec.successCriteria.0.metric": "train/mAP50"}, "spec.successCriteria", "needs train in evaluation"),
    Changed(_T, {"spec.evaluation.splits": ["validation"]}, "spec.successCriteria", "needs test in evaluation.splits"),
    Changed(
        _T,
        {"spec.compression.quantization": {"mode": "Dynamic", "fineTuneEpochs": 2}, "spec.export.deferred": []},
        "spec.compression.quantization.fineTuneEpochs",
        "use mode: Static",
    ),
    Changed(
        _T,
        {"spec.compression.quantization": {"mode": "Dynamic"}, "spec.export.deferred": ["TensorRT"]},
        "spec.compression.quantization.mode",
        "TensorRT reads no ranges that are computed at inference time",
    ),
    Changed(_T, {"spec.evaluation.splits": []}, "spec.evaluation.splits", "at least 1"),
    Changed(_T, {"spec.evaluation.splits": ["test", "test"]}, "spec.evaluation.splits", "duplicate entries"),
    Changed(_T, {"spec.compression.pruning.sparsity": 1}, "spec.compression.pruning.sparsity", "less than 1"),
    Changed(_T, {"spec.compression.quantization.mode": "QAT"}, "spec.compression.quantization.mode", "Static"),
    Changed(_T, {"spec.export.formats": ["TFLite"]}, "spec.export.formats", "must contain ONNX"),
    Changed(_T, {"spec.export.formats.1": "CoreML"}, "spec.export.formats[1]", "TFLite"),
    Changed(_T, {"spec.successCriteria.0.min": REMOVE}, "spec.successCriteria[0]", "min, max or both"),
    Changed(_T, {"spec.successCriteria.0.max": 0.5}, "spec.successCriteria[0].min", "must not exceed max"),
    Changed(_T, {"spec.successCriteria.0.metric": "mAP"}, "spec.successCriteria[0].metric", "should match"),
    Changed(_T, {"spec.successCriteria.1.metric": "test/mAP50"}, "spec.successCriteria", "duplicate entries"),
    Changed(_T, {"spec.compute.workers": 5}, "spec.compute.workers", "between elastic"),
    Changed(
        _T,
        {"spec.compute.elastic.minWorkers": 5},
        "spec.compute.elastic.minWorkers",
        "must not exceed maxWorkers",
    ),
    Changed(
        _T,
        {"spec.compute.resources.requests.cpu": "four"},
        "spec.compute.resources.requests.cpu",
        "should match",
    ),
    Changed(
        _T,
        {"spec.compute.resources.limits.cpu": "2"},
        "spec.compute.resources.requests",
        "must not exceed the limit",
    ),
    Changed(
        _T,
        {"spec.compute.podTemplate.env": [{"name": "FOVEA_RUN", "value": "x"}]},
        "spec.compute.podTemplate.env[0].name",
        "belong to Fovea",
    ),
    Changed(
        _T,
        {"spec.compute.podTemplate.labels": {"fovea.dev/name": "x"}},
        "spec.compute.podTemplate.labels",
        "belong to Fovea",
    ),
    Changed(
        _T,
        {"spec.compute.podTemplate.securityContext": {}},
        "spec.compute.podTemplate.securityContext",
        "not declared",
    ),
    Changed(
        _T,
        {"spec.compute.podTemplate.tolerations": [{"value": "x"}]},
        "spec.compute.podTemplate.tolerations[0].key",
        "Equal needs a key",
    ),
    Changed(_T, {"spec.checkpoint.keep": 0}, "spec.checkpoint.keep", "greater than or equal to 1"),
    Changed(_T, {"spec.runPolicy.activeDeadline": "2 days"}, "spec.runPolicy.activeDeadline", "should match"),
    Changed(_T, {"spec.runPolicy.activeDeadline": "87601h"}, "spec.runPolicy.activeDeadline", "at most 87600h"),
    Changed(_T, {"spec.runPolicy.activeDeadline": "999999999999h"}, "spec.runPolicy.activeDeadline", "at most 87600h"),
    Changed(_M, {"spec.rollout.deadline": "99999999h"}, "spec.rollout.deadline", "at most 87600h"),
    Changed(_T, {"spec.runPolicy.ttlAfterFinished": "30d"}, "spec.runPolicy.ttlAfterFinished", "should match"),
    Changed(
        _T,
        {"spec.runPolicy.queueName": REMOVE},
        "spec.runPolicy.workloadPriorityClassName",
        "only in a queue",
    ),
    Changed(_T, {"spec.deletionPolicy": "Orphan"}, "spec.deletionPolicy", "Retain"),
    # TuningSweep
    Changed(_S, {"spec.parameters": []}, "spec.parameters", "at least 1"),
    Changed(
        _S,
        {"spec.parameters.0.path": "training.learningRate"},
        "spec.parameters[0].path",
        "must name a field",
    ),
    Changed(_S, {"spec.parameters.1.path": "compute.workers"}, "spec.parameters[1].path", "must name a field"),
    Changed(_S, {"spec.parameters.1.choice": REMOVE}, "spec.parameters[1]", "oneOf"),
    Changed(_S, {"spec.parameters.1.uniform": {"min": 1, "max": 2}}, "spec.parameters[1]", "oneOf"),
    Changed(_S, {"spec.parameters.0.logUniform.min": 0}, "spec.parameters[0].logUniform.min", "must be positive"),
    Changed(_S, {"spec.parameters.0.logUniform.max": 1e-5}, "spec.parameters[0].logUniform.min", "less than max"),
    Changed(_S, {"spec.objectives.0.metric": "test/mAP"}, "spec.objectives[0].metric", "would spoil it"),
    Changed(_S, {"spec.objectives.1": REMOVE, "spec.search.algorithm": "NSGA2"}, "spec.search.algorithm", "Pareto"),
    Changed(_S, {"spec.search.algorithm": "Grid"}, "spec.search.algorithm", "every combination"),
    Changed(_S, {"spec.stopping.graceEpochs": 9}, "spec.stopping.graceEpochs", "must not exceed the template's"),
    Changed(_S, {"spec.trials.parallel": 21}, "spec.trials.parallel", "must not exceed max"),
    Changed(_S, {"spec.template.spec.training.epochs": 0}, "spec.template.spec.training.epochs", "equal to 1"),
    Changed(_S, {"spec.promote.name": "Best"}, "spec.promote.name", "should match"),
    Changed(_S, {"spec.objectives.0.metric": "train/mAP"}, "spec.objectives[0].metric", "of validation/"),
    Changed(_S, {"spec.objectives.0.metric": "size/megabytes"}, "spec.objectives", "must be of validation/"),
    Changed(_S, {"spec.search.algorithm": "PopulationBased"}, "spec.search.algorithm", "hands weights on"),
    Changed(_S, {"spec.parameters.0.path": "training.epochs"}, "spec.stopping.scheduler", "the scheduler None"),
    Changed(
        _S,
        {"spec.parameters.1.when": {"path": "training.optimizer.learningRate", "values": [1e-3]}},
        "spec.parameters",
        "has a choice and no when itself",
    ),
    Changed(
        _S,
        {"spec.parameters.3": {"path": "training.batchSize", "case": "large", "choice": [32]}},
        "spec.parameters",
        "each needs a when",
    ),
    Changed(
        _S, {"spec.template.spec.evaluation.splits": ["test"]}, "spec.template.spec.evaluation.splits", "validation"
    ),
    Changed(_S, {"spec.budget.wallClock": "30s"}, "spec.budget.wallClock", "raise it"),
    Changed(_S, {"spec.search.warmStart": {}}, "spec.search.warmStart", "exactly one of"),
    # ModelDeployment
    Changed(_M, {"spec.model.uri": "s3://models/x"}, "spec.model", "exactly one of"),
    Changed(_M, {"spec.model.trainingJobRef": REMOVE}, "spec.model", "exactly one of"),
    Changed(_M, {"spec.runtime": "TorchServe"}, "spec.runtime", "Triton"),
    Changed(_M, {"spec.inference.confidenceThreshold": 1.1}, "spec.inference.confidenceThreshold", "equal to 1"),
    Changed(_M, {"spec.scaling.minReplicas": 9}, "spec.scaling.minReplicas", "must not exceed maxReplicas"),
    Changed(_M, {"spec.scaling.maxReplicas": REMOVE}, "spec.scaling", "both or neither"),
    Changed(_M, {"spec.expose.ingressClassName": "nginx"}, "spec.expose", "exactly one of"),
    Changed(_M, {"spec.expose.hostname": "cells"}, "spec.expose.hostname", "should match"),
    Changed(_M, {"spec.authentication.type": "APIKey"}, "spec.authentication.secretRef", "secretRef belongs"),
    Changed(_M, {"spec.rollout.steps": [25, 5]}, "spec.rollout.steps", "must rise"),
    Changed(_M, {"spec.rollout.steps": []}, "spec.rollout.steps", "at least one step"),
    Changed(_M, {"spec.rollout.interval": "7h"}, "spec.rollout.interval", "must not exceed deadline"),
    Changed(_M, {"spec.rollout.minRequests": 400}, "spec.rollout.minRequests", "at least 472 are needed"),
    Changed(_M, {"spec.rollout.confidence": 0.9999}, "spec.rollout.minRequests", "at least 1183 are needed"),
    Changed(
        _M,
        {"spec.rollout.gates.3": {"metric": "disagreement", "max": 0.04}},
        "spec.rollout.minRequests",
        "at least 1178 are needed",
    ),
    Changed(
        _M,
        {"spec.rollout.gates": [{"metric": "latencyP95Milliseconds", "max": 80}], "spec.rollout.minRequests": 90},
        "spec.rollout.minRequests",
        "at least 95 are needed",
    ),
    Changed(_M, {"spec.rollout.gates": []}, "spec.rollout.gates", "nothing would be tested"),
    Changed(
        _M,
        {"spec.rollout.gates": [{"metric": "accuracy", "min": 0.8, "ifUnmeasured": "Skip"}]},
        "spec.rollout.gates",
        "ifUnmeasured Block",
    ),
    Changed(_M, {"spec.rollout.mirror": REMOVE}, "spec.rollout.mirror", "set mirror.percent"),
    Changed(_M, {"spec.rollout.mirror.percent": 0}, "spec.rollout.mirror", "set mirror.percent"),
    Changed(_M, {"spec.monitoring.captures": REMOVE}, "spec.monitoring.captures", "feedback needs captures"),
    Changed(
        _M,
        {"spec.monitoring.feedback": REMOVE, "spec.retraining.triggers.accuracyBelow": REMOVE},
        "spec.rollout.gates",
        "needs monitoring.feedback",
    ),
    Changed(
        _M,
        {"spec.rollout.gates.0": {"metric": "errorRate", "min": 0.1}},
        "spec.rollout.gates[0]",
        "errorRate and latencyP95Milliseconds take max",
    ),
    Changed(
        _M, {"spec.rollout.gates.0": {"metric": "accuracy", "max": 0.1}}, "spec.rollout.gates[0]", "accuracy takes min"
    ),
    Changed(
        _M,
        {"spec.rollout.gates.0": {"metric": "disagreement", "maxRatioToStable": 1}},
        "spec.rollout.gates[0]",
        "disagreement takes max",
    ),
    Changed(_M, {"spec.rollout.gates.0.max": 0}, "spec.rollout.gates[0].max", "cannot be established"),
    Changed(
        _M,
        {"spec.rollout.gates.2": {"metric": "accuracy", "min": 1}},
        "spec.rollout.gates[2].min",
        "cannot be established",
    ),
    Changed(
        _M,
        {"spec.rollout.gates.2.minDifferenceToStable": 1},
        "spec.rollout.gates[2].minDifferenceToStable",
        "less than 1",
    ),
    Changed(
        _M, {"spec.rollout.gates.0.pairedWithStable": True}, "spec.rollout.gates[0].pairedWithStable", "belongs to"
    ),
    Changed(_M, {"spec.rollout.gates.0.min": 0}, "spec.rollout.gates[0]", "exactly one of"),
    Changed(_M, {"spec.rollout.gates.0.max": 5}, "spec.rollout.gates[0]", "shares from 0 to 1"),
    Changed(_M, {"spec.rollout.gates.0.metric": "precision"}, "spec.rollout.gates[0].metric", "errorRate"),
    Changed(_M, {"spec.monitoring.drift": REMOVE}, "spec.retraining.triggers.drift", "needs monitoring.drift"),
    Changed(_M, {"spec.monitoring.feedback.enabled": False}, "spec.retraining.triggers.accuracyBelow", "feedback"),
    Changed(_M, {"spec.retraining.triggers": {}}, "spec.retraining.triggers", "at least one of"),
    Changed(
        _M,
        {"spec.retraining.triggers.schedule.cron": "0 2"},
        "spec.retraining.triggers.schedule.cron",
        "match",
    ),
    Changed(
        _M,
        {"spec.retraining.recipe.training.epochs": 0},
        "spec.retraining.recipe.training.epochs",
        "equal to 1",
    ),
    Changed(_M, {"spec.retraining.recipe.compute": {}}, "spec.retraining.recipe.compute", "not declared"),
    Changed(
        _M,
        {"spec.retraining.recipe.model.pretrained.weights": "COCO"},
        "spec.retraining.recipe.model.pretrained",
        "at most one of",
    ),
    Changed(
        _M,
        {"spec.model": {"uri": "s3://models/x"}},
        "spec.retraining",
        "needs model.trainingJobRef",
    ),
)


MODELS = {kind.__name__.lower(): kind for kind in KINDS}

RIGHT = (
    Changed(_T, {"spec.compression.quantization": {"mode": "Dynamic"}, "spec.export.deferred": []}),
    Changed(_D, {"spec.task": "InstanceSegmentation", f"{LAB}.format": "YOLO", REVIEW: "COCO"}),
    Changed(_D, {"spec.task": "InstanceSegmentation", f"{LAB}.format": "LabelMe", REVIEW: "COCO"}),
    Changed(_D, {f"{LAB}.format": "CreateML"}),
    Changed(_D, {"spec.task": "Classification", f"{LAB}.format": "CSV"}),
    Changed(_D, {"spec.splits.ratios": {"train": 1, "validation": 0, "test": 0}}),
    Changed(
        _D,
        {
            "spec.task": "SemanticSegmentation",
            f"{LAB}.format": "Masks",
            f"{LAB}.maskValues": {"cell": 255},
            REVIEW: "COCO",
        },
    ),
    Changed(
        _D,
        {
            "spec.task": "SemanticSegmentation",
            f"{LAB}.format": "Masks",
            f"{LAB}.maskColors": {"cell": "#00FF7f"},
            f"{LAB}.imagePattern": "images/{split}/{name}.jpg",
            f"{LAB}.maskPattern": "masks/{split}/{name}_L.png",
            REVIEW: "COCO",
        },
    ),
    Changed(_D, {f"{LAB}.uri": "pvc://data/My Drive (1)/100% #1?/Übung"}),
    Changed(_D, {"spec.sources.3.name": "s" * 53}),
    Changed(
        _D,
        {
            "spec.task": "SemanticSegmentation",
            "spec.sources": [
                {"name": "sim", "generator": {"image": "s:1", "format": "Masks"}, "maskValues": {"cell": 255}}
            ],
            "spec.prelabel": REMOVE,
        },
    ),
    Changed(_D, {f"{LAB}.uri": "https://example.com/a.zip", f"{LAB}.sha256": "a" * 64}),
    Changed(_D, {"spec.classMap": {"rbc": "RBC", "artefact": ""}}),
    Changed(_D, {"spec.splits.method": "FromSource"}),
    Changed(_D, {"spec.refresh.schedule": "@daily"}),
    Changed(_D, {"spec.compute.resources.requests.cpu": 2}),
    Changed(_T, {"spec.model.options": {"layers": [1, 2], "norm": "batch", "width": 0.5, "deep": True}}),
    Changed(_T, {"spec.model.pretrained": {"from": "Current"}}),
    Changed(_T, {"spec.training.schedule": {"name": "Step", "stepEpochs": 2}}),
    Changed(_T, {"spec.successCriteria.0.metric": "test/AP/Red cells (RBC)"}),
    Changed(_T, {"spec.compute.podTemplate.volumes": [{"name": "a", "emptyDir": {"sizeLimit": "1Gi"}}]}),
    Changed(_T, {"spec.compute.podTemplate.tolerations": [{"operator": "Exists"}]}),
    Changed(_T, {"spec.runPolicy.activeDeadline": "1h30m"}),
    Changed(_T, {"spec.runPolicy.activeDeadline": "87599h60m"}),
    Changed(_S, {"spec.parameters.1": {"path": "input.size", "choice": [{"width": 64, "height": 64}]}}),
    Changed(_S, {"spec.parameters.1": {"path": "model.options.width", "choice": [0.5, 1, "auto", True]}}),
    Changed(_S, {"spec.parameters.0.when": {"path": "model.architecture", "values": ["yolo9-t"]}}),
    Changed(_S, {"spec.search.warmStart": {"tuningSweepRef": {"name": "first"}}}),
    Changed(_M, {"spec.rollout.strategy": "Recreate", "spec.rollout.steps": []}),
    Changed(_M, {"spec.model": {"uri": "s3://models/x"}, "spec.retraining": REMOVE}),
    Changed(_M, {"spec.authentication": {"type": "APIKey", "secretRef": {"name": "keys"}}}),
)
"""Unusual and right: no rule is stricter than it says."""


def test_the_table_is_long_enough() -> None:
    assert len(WRONG) >= 80
    assert len({str(wrong) for wrong in WRONG}) == len(WRONG)


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_api_server_refuses(wrong: Changed, control_plane: ControlPlane, shared_namespace: str) -> None:
    manifest = wrong.manifest()
    manifest["metadata"]["namespace"] = shared_namespace
    arguments = ("apply", "--server-side", "--field-manager=tests", "-f", "-")
    result = control_plane.try_kubectl(*arguments, input=yaml.safe_dump(manifest))
    assert result.returncode != 0, "accepted"
    assert wrong.path in result.stderr
    assert wrong.message in result.stderr


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_models_refuse(wrong: Changed) -> None:
    with pytest.raises(ValidationError) as refusal:
        MODELS[wrong.kind].model_validate(wrong.manifest())
    paths = [path for path, _ in problems(refusal.value)]
    assert any(path == wrong.path or path.startswith(f"{wrong.path}[") for path in paths), paths


@pytest.mark.parametrize("right", RIGHT, ids=str)
def test_api_server_accepts(right: Changed, control_plane: ControlPlane, namespace: str) -> None:
    control_plane.apply(right.manifest(), namespace=namespace)


@pytest.mark.parametrize("right", RIGHT, ids=str)
def test_models_accept(right: Changed) -> None:
    MODELS[right.kind].model_validate(right.manifest())


@pytest.mark.parametrize(
    "wrong",
    [
        Changed(_D, {"spec.prelabel.export.uri": "https://e.com/t"}, "spec.prelabel.export.uri", "copy it to a store"),
        Changed(
            _D,
            {"spec.task": "InstanceSegmentation", "spec.sources": [{"name": "a", "uri": "s3://b/a", "format": "COCO"}]},
            "spec.prelabel.export.format",
            "as COCO alone",
        ),
        Changed(
            _D,
            {
                "spec.task": "SemanticSegmentation",
                "spec.sources": [{"name": "a", "uri": "s3://b/a", "format": "COCO"}],
                "spec.prelabel": {"modelDeploymentRef": {"name": "m"}, "use": "Immediately"},
            },
            "spec.prelabel.use",
            "use AfterReview",
        ),
    ],
    ids=str,
)
def test_what_earlier_versions_accepted_is_refused_anew_and_stays_readable(
    wrong: Changed, control_plane: ControlPlane, namespace: str
) -> None:
    manifest = wrong.manifest()
    MODELS[wrong.kind].model_validate(manifest)
    with pytest.raises(Refused) as refused:
        control_plane.apply(manifest, namespace=namespace)
    assert wrong.path in str(refused.value)
    assert wrong.message in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        Changed(_D, {f"{LAB}.uri": "file:///data/bccd"}),
        Changed(_D, {"spec.exclude.uri": "file:///data/excluded.txt"}),
        Changed(_T, {"spec.model.pretrained": {"uri": "file:///data/weights.pth"}}),
    ],
    ids=str,
)
def test_file_uris_are_for_local_runs(change: Changed, control_plane: ControlPlane, namespace: str) -> None:
    manifest = change.manifest()
    MODELS[change.kind].model_validate(manifest)
    with pytest.raises(Refused, match=r"file:// and \./ work in local runs only"):
        control_plane.apply(manifest, namespace=namespace)
