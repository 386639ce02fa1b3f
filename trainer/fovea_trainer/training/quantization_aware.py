"""Quantization-aware training: a trained network is fine-tuned with the rounding of 8-bit integers."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

from fovea_api.trainingjob import Compression, Pretrained, Recipe

from fovea_trainer.export import save_weights
from fovea_trainer.models.description import NetworkDescription, assemble
from fovea_trainer.training.base_weights import BaseWeights
from fovea_trainer.training.context import SingleProcess
from fovea_trainer.training.fitting import fine_tuning
from fovea_trainer.training.loop import Plan, fit
from fovea_trainer.training.trained import Trained

RATE = 0.1
"""Share of the learning rate that it takes: the weights are to move by the width of a step, and no further."""

log = logging.getLogger(__name__)


def fine_tuned(trained: Trained, epochs: int, folder: Path) -> Trained:
    """The network of the best epoch of some, in each of which it computed as 8-bit integers will.

    It is the training's own loop with the same images and losses, in this process alone; a teacher has no part in it.

    Args:
        trained: What was trained; stays as it is.
        epochs: Number of epochs.
        folder: For its weights; what is in it is deleted.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    weights = save_weights(trained.network, folder / "floating.safetensors")
    log.info("fine-tuning for 8-bit integers, %d epochs", epochs)
    context = SingleProcess(folder / "checkpoints", 1, lambda progress: None)
    plan = Plan(base_weights=BaseWeights(weights, "", "the trained network"), fake_quantized=True)
    state = fit(recipe_of(trained.recipe, epochs), trained.version, context, plan)
    network = assemble(NetworkDescription.from_json(state.description), state.best_weights, "fine-tuning")
    return replace(trained, network=network)


def recipe_of(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe of the fine-tuning of what a fitted recipe has trained."""
    model = recipe.model.model_copy(update={"freeze": "None", "pretrained": Pretrained(weights="None")})
    training = fine_tuning(recipe.training, epochs, RATE).model_copy(update={"early_stopping": None})
    return recipe.model_copy(update={"model": model, "training": training, "compression": Compression()})
