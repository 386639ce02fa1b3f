"""What is refused before the first step of a training: data of which nothing can be learned at this input size."""

from __future__ import annotations

from fovea_api.trainingjob import Recipe, Size

from fovea_trainer.data.version import OpenVersion
from fovea_trainer.models.registry import architecture_of
from fovea_trainer.tasks import definition
from fovea_trainer.training.dataset import preprocessing
from fovea_trainer.training.fitting import Images, scale_notes


def check_version(version: OpenVersion, recipe: Recipe) -> tuple[str, ...]:
    """What the report of a training should say about its data; raises InvalidInput where there is nothing to learn."""
    preprocess = preprocessing(architecture_of(recipe.model), recipe.input)
    manifest, train = version.manifest, version.split("train")
    size = Size(width=preprocess.width, height=preprocess.height)
    return (
        *definition(manifest.task).check_learnable(train, manifest.classes, preprocess),
        *(scale_notes(Images.of(train), size) if len(train) else ()),
    )
