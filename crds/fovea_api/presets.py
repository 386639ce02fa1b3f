"""What a recipe means that is silent: the preset of its architecture, laid into it where recipes are frozen.

A preset is part of a recipe; the registry has it beside the architecture, `architectures.json` is made from there. It
fills what a manifest is silent about (`ByPreset`), so `training: {}` is a good start on any dataset. What follows from
the dataset itself is not known here: the preset says how it follows (`minSteps`, `warmupShare`, `sizing`), and the
trainer carries that out. Every Run keeps the recipe with the preset laid in, so another preset changes no Run.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from pydantic import JsonValue

from fovea_api.architectures import presets
from fovea_api.common import Model, silent_paths
from fovea_api.paths import Part, at, with_at

M = TypeVar("M", bound=Model)

INSTEAD = {
    "training.minSteps": "training.epochs",
    "training.schedule.warmupShare": "training.schedule.warmupEpochs",
    "input.sizing": "input.size",
}
"""What only a recipe needs that lacks another field: who says how many epochs gets so many."""
FROM_SCRATCH = 3
"""How many times as long training without pretrained weights takes (He et al., "Rethinking ImageNet Pre-training",
2019)."""
RATES = {"AdamW": 1.0, "Adam": 1.0, "SGD": 10.0, "Lion": 0.2}
"""Learning rate that does with each optimizer about what 1 does with AdamW."""


def with_preset(recipe: M) -> M:
    """The recipe with today's preset in the place of what it is silent about."""
    return _laid(recipe, presets(_architecture(recipe))[:1])[0]


def with_each_preset(recipe: M) -> Sequence[M]:
    """The recipe as every version since the first preset has meant it, today's meaning first."""
    return _laid(recipe, presets(_architecture(recipe)))


def _architecture(recipe: Model) -> str:
    return str(at(recipe.to_dict(), "model.architecture"))


def _laid(recipe: M, known: Sequence[Part]) -> list[M]:
    silent = frozenset(silent_paths(recipe))
    if not silent or not known:
        return [recipe]
    return [type(recipe).model_validate(lay(recipe.to_dict(), silent, preset)) for preset in known]


def lay(given: Part, silent: Collection[str], preset: Part) -> Part:
    """A recipe's JSON form with a preset laid into it.

    Args:
        given: The recipe without what it is silent about.
        silent: The paths of what it is silent about.
        preset: The preset.
    """
    result = given
    for path in sorted(silent):
        value = at(preset, path)
        instead = INSTEAD.get(path)
        if value is not None and (instead is None or not _is_given(given, silent, instead)):
            result = with_at(result, path, value)
    for path, value in _adapted(result, given, silent, preset).items():
        result = with_at(result, path, value)
    return result


def _is_given(given: Part, silent: Collection[str], path: str) -> bool:
    return path not in silent and at(given, path) is not None


def _adapted(laid: Part, given: Part, silent: Collection[str], preset: Part) -> dict[str, JsonValue]:
    """What of a preset depends on what was given beside it."""
    result: dict[str, JsonValue] = {}
    if (path := "training.optimizer.learningRate") in silent and (rate := _number(preset, path)) is not None:
        result[path] = _learning_rate(rate, laid, preset)
    if at(given, "model.pretrained.weights") == "None":
        if (path := "training.optimizer.backboneRate") in silent:
            result[path] = 1.0
        for path in ("training.epochs", "training.minSteps"):
            if path in silent and (usual := _number(laid, path)) is not None:
                result[path] = FROM_SCRATCH * round(usual)
    warmup = _number(given, "training.schedule.warmupEpochs")
    if warmup is not None and "training.epochs" in silent:
        epochs = result.get("training.epochs", at(laid, "training.epochs"))
        result["training.epochs"] = max(math.ceil(warmup), epochs if isinstance(epochs, int) else 1)
    size, augmentations = at(given, "input.size"), at(laid, "input.augmentations")
    if "input.augmentations" in silent and isinstance(size, Mapping) and isinstance(augmentations, list):
        result["input.augmentations"] = [_within(item, size) for item in augmentations]
    return result


def _learning_rate(rate: float, laid: Part, preset: Part) -> float:
    """The preset's rate for another optimizer and other steps, rounded to three digits: Krizhevsky, "One weird trick"
    (2014), for Adam as by Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms" (2022)."""
    name = str(at(laid, "training.optimizer.name"))
    ratio = _images(laid) / _images(preset)
    scale = ratio if name == "SGD" else math.sqrt(ratio)
    return float(f"{rate * RATES[name] / RATES[str(at(preset, 'training.optimizer.name'))] * scale:.3g}")


def _images(recipe: Part) -> float:
    """Images that a step goes by."""
    batch = _number(recipe, "training.batchSize") or 1
    return batch * (_number(recipe, "training.gradientAccumulationSteps") or 1)


def _within(item: JsonValue, size: Part) -> JsonValue:
    """An augmentation whose window is no larger than the input."""
    window = at(item, "randomCrop")
    if not isinstance(window, Mapping):
        return item
    sides = {side: min(_number(window, side) or 0, _number(size, side) or 0) for side in ("width", "height")}
    return {"randomCrop": {**window, **{side: round(pixels) for side, pixels in sides.items()}}}


def _number(value: JsonValue | Part, path: str) -> float | None:
    found = at(value, path)
    return float(found) if isinstance(found, int | float) else None
