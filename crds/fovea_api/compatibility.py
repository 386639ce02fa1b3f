"""What a TrainingJob asks for that can never work, found before any work: by the operator and by a run by hand.

The API server refuses what one field or a rule over a few shows. Here is what takes the catalogue of architectures,
the names of the metrics and the Dataset. The trainer holds itself to the same functions.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from pydantic.alias_generators import to_camel

from fovea_api.architectures import (
    FIRST_CHOICE,
    Architecture,
    InvalidOption,
    catalogue,
    configured,
    find,
    read_options,
)
from fovea_api.backbones import PERMISSIVE
from fovea_api.choice import AUTO
from fovea_api.common import Task
from fovea_api.dataset import DatasetSpec
from fovea_api.errors import InvalidInput
from fovea_api.metrics import BY_CLASS, evaluated, monitorable
from fovea_api.presets import with_preset
from fovea_api.trainingjob import Augmentation, Export, Input, Loss, ModelChoice, Recipe, Training, TrainingJobSpec

R = TypeVar("R", bound=Recipe)

SMOOTHED = (Loss.CROSS_ENTROPY, Loss.DICE_CROSS_ENTROPY, Loss.BINARY_CROSS_ENTROPY)
"""Losses of classes that take label smoothing."""
WEIGHTED = (*SMOOTHED, Loss.FOCAL)
"""Losses of classes that take class weights; those of all detectors do."""


SEGMENTATION = (Task.SEMANTIC_SEGMENTATION, Task.INSTANCE_SEGMENTATION)
AUGMENTED_TASKS: Mapping[str, tuple[Task, ...]] = {
    "mix_up": (Task.CLASSIFICATION,),
    "cut_mix": (Task.CLASSIFICATION,),
    "mosaic": (Task.DETECTION, *SEGMENTATION),
    "copy_paste": SEGMENTATION,
}
"""Tasks of the augmentations that are not for all."""


class TaskMismatch(InvalidInput):
    """Architecture and dataset are for different tasks."""


class UnknownMetric(InvalidInput):
    """A metric that is not measured; the message has the nearest ones."""


class UnsuitableLoss(InvalidInput):
    """A loss that the architecture cannot be trained with."""


def incompatibilities(spec: TrainingJobSpec, dataset: DatasetSpec | None = None) -> tuple[InvalidInput, ...]:
    """All that can never work, each with its field and the nearest valid values; `dataset` where it is known."""
    if spec.model.architecture == AUTO:
        return tuple(_wrong_choice(spec, dataset))
    try:
        architecture = configured(find(spec.model.architecture), spec.model.options)
    except InvalidInput as error:
        return (error,)
    if dataset is not None and (mismatch := tuple(wrong_task(architecture, dataset.task))):
        return mismatch  # all else depends on which of the two is right
    return (
        *wrong_weights(architecture, spec.model),
        *wrong_losses(architecture, spec.training),
        *ignored_by_loss(architecture, spec),
        *wrong_sizes(architecture, spec.input),
        *wrong_augmentations(architecture, spec.input),
        *_small_batch(spec),
        *wrong_export(architecture.task, spec.export),
        *wrong_monitored(architecture.task, spec),
        *_wrong_criteria(architecture.task, spec, dataset.classes if dataset is not None else ()),
    )


def candidates(model: ModelChoice, task: Task) -> tuple[str, ...]:
    """The architectures that are compared: those that are named, or all of the task, sorted by name."""
    return model.candidates or tuple(sorted(each.name for each in catalogue().values() if each.task is task))


def as_candidate(recipe: R, architecture: str) -> R:
    """A recipe that leaves its architecture open, with that of a candidate."""
    model = recipe.model.model_copy(update={"architecture": architecture, "candidates": ()})
    return recipe.model_copy(update={"model": model})


def _wrong_choice(spec: TrainingJobSpec, dataset: DatasetSpec | None) -> Iterator[InvalidInput]:
    """What no choice of an architecture can work with. A candidate that is named must suit; one that is not may be left
    out, and none is told of where one suits."""
    if spec.model.options:
        words = "options are those of one architecture"
        yield InvalidOption(words, "spec.model.options", f"remove them, or name the architecture instead of {AUTO}")
        return
    if dataset is None:
        return
    found = {
        name: incompatibilities(as_candidate(spec, name), dataset) for name in candidates(spec.model, dataset.task)
    }
    for index, name in enumerate(spec.model.candidates):
        for problem in found[name]:
            own = problem.location == "spec.model.architecture"
            yield type(problem)(
                problem.message if own else f"candidate {name}: {problem.message}",
                f"spec.model.candidates[{index}]" if own else problem.location,
                problem.remedy,
            )
    if not spec.model.candidates and all(found.values()):
        yield from found[FIRST_CHOICE[dataset.task]]


def _small_batch(spec: TrainingJobSpec) -> Iterator[InvalidInput]:
    """A preset's batch that has no image for each worker; a given one is refused at apply."""
    batch, workers = with_preset(spec.recipe()).training.batch_size, spec.compute.workers
    if batch < workers:
        yield InvalidInput(
            f"the preset's batch of {batch} has no image for each of {workers} workers",
            "spec.training.batchSize",
            f"give {workers} or more, or lower compute.workers",
        )


def wrong_task(architecture: Architecture, task: Task) -> Iterator[InvalidInput]:
    """That an architecture is for another task than the dataset."""
    if architecture.task is not task:
        suited = sorted(each.name for each in catalogue().values() if each.task is task)
        yield TaskMismatch(
            f"{architecture.name} is for {architecture.task}, the dataset for {task}",
            "spec.model.architecture",
            f"use one of {', '.join(suited)}, or another dataset",
        )


def wrong_weights(architecture: Architecture, model: ModelChoice) -> Iterator[InvalidInput]:
    """Published weights that an architecture, or it with these options, does not have."""
    published, place = model.pretrained.weights or "None", "spec.model.pretrained.weights"
    whole = architecture.coco if published == "COCO" else None
    if published not in architecture.weights:
        remedy = f"use one of {', '.join(architecture.weights)}, or uri"
        if whole is not None:
            remedy = f"with these options {remedy}; those of COCO take {whole.needed}"
        yield InvalidOption(f"{architecture.name} has no {published} weights", place, remedy)
    elif published != "None":
        options = read_options(architecture, model.options)
        defaults = {option.name: option.default for option in architecture.options}
        if changed := [name for name in architecture.fixed_by_weights if options[name] != defaults[name]]:
            words = " and ".join(changed)
            yield InvalidOption(
                f"there are no published weights of {architecture.name} for another {words}",
                place,
                f"set weights: None, or leave {words} at the default",
            )
        licence = architecture.weights_licence if whole is None else whole.licence
        if licence not in PERMISSIVE and model.accept_licence != licence:
            yield InvalidOption(
                f"the published weights of {architecture.name} have the licence {licence}, which may restrict use",
                "spec.model.acceptLicence",
                f"set it to {licence}, or choose other weights",
            )


def wrong_losses(architecture: Architecture, training: Training) -> Iterator[InvalidInput]:
    """Named losses that an architecture cannot be trained with."""
    places: list[tuple[str, Loss]] = [
        (f"spec.training.losses[{index}].name", term.name) for index, term in enumerate(training.losses)
    ]
    if training.loss is not Loss.DEFAULT:
        places.append(("spec.training.loss", training.loss))
    for place, loss in places:
        if loss not in architecture.losses:
            default = "Default or " if place == "spec.training.loss" else ""
            yield UnsuitableLoss(
                f"{architecture.name} cannot be trained with the loss {loss}",
                place,
                f"use {default}one of {', '.join(architecture.losses)}",
            )
    if training.losses and len(architecture.losses) == 1:
        yield UnsuitableLoss(f"{architecture.name} has a single loss", "spec.training.losses", "remove it")


def chosen_losses(architecture: Architecture, training: Training, focal: bool) -> Mapping[Loss, float]:
    """The losses of a recipe with their weights, where they are suitable; `focal`: balance FocalLoss."""
    known = architecture.losses
    if training.losses:
        return {term.name: term.weight for term in training.losses}
    if training.loss is Loss.DEFAULT:
        return {Loss.FOCAL if focal and Loss.FOCAL in known else Loss(known[0]): 1.0}
    return {training.loss: 1.0}


def ignored_by_loss(architecture: Architecture, recipe: Recipe) -> Iterator[InvalidInput]:
    """Options of the recipe that would have no effect with its loss, where the loss itself is suitable."""
    detector, known, balance = architecture.task.finds_objects, architecture.losses, recipe.input.balance
    losses = chosen_losses(architecture, recipe.training, balance == "FocalLoss")
    words = " + ".join(losses)
    what = architecture.name if detector else f"the loss {words}"
    focal = architecture.focal if detector else Loss.FOCAL in losses
    if balance == "FocalLoss" and not focal:
        possible = Loss.FOCAL in known and not detector
        remedy = "leave training.loss at Default, or set it to Focal" if possible else "use Oversample or Undersample"
        trained = f"is trained with {words}" if possible else "has no focal loss"
        yield UnsuitableLoss(f"{architecture.name} {trained}", "spec.input.balance", remedy)
    if balance == "ClassWeights" and not detector and not set(losses) & set(WEIGHTED):
        remedy = "use Oversample or Undersample" + _or_another(architecture, WEIGHTED)
        yield UnsuitableLoss(f"{what} takes no class weights", "spec.input.balance", remedy)
    if recipe.training.label_smoothing and (detector or not set(losses) & set(SMOOTHED)):
        remedy = "set it to 0" + _or_another(architecture, SMOOTHED)
        yield UnsuitableLoss(f"{what} takes no label smoothing", "spec.training.labelSmoothing", remedy)


def _or_another(architecture: Architecture, suited: tuple[str, ...]) -> str:
    others = [name for name in architecture.losses if name in suited and not architecture.task.finds_objects]
    return f", or use the loss {' or '.join(others)}" if others else ""


def wrong_sizes(architecture: Architecture, given: Input) -> Iterator[InvalidInput]:
    """Sizes of the input or of random windows that an architecture cannot take."""
    sizes = [("spec.input.size", given.size)] + [
        (f"spec.input.augmentations[{index}].randomCrop", item.random_crop)
        for index, item in enumerate(given.augmentations)
    ]
    step = architecture.multiple
    if architecture.fixed_size:
        own = f"{architecture.width} x {architecture.height}"
        wrong = [(place, f"{size.width} x {size.height}") for place, size in sizes if size is not None]
        if given.size is None and given.sizing is not None:
            wrong.append(("spec.input.sizing", "a size by the dataset"))
        for place, words in wrong:
            if words != own:
                yield InvalidOption(f"{architecture.name} takes inputs of {own} only, not {words}", place, f"use {own}")
        return
    for place, size in sizes:
        if size is not None and (size.width % step or size.height % step):
            near = " x ".join(str(max(step, round(pixels / step) * step)) for pixels in (size.width, size.height))
            yield InvalidOption(
                f"{architecture.name} needs sides that are multiples of {step}, not {size.width} x {size.height}",
                place,
                f"the nearest is {near}",
            )


def wrong_augmentations(architecture: Architecture, given: Input) -> Iterator[InvalidInput]:
    """Augmentations that do not suit the task, the architecture or each other."""
    place, task = "spec.input.augmentations", architecture.task
    fields = [field for item in given.augmentations for field in Augmentation.exactly_one if getattr(item, field)]
    for index, field in enumerate(fields):
        name, at = to_camel(field), f"{place}[{index}].{to_camel(field)}"
        if task not in AUGMENTED_TASKS.get(field, (task,)):
            yield InvalidOption(f"{name} is not for {task}", at, f"it is for {' and '.join(AUGMENTED_TASKS[field])}")
        elif field == "multi_scale" and architecture.fixed_size:
            yield InvalidOption(f"{architecture.name} takes inputs of one size", at, "remove it")
        elif field == "multi_scale" and index < len(fields) - 1:
            yield InvalidOption("an augmentation follows that does not know the new size", at, "put it last")
        elif field == "random_resized_crop" and (others := {"random_crop", "mosaic"} & set(fields)):
            words = " and ".join(to_camel(other) for other in sorted(others))
            yield InvalidOption(f"{words} take the picture at another scale", at, f"remove it, or {words}")


def wrong_export(task: Task, export: Export) -> Iterator[InvalidInput]:
    """What is not written for a task."""
    if export.nms and task not in (Task.DETECTION, Task.INSTANCE_SEGMENTATION):
        yield InvalidOption(f"non-maximum suppression is not for {task}", "spec.export.nms", "remove it")


def wrong_monitored(task: Task, recipe: Recipe) -> Iterator[InvalidInput]:
    """Metrics to monitor that are not measured after an epoch."""
    primary, stopping, known = recipe.evaluation.primary_metric, recipe.training.early_stopping, monitorable(task)
    if primary is not None and f"validation/{primary}" not in known:
        names = [name.partition("/")[2] for name in known]
        yield _unknown(primary, "after an epoch", "spec.evaluation.primaryMetric", names)
    if stopping is not None and stopping.metric not in known:
        yield _unknown(stopping.metric, "after an epoch", "spec.training.earlyStopping.metric", known)


def _wrong_criteria(task: Task, spec: TrainingJobSpec, classes: tuple[str, ...]) -> Iterator[InvalidInput]:
    """Success criteria on what an evaluation does not measure. The classes are checked where the Dataset names them."""
    for index, criterion in enumerate(spec.success_criteria):
        place = f"spec.successCriteria[{index}].metric"
        wrong = unmeasured(criterion.metric, place, task, spec.evaluation.splits, spec.evaluation.slices, classes)
        if wrong is not None:
            yield wrong


def unmeasured(
    metric: str, place: str, task: Task, splits: Sequence[str], slices: Sequence[str], classes: Sequence[str]
) -> UnknownMetric | None:
    """That a metric is none of those which an evaluation of these splits gives; None: it is one.

    `classes`: those of the Dataset, none where they are not known.
    """
    known = list(evaluated(task, splits, slices))
    prefixes = [f"{split}/{name}" for split in splits for name in BY_CLASS.get(task, ())]
    prefix, of_a_class, name = _parted(metric)
    if not of_a_class and metric not in known:
        return _unknown(metric, "by this job", place, [*known, *(f"{each}/<class>" for each in prefixes)])
    if of_a_class and prefix not in prefixes:
        return _unknown(metric, "by this job", place, [f"{each}/{name}" for each in prefixes])
    if of_a_class and classes and name not in classes:
        return _unknown(metric, "by this job", place, [f"{prefix}/{each}" for each in classes])
    return None


def _parted(metric: str) -> tuple[str, str, str]:
    """`test/AP/car` as `test/AP`, `/`, `car`; without a class the last two are empty."""
    split, _, rest = metric.partition("/")
    name, slash, of_class = rest.partition("/")
    return f"{split}/{name}", slash, of_class


def _unknown(metric: str, when: str, place: str, known: Iterable[str]) -> UnknownMetric:
    names = list(known)
    near = difflib.get_close_matches(metric, names, n=3, cutoff=0.6)
    remedy = f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(names)}"
    return UnknownMetric(f"{metric} is not measured {when}", place, remedy)
