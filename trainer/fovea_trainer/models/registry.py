"""The registry: bodies under heads, by the names that a recipe may give.

Every file under `architectures/` registers the architectures of one family. A network says by itself what it is made of
(see `description`), so that its weights are enough to build it again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fovea_api.architectures import (
    TIMM,
    TIMM_FAMILY,
    Architecture,
    Option,
    configured,
    find,
    read_options,
)
from fovea_api.backbones import backbone
from fovea_api.compatibility import wrong_sizes, wrong_weights
from fovea_api.errors import refuse
from fovea_api.trainingjob import Input, ModelChoice, Size
from fovea_serving.pipeline import Preprocess
from fovea_serving.registry import Registry

from fovea_trainer.models.bodies import Body
from fovea_trainer.models.coco import PUBLISHED, coco_state
from fovea_trainer.models.description import NetworkDescription, build
from fovea_trainer.models.heads.base import Head, Options
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.network import AnyNetwork
from fovea_trainer.models.weights import load_state, load_words
from fovea_trainer.tasks import Sample

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """An architecture: a head on a body that may depend on the options."""

    architecture: Architecture
    head: Head
    body: Callable[[Options], Body]


_ENTRIES: Registry[Entry] = Registry("fovea_trainer.models.architectures", "an architecture")


def register(entry: Entry) -> Entry:
    """Takes in an architecture. A name can be taken once."""
    return _ENTRIES.register(entry.architecture.name)(entry)


def architectures() -> dict[str, Architecture]:
    """What is registered, sorted by name (imports torch)."""
    return {name: entry.architecture for name, entry in sorted(_ENTRIES.entries().items())}


def entry_of(name: str) -> Entry:
    """An architecture with its head and body. Raises UnknownArchitecture or UnknownBackbone, with the nearest names."""
    architecture = find(name, architectures())
    if not name.startswith(TIMM):
        return _ENTRIES.entries()[architecture.name]
    head = _ENTRIES.entries()[TIMM_FAMILY].head
    return Entry(architecture, head, lambda _: Body(name.removeprefix(TIMM)))


def architecture_of(model: ModelChoice) -> Architecture:
    """The architecture of a recipe with what its options change. Raises InvalidInput."""
    return configured(entry_of(model.architecture).architecture, model.options)


def compose(
    name: str,
    head: Head,
    timm: str,
    description: str,
    *,
    body: Callable[[Options], Body] | None = None,
    options: Sequence[Option] = (),
    fixed_by_weights: tuple[str, ...] = (),
    any_backbone: bool = False,
) -> Entry:
    """A head on a timm model: normalization, input size, weights and licence are the body's, the rest the head's.

    Args:
        name: Name in `spec.model.architecture`.
        head: What is put on the body.
        timm: timm's name of the body.
        description: What it is, in a sentence, with its source.
        body: The body for the options, where these change it.
        options: The body's options.
        fixed_by_weights: Those that must be left at their defaults where training starts with published weights.
        any_backbone: Whether an option gives another timm model as the body.

    Raises:
        UnknownBackbone: timm has no such model.
    """
    origin = backbone(timm, "spec.model.architecture")
    if any_backbone:
        options = (*options, backbone_option(timm))
        body = _chosen_backbone
    width, height = head.size or (origin.width, origin.height)
    architecture = Architecture(
        name=name,
        task=head.task,
        description=description,
        width=width,
        height=height,
        multiple=head.multiple,
        mean=origin.mean,
        std=origin.std,
        weights=("None", "ImageNet"),
        packaged=("ImageNet",) if origin.packaged else (),
        losses=head.losses,
        focal=head.focal,
        licence=head.licence,
        weights_licence=origin.licence,
        options=(*options, *head.options),
        coco=PUBLISHED[head.name].checkpoint if any_backbone and head.name in PUBLISHED else None,
        fixed_by_weights=fixed_by_weights,
        notes=head.notes,
        preset=head.preset,
    )
    return Entry(architecture, head, body or (lambda _: Body(timm)))


def backbone_option(timm: str) -> Option:
    """The option of architectures that stand on any timm model with feature maps."""
    return Option(
        name="backbone", type="Backbone", default=timm,
        description="Name of the timm model whose feature maps it uses; normalization and weights are that model's.",
    )  # fmt: skip


def _chosen_backbone(options: Options) -> Body:
    return Body(options.text("backbone"))


def build_network(
    model: ModelChoice,
    num_classes: int,
    loss: LossSettings,
    samples: Sequence[Sample] = (),
    preprocess: Preprocess | None = None,
    *,
    published: bool = True,
) -> AnyNetwork:
    """The network of a recipe, with published weights where the recipe asks for them, frozen as it says.

    Weights from a `uri` or another job are loaded afterwards by `weights.load_state`. What of a whole network's weights
    fits is in the notes of the description.

    Args:
        model: The recipe's choice.
        num_classes: Number of classes.
        loss: What is minimized.
        samples: The train split, where options that are left to the dataset are to follow from it.
        preprocess: What turns its images into inputs.
        published: Whether published weights are loaded at all.

    Raises:
        UnknownArchitecture, InvalidOption, WeightsUnavailable: with the field and what would be right.
        HubUnavailable: another try may find the weights.
    """
    entry = entry_of(model.architecture)
    options = Options(read_options(entry.architecture, model.options))
    refuse(wrong_weights(configured(entry.architecture, model.options), model))
    notes: tuple[str, ...] = ()
    if entry.head.fit is not None and preprocess is not None and samples:
        fitted, notes = entry.head.fit(options, samples, preprocess)
        options = Options(fitted)
    of_head = {option.name: options.values[option.name] for option in entry.head.options}
    description = NetworkDescription(entry.head.name, entry.body(options), of_head, num_classes, notes)
    weights = model.pretrained.weights if published else None
    network = build(description, loss, weights == "ImageNet")
    if weights == "COCO":
        source = PUBLISHED[entry.head.name]
        fresh = load_state(network, coco_state(source), str(source))
        network.description = replace(description, notes=(*notes, load_words(network, fresh, str(source)))).to_json()
    network.freeze(model.freeze)
    return network


def input_size(architecture: Architecture, given: Input) -> Size:
    """Size of the network's input. Raises InvalidInput if the architecture cannot take it."""
    refuse(wrong_sizes(architecture, given))
    return given.size or Size(width=architecture.width, height=architecture.height)
