"""What a network is made of, in words that its weights carry: they are enough to build it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from fovea_api.architectures import OptionValue
from fovea_api.errors import InvalidInput
from fovea_api.trainingjob import Loss
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fovea_trainer.models.bodies import Body
from fovea_trainer.models.heads.base import Options, heads
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.network import AnyNetwork
from fovea_trainer.models.weights import read_state

KEY = "fovea.network"
"""Name of the description in the metadata of a safetensors file."""


@dataclass(frozen=True, slots=True)
class NetworkDescription:
    """A head on a body, with all that was chosen or followed from the dataset.

    Args:
        head: Name of the head.
        body: The body.
        options: The head's options, none left open.
        num_classes: Number of classes.
        notes: Sentences about what followed from the dataset, for log and report.
    """

    head: str
    body: Body
    options: Mapping[str, OptionValue]
    num_classes: int
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> NetworkDescription:
        """From text. Raises InvalidInput."""
        try:
            content = json.loads(text)
            options = {
                name: tuple(value) if isinstance(value, list) else value for name, value in content["options"].items()
            }
            body, notes = Body(**content["body"]), tuple(content["notes"])
            return cls(str(content["head"]), body, options, int(content["num_classes"]), notes)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(
                f"the description of the network cannot be read: {error!r}", None, "use a matching Fovea version"
            ) from error


def build(description: NetworkDescription, loss: LossSettings, pretrained: bool = False) -> AnyNetwork:
    """The network of a description. Raises InvalidInput: there is no such head."""
    head = heads().get(description.head)
    if head is None:
        raise InvalidInput(f"there is no head {description.head!r}", None, f"use one of {', '.join(sorted(heads()))}")
    if not loss.terms:
        loss = replace(loss, terms={Loss(head.losses[0]): 1.0})
    options = Options(description.options)
    network = head.build(description.body, options, description.num_classes, loss, pretrained)
    network.description = description.to_json()
    return network


def is_same_network(network: AnyNetwork, weights: Path) -> bool:
    """Whether a file of weights says that it is of a network of this make and these shapes, before any pruning."""
    try:
        other = build(read_description(weights), LossSettings())
    except (InvalidInput, KeyError, SafetensorError):  # an option that weights of an earlier version do not have
        return False
    return _shapes(network) == _shapes(other)


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in network.state_dict().items()}


def read_description(weights: Path) -> NetworkDescription:
    """The description in a file of weights. Raises InvalidInput: it has none."""
    with safe_open(weights, "pt") as file:
        text = (file.metadata() or {}).get(KEY)
    if text is None:
        raise InvalidInput("the weights carry no description of their network", str(weights), "export them again")
    return NetworkDescription.from_json(text)


def restore(weights: Path) -> AnyNetwork:
    """The network of a file of weights, in evaluation mode, from its own description; channels may have been pruned.

    Raises:
        InvalidInput: the file is no safetensors file of a network, or its weights are of another one.
    """
    return assemble(read_description(weights), read_state(weights), str(weights))


def assemble(description: NetworkDescription, state: Mapping[str, Tensor], source: str) -> AnyNetwork:
    """The network of a description with these weights, in evaluation mode. Raises InvalidInput."""
    network = build(description, LossSettings())
    fit_shapes(network, state)
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        raise InvalidInput(f"the weights are not those of the described network: {error}", source) from error
    return network.eval()


def fit_shapes(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gives convolutions, linear and norm layers the numbers of channels that the weights have: a pruned network's."""
    for name, module in network.named_modules():
        weight = state.get(f"{name}.weight")
        if (
            weight is None
            or not isinstance(getattr(module, "weight", None), Tensor)
            or weight.shape == module.weight.shape
        ):
            continue
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups == module.in_channels
            module.out_channels = weight.shape[0]
            module.groups = weight.shape[0] if depthwise else module.groups
            module.in_channels = weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.num_features = weight.shape[0]
        elif isinstance(module, nn.GroupNorm):
            module.num_channels = weight.shape[0]
        for key, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            saved = state.get(f"{name}.{key}")
            if saved is not None and saved.shape != value.shape:
                value.data = saved.new_empty(saved.shape)
