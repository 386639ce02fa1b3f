"""Every architecture learns eight real images by heart, and then does what a run does with what it learned: what is
trained is what is decoded, measured, saved, continued, exported, served, packaged, pruned and quantized."""

from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from fovea_api.architectures import catalogue, configured
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_api.trainingjob import Recipe
from fovea_serving.bundle import load_bundle
from fovea_serving.edge import write_package
from fovea_serving.predict import predict_files
from fovea_serving.predictor import Predictor
from fovea_trainer.augmentation import Augment
from fovea_trainer.export import Exportable, check_nms, check_parity, exporter, quantize_static, save_weights
from fovea_trainer.export.nms import add_nms
from fovea_trainer.models.complexity import Complexity, complexity
from fovea_trainer.models.description import KEY, NetworkDescription, assemble, restore
from fovea_trainer.models.network import AnyNetwork
from fovea_trainer.models.pruning import prune
from fovea_trainer.models.registry import entry_of
from fovea_trainer.tasks import Targets, definition
from fovea_trainer.training.context import SingleProcess
from fovea_trainer.training.dataset import Collate, Normalize, SplitDataset, preprocessing
from fovea_trainer.training.loading import ValidationBatches
from fovea_trainer.training.network import make_network
from fovea_trainer.training.precision import Precision
from fovea_trainer.training.validation import validate
from real_images import HEIGHT, IMAGES, WIDTH, eight_images
from torch import Tensor

from tests.unit.serving.conftest import write_bundle
from tests.unit.serving.test_edge import answers, compare, unpacked

STEPS = 60
ENOUGH = {
    Task.CLASSIFICATION: {"accuracy": 1.0},
    Task.DETECTION: {"mAP50": 0.8, "mAP": 0.5},  # cells of 10 to 50 pixels: one more or less costs overlap
    Task.SEMANTIC_SEGMENTATION: {"dice": 0.85},
    Task.INSTANCE_SEGMENTATION: {"mAP50": 0.6, "mAP": 0.3},
}
OTHERWISE = {
    "efficientnet-b0": {"accuracy": 0.75},  # without packaged weights it learns slowly
    "deeplabv3": {"dice": 0.4},  # a map of a stride of 16 pixels draws no membranes of 5
    "deeplabv3plus": {"dice": 0.75},
}
FALLS_TO = 0.5
"""Share of its first value that the loss falls to, but for what cannot be drawn."""
FALLS_OTHERWISE = {"deeplabv3": 0.9}
OPTIONS = {
    "resnet18": {"width": 0.25, "stem": "Small"},
    "resnet34": {"width": 0.25, "stem": "Small"},
    "resnet50": {"width": 0.125, "stem": "Small"},
    "resnet101": {"width": 0.125, "stem": "Small"},
    "retinanet-efficientnet-lite0": {"fpnChannels": 32},
    "fasterrcnn": {"fpnChannels": 32, "proposals": 64},
    "maskrcnn": {"fpnChannels": 32, "proposals": 32, "maskChannels": 16},
    "retinanet": {"fpnChannels": 32, "backbone": "test_resnet"},
    "yolo": {"neckChannels": 32, "backbone": "test_resnet"},
    "yolact": {"neckChannels": 32, "backbone": "test_resnet", "objects": 32},
    "fcos": {"fpnChannels": 32, "backbone": "test_resnet"},
    "ssd": {"extraChannels": 32, "backbone": "test_resnet"},
    "ssdlite": {"extraChannels": 32},
    "unet": {"backbone": "test_efficientnet"},
    "deeplabv3": {"decoderChannels": 32},
    "deeplabv3plus": {"decoderChannels": 32},
}
NOT_PRUNED = {"timm/test_vit": "is a VisionTransformer with parameters of its own"}
LOST_IN_8_BITS = 0.5
"""Of a metric of eight images at most, with all layers in 8 bits; a run leaves those in floating point that lose."""
NAMES = [*sorted(catalogue()), "timm/test_vit"]


@dataclass(frozen=True)
class Learned:
    """A network after it learned, and what it learned."""

    network: AnyNetwork
    dataset: SplitDataset
    images: Tensor
    targets: Targets
    optimizer: torch.optim.Optimizer
    context: SingleProcess

    def step(self, number: int) -> float:
        """Loss of a step of training."""
        torch.manual_seed(number)
        self.optimizer.zero_grad()
        loss = torch.stack(list(self.network.loss(self.network(self.images), self.targets).values())).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5)
        self.optimizer.step()
        return loss.item()

    def served(self, model: Path) -> dict[str, float]:
        """The metrics of an exported file in the pipeline that serves it, in batches of another size."""
        predictor = Predictor(model, self.dataset.preprocess, self.network.postprocess, threads=1, max_batch=3)
        predictions = predictor.predict([sample.image_bytes for sample in self.dataset.samples], candidates=True)
        metrics = self.dataset.task.epoch_metrics(self.network.num_classes)
        for index, (sample, prediction) in enumerate(zip(self.dataset.samples, predictions, strict=True)):
            metrics.update(index, sample, prediction)
        return metrics.compute()

    def complexity(self, network: AnyNetwork) -> Complexity:
        return complexity(deepcopy(network), self.images.shape[3], self.images.shape[2])


@pytest.mark.parametrize("name", NAMES)
def test_it_does_all_that_a_run_does(name: str, tmp_path: Path) -> None:
    learned, metrics = learn(name, tmp_path)
    for metric, least in enough(name, learned).items():
        assert metrics[f"validation/{metric}"] >= least, metrics
    model = export(name, learned, tmp_path / "model.onnx")
    in_8_bits = quantize_static(model, tmp_path / "model.int8.onnx", [learned.images.cpu().numpy()])
    assert in_8_bits.stat().st_size < model.stat().st_size
    served, quantized = learned.served(model), learned.served(in_8_bits)
    for metric in enough(name, learned):
        assert served[metric] == pytest.approx(metrics[f"validation/{metric}"], abs=0.02), "as measured in training"
        assert quantized[metric] >= served[metric] - LOST_IN_8_BITS
    answers_at_the_edge(learned, model, tmp_path)
    gives_objects(learned, model, tmp_path / "model.nms.onnx")
    loses_channels(name, learned)
    goes_on_from_its_files(learned, tmp_path)


def enough(name: str, learned: Learned) -> dict[str, float]:
    """The least values of metrics after training."""
    return OTHERWISE.get(name, ENOUGH[learned.network.task])


def learn(name: str, folder: Path) -> tuple[Learned, dict[str, float]]:
    """The network after some steps, in which its loss fell, and its metrics of what it learned."""
    options = OPTIONS.get(name, {})
    architecture = configured(entry_of(name).architecture, options)
    size = (architecture.width, architecture.height) if architecture.fixed_size else (WIDTH, HEIGHT)
    version = eight_images(architecture.task)
    recipe = Recipe.model_validate(
        {
            "model": {
                "architecture": name,
                "options": options,
                "pretrained": {"weights": "ImageNet" if architecture.packaged else "None"},
            },
            "input": {"size": dict(zip(("width", "height"), size, strict=True))},
        }
    )
    network, task = make_network(recipe, version), definition(architecture.task)
    dataset = SplitDataset(version.split("train"), task, preprocessing(architecture, recipe.input), Augment(()))
    context = SingleProcess(folder, 1, lambda progress: None)
    images, targets, _ = Collate(task)([dataset[index] for index in range(IMAGES)])
    network.to(context.device)
    images, targets = Normalize(dataset.preprocess, context.device)(images), targets.to(context.device)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=STEPS)
    learned = Learned(network.train(), dataset, images, targets, optimizer, context)
    losses = []
    for step in range(STEPS):
        losses.append(learned.step(step))
        schedule.step()
    assert sum(losses[-5:]) < FALLS_OTHERWISE.get(name, FALLS_TO) * sum(losses[:5]), losses
    with torch.no_grad():  # the statistics of the norms follow slower than the weights
        for _ in range(20):
            network(images)
    metrics = validate(network, ValidationBatches(dataset, 8, context), context, Precision("FP32", context.device.type))
    return learned, metrics


def export(name: str, learned: Learned, file: Path) -> Path:
    """The ONNX file, which computes what the network does, on all images at once and on fewer."""
    images = learned.images
    model = Exportable.of(learned.network, (images.shape[3], images.shape[2]), True)
    exporter("ONNX").write(model, file)
    assert check_parity(model, file, images.cpu()).images == IMAGES
    learned.network.to(learned.context.device)
    return file


def answers_at_the_edge(learned: Learned, model: Path, folder: Path) -> None:
    """Its package says of the images without Fovea what Fovea does."""
    pictures, task = [folder / sample.name for sample in learned.dataset.samples], learned.network.task
    for picture, sample in zip(pictures, learned.dataset.samples, strict=True):
        picture.write_bytes(sample.image_bytes)
    bundle = write_bundle(
        folder,
        lambda files: shutil.copy(model, files),
        task,
        preprocessing=learned.dataset.preprocess.to_manifest(),
        postprocessing=learned.network.postprocess.to_manifest(),
    )
    package = write_package(load_bundle(bundle), folder / "edge.zip")
    found = answers(unpacked(package, folder / "edge"), pictures)
    for picture, prediction in predict_files(bundle, pictures).files.items():
        compare(task, found[picture], prediction.to_dict(masks=True))


def gives_objects(learned: Learned, model: Path, file: Path) -> None:
    """With suppression in its graph those of the pipeline, where there are boxes."""
    postprocess = learned.network.postprocess
    if "boxes" in postprocess.outputs:
        add_nms(model, postprocess, file)
        assert check_nms(model, file, postprocess, learned.images.cpu().numpy()) == 1


def loses_channels(name: str, learned: Learned) -> None:
    """Half of its channels, by which it computes less, or the reason why not is known."""
    network = learned.network
    if name in NOT_PRUNED:
        with pytest.raises(InvalidInput, match=NOT_PRUNED[name]):
            prune(network, 0.5)
        return
    left = assemble(NetworkDescription.from_json(network.description), prune(network, 0.5), "test")
    before, after = learned.complexity(network), learned.complexity(left)
    assert 0.1 < after.macs / before.macs < 0.6
    assert after.parameters < 0.6 * before.parameters


def goes_on_from_its_files(learned: Learned, folder: Path) -> None:
    """What was saved trains as what was not: the next steps have the same losses."""
    network, optimizer = learned.network.to(learned.context.device), learned.optimizer
    weights = save_weights(network, folder / "model.safetensors", {KEY: network.description})
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    again = restore(weights).to(learned.context.device).train()
    other = type(optimizer)(again.parameters(), 2e-3)
    other.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
    resumed = replace(learned, network=again, optimizer=other)
    network.train()
    for step in (0, 1):
        assert resumed.step(step) == pytest.approx(learned.step(step), rel=1e-3)
