"""The network of a recipe for a dataset version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from fovea_api.compatibility import ignored_by_loss, wrong_augmentations, wrong_task
from fovea_api.errors import refuse
from fovea_api.trainingjob import Recipe
from fovea_api.version import DatasetVersion

from fovea_trainer.models.losses import LossSettings, choose_losses
from fovea_trainer.models.network import AnyNetwork
from fovea_trainer.models.registry import architecture_of, build_network
from fovea_trainer.tasks import Sample, definition
from fovea_trainer.training.dataset import class_counts, class_weights, preprocessing


class Version(Protocol):
    """What is read of a dataset version."""

    @property
    def manifest(self) -> DatasetVersion: ...
    def split(self, name: str) -> Sequence[Sample]: ...


def make_network(recipe: Recipe, version: Version, *, published: bool = True) -> AnyNetwork:
    """The network of a recipe for the classes of a dataset version, before training.

    Args:
        recipe: What is trained.
        version: The dataset version.
        published: Whether the published weights that the recipe asks for are loaded; they need not be where others
            take their place.
    """
    architecture = architecture_of(recipe.model)
    manifest = version.manifest
    refuse(wrong_task(architecture, manifest.task))
    refuse(ignored_by_loss(architecture, recipe))
    refuse(wrong_augmentations(architecture, recipe.input))
    balance, num_classes = recipe.input.balance, len(manifest.classes)
    weights: tuple[float, ...] = ()
    if balance == "ClassWeights":
        weights = class_weights(class_counts(version.split("train"), definition(manifest.task), num_classes))
    terms = choose_losses(architecture, recipe.training, balance == "FocalLoss")
    settings = LossSettings(terms, weights, recipe.training.label_smoothing)
    torch.manual_seed(recipe.training.seed)
    preprocess = preprocessing(architecture, recipe.input)
    return build_network(recipe.model, num_classes, settings, version.split("train"), preprocess, published=published)
