"""One update of the weights, held against torch and timm: what each setting of the recipe does to it."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping
from pathlib import Path

import pytest
import timm
import torch
from fovea_api.common import Task
from fovea_api.trainingjob import Loss, ModelChoice, Training
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.network import AnyNetwork, Network
from fovea_trainer.models.registry import build_network
from fovea_trainer.models.weights import lite0_state
from fovea_trainer.training.context import SingleProcess
from fovea_trainer.training.precision import Precision
from fovea_trainer.training.state import State
from fovea_trainer.training.update import Updater, read_losses
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn import functional as F


class Labels:
    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def to(self, device: torch.device) -> Labels:
        return self

    def pin_memory(self) -> Labels:
        return self


class Small(Network[Tensor, Labels]):
    """Without batch norm, so that gradients of parts of a batch add up to those of the whole."""

    task = Task.CLASSIFICATION

    def __init__(self) -> None:
        super().__init__(3, LossSettings({Loss.CROSS_ENTROPY: 1.0}))
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU())
        self.head = nn.Linear(8, 3)
        self.seen: list[torch.dtype] = []

    def backbone(self) -> nn.Module:
        return self.body

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).mean((2, 3)))
        self.seen.append(logits.dtype)
        return logits

    def loss(self, raw: Tensor, targets: Labels) -> dict[str, Tensor]:
        return {"class": F.cross_entropy(raw.float(), targets.labels)}

    def decode(self, raw: Tensor) -> dict[str, Tensor]:
        return {"logits": raw}


IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(8) % 3
PLAIN: Mapping[str, JsonValue] = {
    "epochs": 4,
    "batchSize": 8,
    "schedule": {"name": "Constant", "warmupEpochs": 0},
    "optimizer": {"name": "SGD", "learningRate": 0.5, "momentum": 0, "weightDecay": 0},
}


def updater(folder: Path, precision: str = "FP32", **training: JsonValue) -> Updater:
    recipe = Training.model_validate({**PLAIN, **training})
    context = SingleProcess(folder, 1, lambda progress: None)
    return Updater(Small(), recipe, context, Precision(precision, "cpu"), State(), nn.Identity())


class Normed(Small):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())


class Narrow(Small):
    """With a layer of a narrow ResNet whose gradient oneDNN writes beyond its end, in layout channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1, stride=2))


def batches(size: int) -> list[tuple[Tensor, Labels]]:
    return [(IMAGES[start : start + size], Labels(LABELS[start : start + size])) for start in range(0, 8, size)]


def gradients(network: AnyNetwork) -> list[Tensor]:
    """Of the mean loss of all images, by plain autograd."""
    copied = copy.deepcopy(network)
    loss = F.cross_entropy(copied(IMAGES), LABELS)
    return list(torch.autograd.grad(loss, list(copied.parameters())))


def test_a_step_goes_down_the_gradient_of_the_mean_loss(tmp_path: Path) -> None:
    mine = updater(tmp_path)
    expected = [p - 0.5 * g for p, g in zip(mine.network.parameters(), gradients(mine.network), strict=True)]
    (loss,) = read_losses([mine.step(batches(8), 0, 1)])
    assert loss.value == pytest.approx(F.cross_entropy(Small()(IMAGES), LABELS).item(), rel=1e-6)
    for parameter, value in zip(mine.network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter, value)


def test_a_narrow_network_keeps_a_layout_in_which_its_gradients_are_right(tmp_path: Path) -> None:
    """In the other one, torch 2.14 ends the process on CPUs with AVX-512."""
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    recipe, context = Training.model_validate(PLAIN), SingleProcess(tmp_path, 1, lambda progress: None)
    mine = Updater(Narrow(), recipe, context, Precision("FP32", "cpu"), State(), nn.Identity())
    mine.step([(images.contiguous(memory_format=torch.channels_last), Labels(LABELS[:2]))], 0, 1)
    assert not mine.network.get_parameter("body.0.weight").is_contiguous(memory_format=torch.channels_last)
    assert updater(tmp_path).network.get_parameter("body.0.weight").is_contiguous(memory_format=torch.channels_last)


def test_accumulated_batches_are_normalized_one_after_the_other(tmp_path: Path) -> None:
    """Or a GPU holds the float32 images of all of them at once."""
    recipe = Training.model_validate({**PLAIN, "batchSize": 2, "gradientAccumulationSteps": 4})
    context, normalized = SingleProcess(tmp_path, 1, lambda progress: None), list[weakref.ref[Tensor]]()

    def normalize(images: Tensor) -> Tensor:
        assert not any(other() is not None for other in normalized)
        result = images.float() / 255
        normalized.append(weakref.ref(result))
        return result

    mine = Updater(Small(), recipe, context, Precision("FP32", "cpu"), State(), normalize)
    images = torch.arange(2 * 3 * 16 * 16, dtype=torch.uint8).view(2, 3, 16, 16)
    mine.step([(images, Labels(LABELS[:2]))] * 4, 0, 1)
    assert len(normalized) == 4


@pytest.mark.parametrize("size", [4, 2, 1])
def test_accumulated_batches_are_one_large_batch(tmp_path: Path, size: int) -> None:
    whole, parts = updater(tmp_path), updater(tmp_path, batchSize=size, gradientAccumulationSteps=8 // size)
    for step in range(3):
        small, large = read_losses([parts.step(batches(size), step, 1), whole.step(batches(8), step, 1)])
        assert small.value == pytest.approx(large.value, rel=1e-5)
        assert small.parts == pytest.approx(large.parts, rel=1e-5)
    for mine, reference in zip(parts.network.parameters(), whole.network.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_clipped_to_its_norm(tmp_path: Path) -> None:
    mine = updater(tmp_path, gradientClipNorm=0.01)
    before = [parameter.detach().clone() for parameter in mine.network.parameters()]
    raw = gradients(mine.network)
    norm = torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in raw]))
    assert norm > 0.1
    mine.step(batches(8), 0, 1)
    for start, parameter, gradient in zip(before, mine.network.parameters(), raw, strict=True):
        torch.testing.assert_close(parameter, start - 0.5 * gradient * 0.01 / norm, rtol=1e-4, atol=1e-7)


def test_the_rate_follows_the_schedule(tmp_path: Path) -> None:
    mine = updater(tmp_path, schedule={"name": "Cosine", "warmupEpochs": 1})
    rates = []
    for step in range(8):
        mine.step(batches(8), step, 2)
        rates.append(mine.learning_rate)
    assert rates[:3] == pytest.approx([0.02, 0.26, 0.5])
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(0.5 * 0.0669873, rel=1e-5)  # (1 + cos(5/6 pi)) / 2


def test_weights_decay_and_biases_do_not(tmp_path: Path) -> None:
    """Decoupled, as in AdamW: a weight without a gradient shrinks by rate times decay."""
    optimizer: dict[str, JsonValue] = {"name": "AdamW", "learningRate": 0.1, "weightDecay": 0.5}
    mine = updater(tmp_path, optimizer=optimizer)
    for parameter in mine.network.parameters():
        parameter.data.fill_(1.0)
    mine.network.loss = lambda raw, targets: {"none": raw.sum() * 0}  # type: ignore[method-assign]
    mine.step(batches(8), 0, 1)
    for name, parameter in mine.network.named_parameters():
        assert parameter.detach().unique().tolist() == [pytest.approx(1.0 if name.endswith("bias") else 0.95)], name


def test_the_average_is_timms_with_its_warm_up(tmp_path: Path) -> None:
    """Of parameters and of batch norm's statistics, which belong to the weights that they were measured with."""
    recipe = Training.model_validate({**PLAIN, "ema": {"decay": 0.8}})
    context = SingleProcess(tmp_path, 1, lambda progress: None)
    mine, steps = Updater(Normed(), recipe, context, Precision("FP32", "cpu"), State(), nn.Identity()), 12
    expected = {name: value.clone() for name, value in mine.network.state_dict().items()}
    for step in range(steps):
        mine.step(batches(8), step, 1)
        decay = 0.0 if step == 0 else min(0.8, 1 - (1 + step) ** (-2 / 3))
        for name, value in mine.network.state_dict().items():
            average = decay * expected[name] + (1 - decay) * value
            expected[name] = average if value.is_floating_point() else value.clone()
    assert mine.averaged is not mine.network
    for name, value in mine.averaged.state_dict().items():
        torch.testing.assert_close(value, expected[name])
        if value.is_floating_point():
            assert not torch.equal(value, mine.network.state_dict()[name]), name


@pytest.mark.parametrize(("precision", "dtype"), [("FP32", torch.float32), ("BF16", torch.bfloat16)])
def test_the_forward_pass_computes_in_the_precision(tmp_path: Path, precision: str, dtype: torch.dtype) -> None:
    mine = updater(tmp_path, precision)
    mine.step(batches(8), 0, 1)
    assert mine.network.seen == [dtype]
    assert all(parameter.dtype is torch.float32 for parameter in mine.network.parameters())


def test_the_state_goes_on_as_if_it_had_not_been_saved(tmp_path: Path) -> None:
    training: dict[str, JsonValue] = {
        "ema": {"decay": 0.8},
        "optimizer": {"name": "Lion", "learningRate": 0.01, "layerDecay": 0.5},
    }
    whole = updater(tmp_path, **training)
    whole.step(batches(8), 0, 1)
    state = State()
    whole.save(state)
    recipe = Training.model_validate({**PLAIN, **training})
    context = SingleProcess(tmp_path, 1, lambda progress: None)
    resumed = Updater(Small(), recipe, context, Precision("FP32", "cpu"), state, nn.Identity())
    for mine in (whole, resumed):
        mine.step(batches(8), 1, 1)
    for left, right in ((whole.network, resumed.network), (whole.averaged, resumed.averaged)):
        assert all(torch.equal(value, right.state_dict()[name]) for name, value in left.state_dict().items())


def test_published_weights_are_loaded_and_not_overwritten() -> None:
    """The packaged ImageNet weights, as timm's network of the same name has them."""
    choice = ModelChoice.model_validate({"architecture": "efficientnet-lite0", "pretrained": {"weights": "ImageNet"}})
    state = build_network(choice, 3, LossSettings({Loss.CROSS_ENTROPY: 1.0})).backbone().state_dict()
    published = lite0_state()
    assert set(published) - set(state) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(value, published[name]) for name, value in state.items())
    random = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert not torch.equal(state["conv_stem.weight"], random["conv_stem.weight"])
