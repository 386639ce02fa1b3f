"""The architectures that can be trained, as plain data: known without torch, so that names fail at plan time.

The source is the registry in `fovea_trainer.models`; `architectures.json` beside this file is generated from it
(`python -m fovea_trainer.models.catalogue`).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Annotated, Literal, cast

from pydantic import Field, JsonValue

from fovea_api.backbones import Backbone, backbone, backbones
from fovea_api.common import Model, Task
from fovea_api.defaults import ledger
from fovea_api.errors import InvalidInput
from fovea_api.paths import at, with_at, without

OptionValue = str | bool | int | float | tuple[float, ...]
Weights = Literal["None", "ImageNet", "COCO"]
FIRST_CHOICE: Mapping[Task, str] = {
    Task.CLASSIFICATION: "efficientnet-lite0",
    Task.DETECTION: "retinanet-efficientnet-lite0",
    Task.SEMANTIC_SEGMENTATION: "unet-efficientnet-lite0",
    Task.INSTANCE_SEGMENTATION: "maskrcnn",
}
"""The architecture to start a task with: small, and its pretrained weights come with the installation."""


TIMM = "timm/"
"""Prefix of the classifiers on any model of timm."""
TIMM_FAMILY = f"{TIMM}*"
"""Name under which the catalogue has what these have in common."""


class UnknownArchitecture(InvalidInput):
    """No architecture of that name; the message has the nearest ones."""


class InvalidOption(InvalidInput):
    """An option that the architecture does not have, or a value outside of its bounds."""


class Option(Model):
    """A setting of an architecture."""

    name: str
    """Name in `spec.model.options`."""
    type: Literal["Integer", "Number", "Boolean", "String", "Numbers", "Backbone"]
    """Type of the value; Numbers is a list, Backbone the name of a timm model that takes inputs of any size."""
    default: OptionValue
    """Value when absent."""
    min: float | None = None
    """Smallest value, for numbers (of a list: of each)."""
    max: float | None = None
    """Largest value, for numbers (of a list: of each)."""
    choices: tuple[str, ...] = ()
    """Allowed values, for strings."""
    lengths: tuple[int, ...] = ()
    """Allowed numbers of items, for lists; empty: any."""
    description: str
    """What it does, with its unit."""

    def read(self, value: JsonValue, place: str) -> OptionValue:
        """The value in its type. Raises InvalidOption."""
        match self.type, value:
            case "Boolean", bool():
                return value
            case "String", str() if value in self.choices:
                return value
            case "Backbone", str():
                if backbone(value, place).fixed:
                    raise InvalidOption(
                        f"{value} takes inputs of one size only", place, "use a convolutional or hierarchical model"
                    )
                return value
            case "Integer", int() if not isinstance(value, bool) and self._bounds(value):
                return value
            case "Number", int() | float() if not isinstance(value, bool) and self._bounds(value):
                return float(value)
            case "Numbers", [] if self.default == ():  # a frozen recipe spells out that the dataset decides
                return ()
            case "Numbers", list() | tuple() if value and (not self.lengths or len(value) in self.lengths):
                numbers = [item for item in value if isinstance(item, int | float) and not isinstance(item, bool)]
                if len(numbers) == len(value) and all(map(self._bounds, numbers)):
                    return tuple(float(item) for item in numbers)
        raise InvalidOption(f"{value!r} is not allowed", place, f"give {self.allowed()}")

    def allowed(self) -> str:
        """The allowed values in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        bounds = (f" from {self.min:g}" if self.min is not None else "") + (
            f" to {self.max:g}" if self.max is not None else ""
        )
        count = f"{', '.join(map(str, self.lengths[:-1]))} or {self.lengths[-1]} " if self.lengths else ""
        words = {
            "Integer": "a whole number",
            "Number": "a number",
            "Numbers": f"a list of {count}numbers",
            "Backbone": "the name of a timm model",
        }
        return words.get(self.type, "true or false") + bounds

    def _bounds(self, value: float) -> bool:
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


class Checkpoint(Model):
    """Published weights of a whole network, which an architecture with some options can start from."""

    options: Mapping[str, JsonValue]
    """The options that it takes."""
    source: str
    """What they are of, in words."""
    licence: str
    """Licence of the weights."""

    @property
    def needed(self) -> str:
        """The options in words."""
        return ", ".join(f"{name}: {value}" for name, value in self.options.items())


class Architecture(Model):
    """What is known of an architecture without loading it."""

    name: str
    """Name in `spec.model.architecture`."""
    task: Task
    """What it predicts."""
    description: str
    """What it is, in a sentence, with its source."""
    width: int
    """Default input width in pixels."""
    height: int
    """Default input height in pixels."""
    multiple: int = 1
    """Width and height of the input must be multiples of this, in pixels."""
    fixed_size: bool = False
    """Whether it takes inputs of its default size only."""
    mean: tuple[float, float, float]
    """Normalization of its published weights: means of R, G, B."""
    std: tuple[float, float, float]
    """Normalization of its published weights: standard deviations of R, G, B."""
    weights: tuple[Weights, ...]
    """Published weights that training can start with."""
    packaged: tuple[Weights, ...] = ()
    """Those that come with the installation and need no network."""
    coco: Checkpoint | None = None
    """Weights of the whole network, trained on COCO; they are among `weights` where the options are those that it
    takes."""
    fixed_by_weights: tuple[str, ...] = ()
    """Options that must be left at their defaults where training starts with published weights."""
    losses: tuple[str, ...]
    """Named losses, the default one first."""
    focal: bool = False
    """Whether the loss of its classes is a focal one, whatever is named: of detectors, whose named loss is that of the
    boxes."""
    options: tuple[Option, ...] = ()
    """Its settings."""
    licence: str
    """Licence of the code."""
    weights_licence: str
    """Licence of the published weights."""
    notes: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    """Peculiarities of training or export."""
    preset: Mapping[str, JsonValue] = {}
    """Part of a recipe, in its JSON form: what a recipe means that is silent about it (see `fovea_api.presets`)."""


@cache
def _entered() -> Mapping[str, Architecture]:
    text = resources.files("fovea_api").joinpath("architectures.json").read_text("utf-8")
    return MappingProxyType({item["name"]: Architecture.model_validate(item) for item in json.loads(text)})


@cache
def catalogue() -> Mapping[str, Architecture]:
    """All architectures by name, but for the family `timm/<name>`."""
    return MappingProxyType({name: item for name, item in _entered().items() if name != TIMM_FAMILY})


def find(name: str, known: Mapping[str, Architecture] | None = None) -> Architecture:
    """The architecture of this name. Raises UnknownArchitecture or UnknownBackbone with the nearest names."""
    known = catalogue() if known is None else known
    if name.startswith(TIMM):
        return _timm_classifier(known.get(TIMM_FAMILY) or _entered()[TIMM_FAMILY], name)
    if name in known:
        return known[name]
    if name in backbones():
        remedy = f"did you mean {TIMM}{name}?"
        raise UnknownArchitecture(f"there is no architecture {name!r}", "spec.model.architecture", remedy)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)
    raise UnknownArchitecture(
        f"there is no architecture {name!r}", "spec.model.architecture", f"did you mean {' or '.join(near)}?"
    )


def _timm_classifier(family: Architecture, name: str) -> Architecture:
    model = backbone(name.removeprefix(TIMM), "spec.model.architecture")
    update = {
        "name": name,
        "width": model.width,
        "height": model.height,
        "fixed_size": model.fixed,
        "description": f"{name.removeprefix(TIMM)} of timm with a linear classifier.",
        "preset": _unsized(family.preset) if model.fixed else family.preset,
    }
    return _on_backbone(family, model).model_copy(update=update)


def configured(architecture: Architecture, given: Mapping[str, JsonValue]) -> Architecture:
    """The architecture as these options make it: normalization and weights are those of the chosen backbone.

    Raises InvalidOption or UnknownBackbone.
    """
    options, whole = read_options(architecture, given), architecture.coco
    for option in architecture.options:
        if option.type == "Backbone" and options[option.name] != option.default:
            place = f"spec.model.options.{option.name}"
            architecture = _on_backbone(architecture, backbone(str(options[option.name]), place))
    if whole is not None and all(options[name] == value for name, value in whole.options.items()):
        return architecture.model_copy(update={"weights": (*architecture.weights, "COCO")})
    return architecture


def _on_backbone(architecture: Architecture, model: Backbone) -> Architecture:
    weights: tuple[Weights, ...] = ("None", "ImageNet") if model.published else ("None",)
    update = {
        "mean": model.mean,
        "std": model.std,
        "weights": weights,
        "packaged": ("ImageNet",) if model.packaged else (),
        "weights_licence": model.licence,
    }
    return architecture.model_copy(update=update)


def read_options(architecture: Architecture, given: Mapping[str, JsonValue]) -> dict[str, OptionValue]:
    """All options with their values, defaults included. Raises InvalidOption with the nearest names."""
    known = {option.name: option for option in architecture.options}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)
            remedy = f"it has {', '.join(near)}" if near else "it has none"
            raise InvalidOption(f"{architecture.name} has no option {name!r}", f"spec.model.options.{name}", remedy)
    return {
        name: option.read(given[name], f"spec.model.options.{name}") if name in given else option.default
        for name, option in known.items()
    }


# --- What an architecture supplies where a recipe is silent ---------------------------------------------------


def supplied(architecture: Architecture) -> dict[str, JsonValue]:
    """Settings that the architecture gives to a recipe that is silent about them, by their path in the recipe."""
    known = architecture.model_dump(mode="json")
    return {
        "input.size": {"width": architecture.width, "height": architecture.height},
        "input.normalize": {"mean": known["mean"], "std": known["std"]},
        "training.loss": architecture.losses[0],
        **{f"model.options.{option['name']}": option["default"] for option in known["options"]},
    }


def declared_settings(known: Mapping[str, Architecture] | None = None) -> dict[str, JsonValue]:
    """What each architecture supplies today, and its preset as a whole, as the ledger of defaults writes it."""
    known = {**_entered(), **catalogue()} if known is None else known
    settings: dict[str, JsonValue] = {
        f"Architecture.{name}.{path}": value
        for name, architecture in known.items()
        for path, value in supplied(architecture).items()
        if name != TIMM_FAMILY or not path.startswith("input.")  # a model of timm keeps what it was entered with
    }
    return settings | {f"Preset.{name}": dict(architecture.preset) for name, architecture in known.items()}


def presets(name: str) -> Sequence[Mapping[str, JsonValue]]:
    """The presets that an architecture has had, today's first; none, where there is no such architecture."""
    try:
        architecture = find(name)
    except InvalidInput:
        return ()
    former = cast(Sequence[Mapping[str, JsonValue]], ledger().get(f"Preset.{_entry(name)}", ()))
    if architecture.fixed_size:
        former = [_unsized(preset) for preset in former]
    return (architecture.preset, *reversed(former))


def _entry(name: str) -> str:
    """The name under which the ledger and the catalogue have an architecture."""
    return TIMM_FAMILY if name.startswith(TIMM) else name


def _unsized(preset: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """A preset for an architecture that takes inputs of one size."""
    return without(preset, "input.sizing")


def spelled_out(recipe: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """The JSON form of a recipe with what its architecture supplies today, where that is not what it was introduced
    with: so the recipe keeps its meaning, and its identity says what it trains."""
    return _changed(recipe, today=True)


def as_introduced(recipe: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """The reverse, for a frozen recipe: with what its architecture was introduced with, where that is not today's."""
    return _changed(recipe, today=False)


def as_identified(recipe: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """What of a recipe its identity goes by: with what its architecture supplies today where that has changed, and
    without what it was introduced with, which recipes of that time did not spell out."""
    recipe = spelled_out(recipe)
    for path, now, first in _supplies(recipe):
        if now != first and at(recipe, path) == first:
            recipe = without(recipe, path)
    return recipe


def _changed(recipe: Mapping[str, JsonValue], today: bool) -> Mapping[str, JsonValue]:
    for path, now, first in _supplies(recipe):
        if now != first and _is_silent(recipe, path):
            recipe = with_at(recipe, path, now if today else first)
    return recipe


def _supplies(recipe: Mapping[str, JsonValue]) -> Iterator[tuple[str, JsonValue, JsonValue]]:
    """The fields that the recipe's architecture supplies: path, today's value, the one that it was introduced with."""
    name = str(at(recipe, "model.architecture"))
    try:
        architecture = find(name)
    except InvalidInput:
        return
    backbone_chosen = any(
        option.type == "Backbone" and at(recipe, f"model.options.{option.name}") not in (None, option.default)
        for option in architecture.options
    )
    for path, now in supplied(architecture).items():
        if path == "input.normalize" and backbone_chosen:
            continue  # it is the backbone's, which keeps what it was entered with
        yield path, now, ledger().get(f"Architecture.{_entry(name)}.{path}", (now,))[0]


def _is_silent(recipe: Mapping[str, JsonValue], path: str) -> bool:
    if path == "training.loss":  # `losses` and the balance FocalLoss choose one, too
        chosen = at(recipe, "training.losses") or at(recipe, "input.balance") == "FocalLoss"
        return at(recipe, path) in (None, "Default") and not chosen
    if path == "input.size" and at(recipe, "input.sizing") is not None:
        return False
    return at(recipe, path) is None
