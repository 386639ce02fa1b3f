"""What a head says about itself to the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fovea_api.architectures import Option, OptionValue
from fovea_api.common import Task
from fovea_serving.pipeline import Preprocess
from fovea_serving.registry import Registry
from pydantic import JsonValue

from fovea_trainer.models.bodies import Body
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.network import AnyNetwork
from fovea_trainer.tasks import Sample


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


Build = Callable[[Body, Options, int, LossSettings, bool], AnyNetwork]
"""(body, options, classes, loss, whether to load the body's published weights) -> network"""
Fit = Callable[[Options, Sequence[Sample], Preprocess], tuple[Mapping[str, OptionValue], tuple[str, ...]]]
"""(options, train split, preprocessing) -> options that follow from the dataset, and sentences about them"""


@dataclass(frozen=True, slots=True)
class Head:
    """A kind of network on any body.

    Args:
        name: Part of the description of a network.
        task: What it predicts.
        losses: Named losses, the default one first.
        build: Makes the network.
        fit: Fills in options that are left to the dataset.
        options: Its settings.
        size: Default input width and height; None: those of the body's published weights.
        multiple: Width and height of the input must be multiples of this, in pixels.
        licence: Of its code.
        notes: Peculiarities of training or export.
        preset: Part of a recipe, in its JSON form: what is meant where a recipe is silent.
        focal: Whether the loss of a detector's classes is a focal one, whatever loss is named.
    """

    name: str
    task: Task
    losses: tuple[str, ...]
    build: Build
    fit: Fit | None = None
    options: tuple[Option, ...] = ()
    size: tuple[int, int] | None = None
    multiple: int = 1
    licence: str = "Apache-2.0"
    notes: tuple[str, ...] = ()
    preset: Mapping[str, JsonValue] = field(default_factory=dict)
    focal: bool = False


_HEADS: Registry[Head] = Registry("fovea_trainer.models.heads", "a head")


def register(head: Head) -> Head:
    """Takes in a head under its name, by which a description of a network names it. A name can be taken once."""
    return _HEADS.register(head.name)(head)


def heads() -> Mapping[str, Head]:
    """All heads by name: those that the files beside this one register."""
    return _HEADS.entries()
