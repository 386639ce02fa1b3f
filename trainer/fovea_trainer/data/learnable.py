"""Whether there is something to learn in what was read: objects, more than one class, images in every split."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from fovea_api.common import Task
from fovea_api.dataset import Format, Recipe
from fovea_api.errors import InvalidInput

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.splits import SPLITS
from fovea_trainer.data.statistics import Statistics

SHOWN_NAMES = 10
SIMILAR = 0.75
"""Ratio of matching characters (difflib) from which a name may be a slip of the pen for another."""
GROUND = "background"
"""The class of pixels that belong to no object: that it has none is no fault."""


def refuse_unlearnable(
    recipe: Recipe, statistics: Statistics, unknown: Mapping[str, int], causes: Sequence[Finding]
) -> None:
    """Raises InvalidInput where a model could learn nothing, or not what was asked for.

    Args:
        recipe: The Dataset's recipe.
        statistics: Of the images of the version.
        unknown: How often the labels name each class that the recipe does not have.
        causes: Findings that may explain why there is nothing, the likeliest first.
    """
    if statistics.annotations == 0:
        if unknown:
            raise unknown_classes(recipe, unknown)
        why = f": {'; '.join(map(str, causes[:2]))}" if causes else ""
        raise InvalidInput(
            f"none of {statistics.images} images shows an object, so there is nothing to learn{why}",
            "spec.sources",
            causes[0].advice if causes else _nothing_remedy(recipe, statistics),
        )
    for name in _without_images(statistics):
        if near := similar(name, unknown):
            raise InvalidInput(
                f"the class {name!r} has no image, while {unknown[near]} labels say {near!r}",
                "spec.classes",
                f"did you mean {near}? Correct classes, or rename by classMap",
            )
    if recipe.task == Task.SEMANTIC_SEGMENTATION and len(shown := _with_pixels(recipe, statistics)) == 1:
        raise InvalidInput(
            f"all labelled pixels are of the class {shown[0]}, so there is nothing to tell apart{_ignored(statistics)}",
            "spec.sources",
            _mask_remedy(recipe, statistics),
        )


def unknown_classes(recipe: Recipe, unknown: Mapping[str, int]) -> InvalidInput:
    """The error for labels that are all of classes that the recipe does not have."""
    return InvalidInput(
        f"no label is of the classes {_list(recipe.classes)}; the labels say {_counted(unknown)}",
        "spec.classes",
        f"did you mean [{_list(_meant(recipe.classes, unknown))}]? Correct classes, or rename by classMap",
    )


def class_findings(recipe: Recipe, statistics: Statistics) -> Iterator[Finding]:
    """What is missing for a model of all classes: images of a class at all, or in train; a second class."""
    for name in _without_images(statistics):
        ignored, remedy = "", ""
        if recipe.task == Task.SEMANTIC_SEGMENTATION and (ignored := _ignored(statistics)):
            remedy = _mask_remedy(recipe, statistics)
        message = f"no image shows the class {name}{ignored}"
        yield Finding(FindingKind.CLASS_WITHOUT_IMAGES, "spec.classes", message, remedy, name)
    by_letters: dict[str, list[str]] = defaultdict(list)
    for name in statistics.classes:
        by_letters[_letters(name)].append(name)
    for letters, names in by_letters.items():
        if letters and len(names) > 1 and not recipe.classes:
            message = f"the classes {_list(names)} differ in case and signs only"
            yield Finding(FindingKind.NAMES_DIFFER, "spec.classes", message, "make them one by classMap", names[0])
    shown = [index for index, summary in enumerate(statistics.class_summaries()) if summary.images]
    for index in shown:
        if statistics.splits["train"] and not statistics.class_images["train"][index]:
            places = [split for split in SPLITS if statistics.class_images[split][index]]
            message = f"no train image shows the class {statistics.classes[index]}, which is in {' and '.join(places)}"
            yield Finding(FindingKind.CLASS_NOT_IN_TRAIN, "train", message, subject=statistics.classes[index])
    for alike in _same_but_for_case([statistics.classes[index] for index in shown]):
        message = f"the classes {' and '.join(alike)} differ in upper and lower case only"
        remedy = f"If they are one, set classMap: {{{', '.join(f'{name}: {alike[-1]}' for name in alike[:-1])}}}"
        yield Finding(FindingKind.CLASSES_ALIKE, "spec.classes", message, remedy)
    if recipe.task == Task.CLASSIFICATION and len(shown) == 1:
        message = f"all {statistics.images} images are of the class {statistics.classes[shown[0]]}"
        yield Finding(FindingKind.SINGLE_CLASS, "spec.classes", message)


def _same_but_for_case(names: Sequence[str]) -> list[list[str]]:
    by_key: dict[str, list[str]] = {}
    for name in names:
        by_key.setdefault(" ".join(name.casefold().split()), []).append(name)
    return [sorted(alike) for alike in by_key.values() if len(alike) > 1]


def split_findings(recipe: Recipe, statistics: Statistics) -> Iterator[Finding]:
    """Splits that should have images and have none."""
    splits = recipe.splits
    for split in SPLITS:
        expected = splits.method == "FromSource" or getattr(splits.ratios, split) > 0
        if expected and not statistics.splits[split]:
            carve = "set splits.validationFromTrain to take a share of train, or " if split == "validation" else ""
            remedy = f"{carve}add images to it" if splits.method == "FromSource" else ""
            yield Finding(FindingKind.EMPTY_SPLIT, split, f"no image is in {split}", remedy, split)


def similar(name: str, others: Mapping[str, int]) -> str | None:
    """The name among others that may be meant: the same but for case and signs, or nearly the same."""
    by_letters = {_letters(other): other for other in sorted(others, key=lambda other: (others[other], other))}
    if not (letters := _letters(name)):
        return None
    near = difflib.get_close_matches(letters, by_letters, 1, SIMILAR)
    return by_letters[near[0]] if near else None


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _meant(classes: Sequence[str], unknown: Mapping[str, int]) -> list[str]:
    """The labels' names in the order of the classes that they resemble, else all of them by how often they occur."""
    near = [similar(name, unknown) for name in classes]
    if all(near) and len(set(near)) == len(near):
        return [name for name in near if name]
    return sorted(unknown, key=lambda name: (-unknown[name], name))


def _without_images(statistics: Statistics) -> list[str]:
    return [each.name for each in statistics.class_summaries() if not each.images and each.name != GROUND]


def _with_pixels(recipe: Recipe, statistics: Statistics) -> list[str]:
    """Classes that pixels have. Around the regions of formats without mask files lies the ground, if it is a class."""
    around = any(source.layout not in (None, Format.MASKS) for source in recipe.sources)
    return [each.name for each in statistics.class_summaries() if each.images or (around and each.name == GROUND)]


def _ignored(statistics: Statistics) -> str:
    if not statistics.ignored_pixels:
        return ""
    share = statistics.ignored_pixels / (statistics.ignored_pixels + statistics.class_pixels.total())
    return f", and {share:.1%} of the pixels are 'ignore' (255) or of no class"


def _mask_remedy(recipe: Recipe, statistics: Statistics) -> str:
    if not any(source.layout == Format.MASKS for source in recipe.sources):
        return f"add {GROUND} to classes: what no region covers is of that class"
    missing = _without_images(statistics)
    if (
        any(source.mask_values or source.mask_colors for source in recipe.sources)
        or not statistics.ignored_pixels
        or not missing
    ):
        return "check the masks, classes and maskValues"
    values = ", ".join(f"{name}: {255 if name == missing[0] else index}" for index, name in enumerate(recipe.classes))
    return f"255 means 'ignore' unless a class has it: give the source maskValues, such as {{{values}}}"


def _nothing_remedy(recipe: Recipe, statistics: Statistics) -> str:
    if recipe.task == Task.SEMANTIC_SEGMENTATION:
        return _mask_remedy(recipe, statistics)
    return "check that the labels lie where the format has them"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES]) + (", …" if len(names) > SHOWN_NAMES else "")


def _counted(names: Mapping[str, int]) -> str:
    ordered = sorted(names, key=lambda name: (-names[name], name))
    return _list([f"{name} ({names[name]} times)" for name in ordered])
