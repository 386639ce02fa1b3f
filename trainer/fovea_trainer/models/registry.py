"""The registry: every file under `architectures/` registers the architectures of one family."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from fovea_api.architectures import Architecture, OptionValue, find, read_options
from fovea_api.errors import refuse
from fovea_api.impossible import wrong_sizes, wrong_weights
from fovea_api.trainingjob import Input, ModelChoice, Size

if TYPE_CHECKING:
    from fovea_trainer.models.losses import LossSettings
    from fovea_trainer.models.network import AnyNetwork


@dataclass(frozen=True, slots=True)
class Options:
    """Checked options of an architecture, read by name and type."""

    values: Mapping[str, OptionValue]

    def integer(self, name: str) -> int:
        return int(self.number(name))

    def number(self, name: str) -> float:
        value = self.values[name]
        assert isinstance(value, int | float)
        return float(value)

    def text(self, name: str) -> str:
        return str(self.values[name])

    def numbers(self, name: str) -> tuple[float, ...]:
        value = self.values[name]
        assert isinstance(value, tuple)
        return value


Build = Callable[[Architecture, Options, int, "LossSettings", bool], "AnyNetwork"]
"""(architecture, options, classes, loss, whether to load the published ImageNet weights) -> network"""


@dataclass(frozen=True, slots=True)
class Entry:
    """An architecture and how it is built."""

    architecture: Architecture
    build: Build


class Registry:
    """Architectures by name."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def register(self, *architectures: Architecture) -> Callable[[Build], Build]:
        """Decorator of the function that builds these architectures. A name can be taken once."""

        def decorate(build: Build) -> Build:
            for architecture in architectures:
                if architecture.name in self._entries:
                    raise ValueError(f"architecture {architecture.name} is registered twice")
                self._entries[architecture.name] = Entry(architecture, build)
            return build

        return decorate

    def architectures(self) -> dict[str, Architecture]:
        """What is registered, sorted by name."""
        return {name: self._entries[name].architecture for name in sorted(self._entries)}

    def __getitem__(self, name: str) -> Entry:
        return self._entries[find(name, self.architectures()).name]


REGISTRY = Registry()
register = REGISTRY.register


@cache
def registry() -> Registry:
    """The registry with all families loaded (imports torch)."""
    from fovea_trainer.models import architectures

    for module in pkgutil.iter_modules(architectures.__path__):
        importlib.import_module(f"{architectures.__name__}.{module.name}")
    return REGISTRY


def build_network(model: ModelChoice, num_classes: int, loss: LossSettings) -> AnyNetwork:
    """The network of a recipe, with published weights where the recipe asks for them, frozen as it says.

    Weights from a `uri` or another job are loaded afterwards by `weights.load`.

    Raises:
        UnknownArchitecture, InvalidOption, WeightsUnavailable: with the field and what would be right.
    """
    entry = registry()[model.architecture]
    options = Options(read_options(entry.architecture, model.options))
    refuse(wrong_weights(entry.architecture, model))
    published = model.pretrained.weights or "None"
    network = entry.build(entry.architecture, options, num_classes, loss, published != "None")
    network.freeze(model.freeze)
    return network


def input_size(architecture: Architecture, given: Input) -> Size:
    """Size of the network's input. Raises InvalidInput if the architecture cannot take it."""
    refuse(wrong_sizes(architecture, given))
    return given.size or Size(width=architecture.width, height=architecture.height)
